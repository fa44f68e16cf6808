"""One diffusion model as a pipeline of stages, for the time of one request."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_leaves

from ..arguments import Tokens
from ..call import Call
from ..engine import ShardedModel
from ..errors import ShardingError
from ..modules import argument_names, bind, blocks_at, module_at
from ..patches import Mode, replaced_blocks
from .handover import Pipe
from .keys_values import ConditionCache, Memory
from .stages import StagedBlock, stage_spans, staged_blocks

OPTIONS = "transformer_options"
PATCH_TOKENS = 512  # a patch much smaller leaves a GPU idle within its kernels
MOST_PATCHES = 8
GIB = 2**30


class PatchDone(Exception):
    """This stage has done its part for a patch; what follows in the model's forward is not needed."""


@dataclass
class Schedule:
    """How a request flows: `patches` (0: by size), `warmup` steps computed exactly, out of `steps` (None: not known,
    then evaluations are counted). `exact`: why every call must be computed exactly, or "". `done`: steps so far.
    """

    patches: int
    warmup: int
    steps: int | None = None
    exact: str = ""
    done: int = 0

    def warming(self, calls: int) -> bool:
        """Whether a model call is exact, before which these conditions had `calls`."""
        if self.steps is None:
            return calls < self.warmup
        return self.warmup >= self.steps or self.done < self.warmup


