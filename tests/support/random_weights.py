"""Random weights for a module's shapes: fixed seeds, never zero, scaled so that activations stay of order one."""

import zlib

import torch

REPEATED = 4_194_301  # values of repeated_weights; a prime, so that no two rows of a matrix are alike
FP8 = torch.float8_e5m2  # a CPU turns it into fp32 twice as fast as e4m3


def random_weights(module: torch.nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random values for every parameter of a module on `meta`.

    Matrices and kernels: normal / sqrt(fan in). Norm weights: around one. Biases and the like: 0.1 × normal.
    """
    return {name: random_tensor(name, value.shape, seed).to(dtype) for name, value in module.state_dict().items()}


def random_tensor(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """Depends on `name` and `seed` only, so models with blocks added keep the weights that they share."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))  # 32 bits count on a CPU
    value = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return value / shape[1:].numel() ** 0.5
    return 1 + 0.1 * value if name.endswith(("weight", "scale")) else 0.1 * value


def repeated_weights(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """random_weights in fp8 for modules of a billion parameters: matrices take their values in turn from one list."""
    values = torch.randn(REPEATED, generator=torch.Generator().manual_seed(seed))
    return {name: _repeated(name, value.shape, values, seed) for name, value in module.state_dict().items()}


def _repeated(name: str, shape: torch.Size, values: torch.Tensor, seed: int) -> torch.Tensor:
    if len(shape) < 2:
        return random_tensor(name, shape, seed).to(FP8)
    few = (values / shape[1:].numel() ** 0.5).to(FP8).view(torch.uint8)
    few = few.roll(zlib.crc32(name.encode()) % REPEATED)
    count = shape.numel()
    return few.repeat(-(-count // REPEATED))[:count].reshape(shape).clone().view(FP8)


def lora_weights(shapes: dict[str, torch.Size], where: str, rank: int, seed: int) -> dict[str, torch.Tensor]:
    """A LoRA on every matrix that has `where` in its name."""
    lora = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and where in name:
            target = f"diffusion_model.{name.removesuffix('.weight')}"
            for part, size in (("lora_up", (shape[0], rank)), ("lora_down", (rank, shape[1]))):
                key = f"{target}.{part}.weight"
                lora[key] = random_tensor(key, torch.Size(size), seed)
            lora[f"{target}.alpha"] = torch.tensor(float(rank) / 4)
    return lora
