"""The shape of FLUX.1-dev, and a tiny one of the same kind; one image of a size, text of a number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

PIXELS_PER_TOKEN = 16  # along one side: the VAE's 8, patches of 2


@dataclass(frozen=True)
class Shape:
    heads: int = 24
    head: int = 128
    double: int = 19
    single: int = 38
    context: int = 4096
    pooled: int = 768
    text: int = 512

    @property
    def axes(self) -> tuple[int, int, int]:
        """How a head's rotary positions are divided over time, height and width."""
        sides = (self.head - self.head // 8) // 2
        return self.head // 8, sides, sides


FLUX_DEV = Shape()
TINY = Shape(heads=4, head=128, double=1, single=2, context=64, pooled=32, text=16)