class PipelinedModel:
    """The stages of `sharded.model`, from `start` to `stop`. `keep_memory`: that of the keys and values stays for the
    next request, at the same addresses.

    Raises ShardingError from `start` when there are more stages than blocks.
    """

    def __init__(
        self,
        sharded: ShardedModel,
        pipe: Pipe,
        schedule: Schedule,
        note: Callable[[str], None],
        keep_memory: bool = False,
    ):
        self._sharded = sharded
        self._model = sharded.model
        self._plan = sharded.plan
        self._pipe = pipe
        self._schedule = schedule
        self._note = note
        self._blocks = staged_blocks(self._model, self._plan)
        self._own = stage_spans(self._blocks, pipe.stages.size)[pipe.stages.index]
        self._attentions = sum(1 + len(self._blocks[index].blocks.then) for index in self._own)
        self._caches: dict[Hashable, ConditionCache] = {}
        self._keep_memory = keep_memory
        self._patches = self._patch = 0
        self._received = False
        self._once: dict[torch.nn.Module, Any] = {}
        self._hooks: list = []
        self._originals: list[tuple[torch.nn.Module, str, Callable | None]] = []

    def start(self) -> None:
        name = "_forward" if hasattr(self._model, "_forward") else "forward"
        self._replace(self._model, name, self._in_patches)
        for index, block in enumerate(self._blocks):
            self._replace(block.module, "forward", self._staged(index, block))
        for path in self._plan.once:
            for module in blocks_at(self._model, path):
                self._replace(module, "forward", self._run_once(module))
        final = module_at(self._model, self._plan.gathers[-1].path)
        self._hooks.append(final.register_forward_hook(self._share_output))
        self._sharded.pipeline = self

    def stop(self) -> None:
        self._sharded.pipeline = None
        for hook in self._hooks:
            hook.remove()
        for module, name, before in reversed(self._originals):
            if before is None:
                delattr(module, name)
            else:
                setattr(module, name, before)
        self._hooks.clear()
        self._originals.clear()
        self._sharded.pipeline_memory = self._memory() if self._keep_memory else {}
        self._caches.clear()

    def _memory(self) -> dict[Hashable, Memory]:
        """The memory of these caches, by what another request's caches must be like to use it: conditions of the same
        shapes in the same order.
        """
        found: dict[Hashable, Memory] = {}
        for (_, shapes), cache in self._caches.items():
            found[self._place(shapes, found)] = cache.memory
        return found

    def _place(self, shapes: Hashable, taken: Collection[Hashable]) -> Hashable:
        where = (self._pipe.stages.size, self._sharded.session.sp.size, shapes)
        return next((*where, number) for number in itertools.count() if (*where, number) not in taken)

    def _replace(self, module: torch.nn.Module, name: str, wrap: Callable[[Callable], Callable]) -> None:
        original = getattr(module, name)
        self._originals.append((module, name, vars(module).get(name)))
        setattr(module, name, functools.wraps(original)(wrap(original)))

    # what the engine asks

    @property
    def in_patches(self) -> bool:
        """Whether the model call in progress is one of patches, of which this is one."""
        return self._patches > 1

    @property
    def patch(self) -> tuple[int, int]:
        """(number of this patch, number of patches)"""
        return self._patch, max(self._patches, 1)

    def situation(self) -> Hashable | None:
        """As ShardedModel.situation."""
        call = self._sharded.call
        if call is None or not self.in_patches:
            return None
        return (self._patches, call.cache.memory.number)

    def begin(self, call: Call | None, options: dict[str, Any], inputs: tuple) -> None:
        """A model call begins: in how many patches, and with which cache. `call` is None for one that is not divided.

        The choice must be, and is, the same on all stages.
        """
        self._patches, self._patch = 1, 0
        if (why := replaced_blocks(options)) != "":
            raise ShardingError(f"{why}; set pipefusion to 1")
        if call is None:
            return
        key, schedule = _conditions(options, inputs), self._schedule
        why = schedule.exact or self._inexact_alone(call, options) or ("" if key else "its conditions have no identity")
        if why:
            self._note(f"PipeFusion computes every step exactly, without a gain in speed: {why}")
            return
        if schedule.steps is not None and schedule.warmup >= schedule.steps:
            return
        if key not in self._caches:
            place = self._place(key[1], self._memory())
            memory = self._sharded.pipeline_memory.pop(place, None) or Memory()
            self._caches[key] = ConditionCache(self._attentions, memory)
        cache = self._caches[key]
        if cache.calls and not schedule.warming(cache.calls):
            self._patches = self._choose_patches(cache.streams)
        cache.calls += 1
        call.cache = cache

    def _inexact_alone(self, call: Call, options: dict[str, Any]) -> str:
        if call.mode is not Mode.PERSIST:
            return "a patch works on whole tokens between the blocks"
        inner = [name for name in self._plan.inner_patches if options.get("patches", {}).get(name)]
        return f"the patch {inner[0]!r} looks at whole tokens inside the blocks" if inner else ""

    def _choose_patches(self, streams: tuple[int, ...]) -> int:
        sequence = self._sharded.session.sp.size
        longest = max(streams)
        wanted = self._schedule.patches or min(MOST_PATCHES, max(self._pipe.stages.size, longest // PATCH_TOKENS))
        possible = max(1, min(wanted, min(streams) // sequence))
        if possible < wanted:
            self._note(f"{possible} patches instead of {wanted}: the shortest stream has {min(streams)} tokens")
        return possible

    # the model's forward, once for each patch

    def _in_patches(self, original: Callable) -> Callable:
        def forward(*args, **kwargs):
            call = self._sharded.call
            self._once.clear()
            for patch in range(self._patches):
                self._patch, self._received = patch, False
                if call is not None:
                    call.reset()
                try:
                    output = original(*args, **kwargs)
                except PatchDone:
                    continue
            if self._pipe.after is not None:
                self._pipe.after.finish()
            self._once.clear()
            if call is not None and call.cache is not None and not call.cache.streams:
                self._agree_on_room(call.cache)
                call.cache.streams = tuple(length for _, length in call.layout.lengths)
            return output

        return forward

    def _agree_on_room(self, cache: ConditionCache) -> None:
        """After the first model call of some conditions. Raises ShardingError on all stages where one is short."""
        lacking = torch.tensor([cache.needed if cache.lacking else 0], dtype=torch.int64)
        dist.all_reduce(lacking, op=dist.ReduceOp.MAX, group=self._pipe.stages.group)
        if lacking.item():
            raise ShardingError(
                f"PipeFusion keeps keys and values of the whole sequence, {lacking.item() / GIB:.2f} GiB for each set"
                " of conditions on each device, and that is not free; use ulysses, a smaller image, or more devices"
            )

    def _run_once(self, module: torch.nn.Module) -> Callable[[Callable], Callable]:
        """Blocks before the stages see the same in every patch."""

        def wrap(original: Callable) -> Callable:
            def forward(*args, **kwargs):
                if not self.in_patches:
                    return original(*args, **kwargs)
                if module not in self._once:
                    self._once[module] = original(*args, **kwargs)
                return self._once[module]

            return forward

        return wrap

    def _staged(self, index: int, block: StagedBlock) -> Callable[[Callable], Callable]:
        own, pipe = self._own, self._pipe
        hidden = _hidden_arguments(block)
        names = argument_names(block.module, block.blocks.signature)

        def wrap(original: Callable) -> Callable:
            def forward(*args, **kwargs):
                if index in own:
                    if index == own.start and pipe.before is not None and not self._received:
                        raise ShardingError(f"{self._plan.model}: the blocks before {block.path} were not called")
                    with self._block(index):
                        output = original(*args, **kwargs)
                    if index == own.stop - 1 and pipe.after is not None:
                        self._hand_over(_as_tuple(output))
                    return output
                if (call := self._sharded.call) is not None:
                    call.attention_calls += 1  # elsewhere
                bound = bind(names, args, kwargs)
                values = [bound[name] for name in hidden]
                if index == own.start - 1:
                    values = self._receive(values, block)
                return tuple(values) if len(values) > 1 else values[0]

            return forward

        return wrap

    @contextlib.contextmanager
    def _block(self, index: int) -> Iterator[None]:
        """The block with this number runs here."""
        call = self._sharded.call
        if call is not None:
            call.block = index
        yield
        if call is not None:
            call.block = None

    def _hand_over(self, output: tuple[torch.Tensor, ...]) -> None:
        """Raises PatchDone for any patch but the last, with which this stage goes on to the end of the model's forward,
        on tensors of its own: what comes next may write into its hidden states.
        """
        last = self._patch == self._patches - 1
        self._pipe.after.send([value.clone() if last else value for value in output], announce=not self.in_patches)
        if not last:
            raise PatchDone

    def _receive(self, like: list[torch.Tensor], block: StagedBlock) -> list[torch.Tensor]:
        """The outputs of `block` from the stage before; they have the shapes of its inputs, `like`."""
        before = self._pipe.before
        if not self.in_patches:
            before.hear(len(like))
        if not before.posted:
            before.post([tuple(value.shape) for value in like])
        arriving = before.take()
        if self._patch + 1 < self._patches:
            before.post(self._shapes_of_next(like, block))
        for _, work in arriving:
            if work is not None:
                work.wait()
        self._received = True
        return [value for value, _ in arriving]

    def _shapes_of_next(self, like: list[torch.Tensor], block: StagedBlock) -> list[tuple[int, ...]]:
        call, sp = self._sharded.call, self._sharded.session.sp
        part = (self._patch + 1) * sp.size + sp.rank
        lengths = [call.layout.split(segments).local[part] for segments in block.blocks.returns]
        return [(value.shape[0], length, *value.shape[2:]) for value, length in zip(like, lengths, strict=True)]

    def _share_output(self, module, args, output):
        """The last stage has the output; all get it."""
        local, *others = _as_tuple(output)
        whole = local.contiguous()
        stages = self._pipe.stages
        dist.broadcast(whole, stages.ranks[-1], group=stages.group)
        return (whole, *others) if isinstance(output, tuple) else whole

    def has_output(self) -> bool:
        """Whether the model's output is made here."""
        return self._pipe.after is None

    def patch_made(self, call: Call, output: torch.Tensor, length: int) -> torch.Tensor:
        """[B, l, C] of this patch → [B, length, C] of all of them, in the order of patches, once the last is made.

        Raises PatchDone before. Where the output is not made: memory for it.
        """
        if not self.has_output():
            return output.new_empty((output.shape[0], length, *output.shape[2:]))
        call.made.append(output)
        if self._patch < self._patches - 1:
            raise PatchDone
        made, call.made = call.made, []
        return torch.cat(made, 1)


def _hidden_arguments(block: StagedBlock) -> list[str]:
    """For each output of the block the argument that holds the same tokens."""
    held = {
        argument.segments: name for name, argument in block.blocks.arguments.items() if isinstance(argument, Tokens)
    }
    return [held[segments] for segments in block.blocks.returns]


def _as_tuple(output: Any) -> tuple:
    return output if isinstance(output, tuple) else (output,)


def _conditions(options: dict[str, Any], inputs: tuple) -> tuple[Hashable, Hashable] | None:
    """What tells the model calls of one set of conditions from those of others."""
    if not options.get("uuids"):
        return None
    shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor))
    return (tuple(options["uuids"]), shapes)
