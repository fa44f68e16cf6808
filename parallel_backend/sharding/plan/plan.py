"""What is split, as data. One plan per architecture; `engine.py` is the how.

A worked example, Flux: its double blocks take image tokens `img` and text tokens `txt` apart, its single blocks take
`x`, text before image. Every rank holds its share of both. Rotary positions `pe` cover text and image along dim 2. The
image comes together again where the final layer, which works token by token, hands out its result:

    Plan(
        model="comfy.ldm.flux.model.Flux",
        blocks=(
            Blocks("double_blocks", {"img": Tokens("img"), "txt": Tokens("txt"), "pe": Positions(("txt", "img"), 2)},
                   attention=("txt", "img"), returns=(("img",), ("txt",))),
            Blocks("single_blocks", {"x": Tokens("txt", "img"), "pe": Positions(("txt", "img"), 2)},
                   attention=("txt", "img"), returns=(("txt", "img"),)),
        ),
        gathers=(Gather("final_layer", ("img",)),),
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from .argument_kinds import Argument
from .token_layout import Segments


@dataclass(frozen=True)
class Blocks:
    """The blocks of the ModuleList (or the one module) at `path`.

    arguments: forward argument → how it is cut for this rank; arguments not named stay as they are.
    attention: the order of segments in the blocks' q, k and v.
    returns: per output (a tuple of outputs, or the only one) its segments along dim 1, or None for no tokens.
    mask: attention masks that reach the attention cover "whole" sequences, or this rank's "local" keys only.
    local: submodules of a block, by name, whose attention stays local (cross-attention to a replicated context).
    local_queries: those of `local` whose queries every rank has whole, too.
    gather_keys: submodules whose queries every rank has whole, while their keys are split: the keys are made whole.
    then: the segments of the block's second attention call, third, ..., where they are not those of the first.
    signature: "module:function" whose parameters the block takes, for a forward(*args, **kwargs) that hands them on.
    once: argument that is the same whatever tokens the block gets → submodules, if the block has them, that compute
    from it alone (modulations): run once for all patches, and by one of the ranks that share a sequence.
    once_unless: argument → which of these, where it is given, get another input.
    """

    path: str
    arguments: Mapping[str, Argument]
    attention: Segments
    returns: tuple[Segments | None, ...]
    mask: str = "whole"
    local: tuple[str, ...] = ()
    local_queries: tuple[str, ...] = ()
    gather_keys: tuple[str, ...] = ()
    then: tuple[Segments, ...] = ()
    signature: str = ""
    once: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    once_unless: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self):
        if cut := self.once.keys() & self.arguments.keys():
            raise ValueError(
                f"{self.path}: {', '.join(cut)} is cut for each rank, so nothing computed from it is shared"
            )


@dataclass(frozen=True)
class Gather:
    """The module at `path` works token by token; its output holds `segments` along dim 1 and is made whole.

    `path` may be a block ("layers.-1": the last of a list). arguments: as in Blocks.
    front: segments before `segments` in the output that stay this rank's share: the model cuts them off by the length
    that it saw.
    Of several outputs it is the first; the model drops the others.
    """

    path: str
    segments: Segments
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    front: Segments = ()


@dataclass(frozen=True)
class Undivided:
    """The modules at `path` mix tokens in a way that is not attention over all of them (each frame by itself, say).

    Each rank runs them on all `segments`: `argument` is made whole, the output is cut again. "*" in the path stands for
    every module of a list.
    """

    path: str
    argument: str
    segments: Segments


GRID: Final = "grid"
TokenDim = int | Literal["grid"]


@dataclass(frozen=True)
class InnerPatch:
    """What the model calls a patch inside its blocks with: tensors first, or one dict.

    tokens: tensor, in the order of the call → the dim of its tokens, GRID where time, height and width are dims of
    their own, None where it holds none of the blocks' tokens (a context).
    whole: other arguments → the block's argument of which each is this rank's share.
    """

    tokens: Mapping[str, TokenDim | None]
    whole: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How one architecture is sharded along its tokens.

    model: the class, as module.qualname; a subclass is another architecture.
    heads: dotted path from the model to its number of attention heads.
    residuals: ControlNet output list → the segment whose first rows it is added to.
    whole_patches: names under transformer_options["patches"] that run where tokens are whole even in persist mode.
    between_patches: names that run between blocks; they get whole tokens in block mode.
    inner_patches: names that run inside the blocks, each called with whole tokens.
    attention_globals: "module:name" of attention functions that the model calls without transformer_options.
    undivided: modules that every rank runs on all tokens.
    persist: False where code between blocks needs whole tokens: always block mode.
    block_inputs: inputs of the model with which that is so.
    stages: the blocks, by path and in the order in which they run, that PipeFusion may divide; each takes what the one
    before it returns. Empty: it cannot.
    once: what is run once for all patches outside these blocks: modules, if the model has them, methods of the model,
    "module:name" of functions. What they give is the same whatever the patch, and each patch writes into its own
    tokens of it at most.
    ring_of_two: attention takes no masks, and was measured to be faster by a ring than by Ulysses on two GPUs that
    write into each other's memory (benchmarks/NOTES.md).
    graphs: the forward launches kernels only, by its tensors' shapes: a CUDA graph of it can be replayed.
    """

    model: str
    blocks: tuple[Blocks, ...]
    gathers: tuple[Gather, ...]
    heads: str = "num_heads"
    residuals: Mapping[str, str] = field(default_factory=dict)
    whole_patches: frozenset[str] = frozenset({"post_input"})
    between_patches: frozenset[str] = frozenset({"double_block", "single_block"})
    inner_patches: Mapping[str, InnerPatch] = field(default_factory=dict)
    attention_globals: tuple[str, ...] = ()
    undivided: tuple[Undivided, ...] = ()
    persist: bool = True
    block_inputs: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    ring_of_two: bool = False
    graphs: bool = False


def class_path(obj: object) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def heads_of(plan: Plan, model: object) -> int:
    """The number of attention heads of `model`."""
    value: Any = model
    for name in plan.heads.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value
