"""What is split, as data. One plan per architecture; `engine.py` is the how.

A worked example, Flux: its double blocks take image tokens `img` and text tokens `txt` apart, its single blocks take
`x`, text before image. Every rank holds its share of both; rotary positions `pe` cover text and image along dim 2. The
image comes together again where the final layer, which works token by token, hands out its result:

    Plan(
        model="comfy.ldm.flux.model.Flux",
        blocks=(
            Blocks("double_blocks", tokens={"img": ("img",), "txt": ("txt",)}, returns=(("img",), ("txt",)), ...),
            Blocks("single_blocks", tokens={"x": ("txt", "img")}, returns=(("txt", "img"),), ...),
        ),
        gather=Gather("final_layer", ("img",)),
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Segments = tuple[str, ...]


@dataclass(frozen=True)
class Positions:
    """An argument indexed by token position along `dim`, covering `segments` in this order."""

    segments: Segments
    dim: int


@dataclass(frozen=True)
class Blocks:
    """The blocks of one ModuleList at `path`.

    tokens: forward argument → the segments it holds along dim 1 (B, L, C).
    positions: forward argument → positional tensor, cut the same way.
    ranges: forward argument → segments, for lists of (start, end, index) over these segments.
    masks: forward arguments that hold attention masks over all tokens; they stay whole (the attention cuts them).
    attention: the order of segments in the blocks' q, k and v.
    """

    path: str
    tokens: Mapping[str, Segments]
    attention: Segments
    positions: Mapping[str, Positions] = field(default_factory=dict)
    ranges: Mapping[str, Segments] = field(default_factory=dict)


@dataclass(frozen=True)
class Gather:
    """The module at `path` works token by token; its output holds `segments` along dim 1 and is made whole."""

    path: str
    segments: Segments
    ranges: Mapping[str, Segments] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How one architecture is sharded along its tokens.

    model: the class, as module.qualname; a subclass is another architecture.
    heads: attribute of the model that holds the number of attention heads.
    residuals: ControlNet output list → the segment whose first rows it is added to.
    safe_patches: names under transformer_options["patches"] that run outside the blocks, on whole tensors.
    """

    model: str
    blocks: tuple[Blocks, ...]
    gather: Gather
    heads: str = "num_heads"
    residuals: Mapping[str, str] = field(default_factory=dict)
    safe_patches: frozenset[str] = frozenset()


def class_path(obj: object) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"
