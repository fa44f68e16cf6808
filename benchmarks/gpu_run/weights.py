"""Model files of any shapes with random bf16 weights, made on the device and written by several threads.

The rules for random values are those of the tiny test models: never zero, activations of order one.
"""

import json
import shutil
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

BYTES = 2  # bf16
WRITERS = 8
ROOM = 1.1


def random_tensor(name: str, shape: torch.Size, seed: int, device: str) -> torch.Tensor:
    """Matrices and kernels: normal / sqrt(fan in). Norm weights: around one. Biases: 0.1 × normal."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    value = torch.randn(shape, generator=generator, device=device)
    if len(shape) >= 2:
        return value / shape[1:].numel() ** 0.5
    return 1 + 0.1 * value if name.endswith(("weight", "scale")) else 0.1 * value


def file_bytes(shapes: dict[str, torch.Size]) -> int:
    """Size of the tensors of a file."""
    return sum(shape.numel() for shape in shapes.values()) * BYTES


def write_random(
    path: Path, shapes: dict[str, torch.Size], seed: int, device: str, metadata: dict[str, str] | None = None
) -> int:
    """Write a safetensors file of random bf16 tensors; gives its size in bytes. There must be room for it."""
    header, begins, end = {"__metadata__": metadata} if metadata else {}, {}, 0
    for name, shape in shapes.items():
        begins[name], end = end, end + shape.numel() * BYTES
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begins[name], end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    start = 8 + len(head)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(start + end)
    # Mapped, because writes to one file of a tmpfs wait for each other.
    mapped = np.memmap(partial, np.uint8, "r+", offset=start, shape=(end,))

    def write(name: str) -> None:
        value = random_tensor(name, shapes[name], seed, device).to(torch.bfloat16).cpu().view(-1).view(torch.uint8)
        mapped[begins[name] : begins[name] + value.numel()] = value.numpy()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, shapes))
    if device == "cuda":
        torch.cuda.empty_cache()
    partial.rename(path)
    return start + end


def working_directory(needed: int) -> Path:
    """A new directory with room for `needed` bytes: in memory where it fits, else in the usual temporary directory."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > needed * ROOM
    return Path(tempfile.mkdtemp(prefix="xdit-benchmark-", dir=memory if fits else None))
