"""How the compiler makes kernels of norms: in one pass over a row, also where it would read the row twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V

if TYPE_CHECKING:
    from torch._inductor.codegen.simd_kernel_features import SIMDKernelFeatures

WIDEST = {ReductionHint.INNER: 4096}  # numbers in a row that lies together in memory: of a model's width
NARROW = 256  # of a head
WARP = 32  # threads
EACH = 8  # numbers of a tensor that a thread has of narrow rows


class OnePass(InductorChoices):
    """On an H100 layer norms over 3072 channels and RMS norms of heads take a third to a half of the time by it, and
    compiling takes no longer (benchmarks/NOTES.md).
    """

    @staticmethod
    def should_use_persistent_reduction(features: SIMDKernelFeatures, cooperative_reduction: bool) -> bool:
        widest = WIDEST.get(features.get_reduction_hint(), NARROW)
        if not cooperative_reduction and V.graph.sizevars.statically_known_leq(features.reduction_numel, widest):
            return True
        return InductorChoices.should_use_persistent_reduction(features, cooperative_reduction)

    def triton_kernel_kwargs(
        self, kernel_cls: type, features: SIMDKernelFeatures, groups: list, kernel_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """For several norms of narrow rows in one kernel, those of queries and keys with what follows (rotary
        positions): as many rows for a warp as give its threads enough to do. The compiler has a row for two warps
        there, which takes half as long again.
        """
        from torch._inductor.codegen.triton import FixedTritonConfig  # which wants Triton, as the caller has it

        length = features.reduction_numel
        if (
            len(features.reduction_nodes()) < 2
            or features.get_reduction_hint(kernel_kwargs.get("tiling_scores")) is not ReductionHint.INNER
            or kernel_kwargs.get("mix_order_reduction")
            or set(groups[0]) != {"x", "r0_"}
            or not length.is_Integer
            or length > NARROW
        ):
            return kernel_kwargs
        rows = max(1, WARP * EACH // (1 << (int(length) - 1).bit_length()))
        return {
            **kernel_kwargs,
            "fixed_config": FixedTritonConfig({"XBLOCK": rows, "num_warps": 1, "num_stages": 1}),
        }
