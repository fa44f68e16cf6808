"""How the compiler makes kernels of norms: in one pass over a row, also where it would read the row twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V

if TYPE_CHECKING:
    from torch._inductor.codegen.simd_kernel_features import SIMDKernelFeatures

WIDEST = {ReductionHint.INNER: 4096}  # numbers in a row that lies together in memory: of a model's width
NARROW = 256  # of a head


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
