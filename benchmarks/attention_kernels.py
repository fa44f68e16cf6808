"""The attention kernels that the ranks choose from, on one GPU: TFLOP/s in bf16, and the error against fp32.

    python benchmarks/attention_kernels.py --json FILE

Needs torch only, and FlashAttention 3 where its column is wanted (pip install fa3-fwd, a Hopper GPU). The figures of
one run compare; those of two GPUs, or of a GPU that does something else meanwhile, do not.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from direct.pack import import_pack

import_pack()

from xdit_comfyui.parallel_backend.rank.attention.fastest_kernel import seconds_on_gpu  # noqa: E402
from xdit_comfyui.parallel_backend.rank.attention.kernel_trials import CALLS, Attention, flash3_on  # noqa: E402
from xdit_comfyui.parallel_backend.sharding.attention.flash3 import Flash3  # noqa: E402

ROUNDS = 3  # the fastest counts
CHECKED_ROWS = 256  # queries that are held against fp32


@dataclass(frozen=True)
class Case:
    what: str
    heads: int
    queries: int
    keys: int
    size: int = 128

    @property
    def operations(self) -> int:
        return 4 * self.heads * self.queries * self.keys * self.size


CASES = [
    Case("Flux 1024², one GPU", 24, 4608, 4608),
    Case("Flux 1024², ulysses 2", 12, 4608, 4608),
    Case("Flux 1024², a chunk of ring 2", 24, 2304, 2304),
    Case("Flux 1024², a patch of 4 by PipeFusion", 24, 1152, 4608),
    Case("Flux 2048², one GPU", 24, 16896, 16896),
    Case("Flux 2048², a chunk of ring 2", 24, 8448, 8448),
    Case("Flux 2048², a patch of 4 by PipeFusion", 24, 4224, 16896),
    Case("Wan 14B 480p, one GPU", 40, 32760, 32760),
    Case("SDXL 1024², the inner blocks", 20, 1024, 1024, 64),
]


def kernels(device: torch.device) -> dict[str, Attention]:
    found = {name: CALLS[name] for name in ("cudnn", "flash")}
    flash3 = flash3_on(device)
    if not isinstance(flash3, Flash3):
        print(f"FlashAttention 3: {flash3}", flush=True)
        return found
    return {"flash3": CALLS["flash3"], **found}


def measured(case: Case, attention: Attention, device: torch.device) -> dict[str, float]:
    """TFLOP/s, and the relative error of the first rows."""
    generator = torch.Generator(device).manual_seed(0)

    def tokens(length: int) -> torch.Tensor:
        """[1, H, L, D], in memory as the compiled blocks leave it."""
        shape = (1, length, case.heads, case.size)
        return torch.randn(shape, generator=generator, device=device).to(torch.bfloat16).transpose(1, 2)

    q, k, v = tokens(case.queries), tokens(case.keys), tokens(case.keys)
    seconds = min(seconds_on_gpu(lambda: attention(q, k, v)) for _ in range(ROUNDS))
    few = slice(0, CHECKED_ROWS)
    exact = torch.nn.functional.scaled_dot_product_attention(q[:, :, few].float(), k.float(), v.float())
    error = (attention(q, k, v)[:, :, few].float() - exact).norm() / exact.norm()
    return {"tflops": case.operations / seconds / 1e12, "error": error.item()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU that torch can use")
    device = torch.device("cuda", 0)
    here, rows = kernels(device), []
    for case in CASES:
        found = {name: measured(case, attention, device) for name, attention in here.items()}
        rows.append({**asdict(case), "kernels": found})
        shown = "  ".join(f"{name} {one['tflops']:4.0f} ({one['error']:.2e})" for name, one in found.items())
        print(f"{case.what:<42}{shown}", flush=True)
    if options.json:
        machine = {"gpu": torch.cuda.get_device_name(device), "torch": torch.__version__}
        machine["cudnn"] = torch.backends.cudnn.version()
        options.json.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
