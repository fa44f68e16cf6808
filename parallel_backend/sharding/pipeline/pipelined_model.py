"""One diffusion model as a pipeline of stages, for the time of one request.

Each rank owns several chunks of blocks, which lie one round of all ranks apart: with M patches, N ranks and v chunks
each, a call takes (v·M + N − 1) / (v·M) of what it would without waiting (interleaved stages, arXiv 2104.04473), and
less where the first and last chunks are short (cuts.py), so few and large patches are enough.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from ..engine.call_modes import Mode, replaced_blocks
from ..engine.engine import ShardedModel
from ..engine.model_call import Call
from ..engine.node_attention import undividable_attention
from ..foreign.authors import name_of
from ..foreign.kernel_choice import node_attention
from ..foreign.reach import Reach
from ..plan.argument_kinds import Tokens
from ..plan.errors import ShardingError
from ..plan.modules import argument_names, bind, module_at, replaced
from ..plan.token_layout import Segments
from ..transfer.stage_links import Pipe
from .empty_patches import shapes_without_tokens, spare_linears
from .key_value_caches import Caches, conditions_of
from .keys_values import ConditionCache
from .once_per_call import Once, callables_at
from .patch_attention import attention_with_cache
from .schedule import Schedule
from .stages import StagedBlock, own_chunks, staged_blocks

GIB = 2**30


class RunDone(Exception):
    """This rank has done a chunk for a patch; what follows in the model's forward is not needed."""


class PipelinedModel:
    """The stages of `sharded.model`, from `start` to `stop`. `keep_memory`: that of the keys and values stays for the
    next request, at the same addresses.

    Raises ShardingError when there are more stages than blocks, ValueError for a model outside a session.
    """

    def __init__(
        self,
        sharded: ShardedModel,
        pipe: Pipe,
        schedule: Schedule,
        note: Callable[[str], None],
        keep_memory: bool = False,
    ):
        if sharded.session is None:
            raise ValueError("a pipeline lasts for one session, and the model is in none")
        self._sharded = sharded
        self._model = sharded.model
        self._plan = sharded.plan
        self._pipe = pipe
        self._schedule = schedule
        self._note = note
        self._blocks = staged_blocks(self._model, self._plan)
        self._chunks = own_chunks(self._blocks, pipe.stages.size, pipe.stages.index)
        attentions = sum(1 + len(self._blocks[index].blocks.then) for chunk in self._chunks for index in chunk)
        self._sequence_size = sharded.session.sp.size
        kind = (pipe.stages.size, self._sequence_size)
        self._caches = Caches(sharded.pipeline_memory, kind, attentions)
        self._keep_memory = keep_memory
        self._patches, self._patch, self._chunk = 1, 0, self._chunks[0]
        self._runs: list[tuple[range, int]] = []
        self._run = self._to_post = 0
        self._received = False
        self._cache: ConditionCache | None = None  # the keys and values to use and to keep
        self._block_number: int | None = None  # of the staged block that runs
        self._made: list[torch.Tensor] = []  # the outputs of the patches before this one
        self._once = Once()
        self._started = contextlib.ExitStack()

    def start(self) -> None:
        name = "_forward" if hasattr(self._model, "_forward") else "forward"
        self._replace(self._model, name, self._in_runs)
        for index, block in enumerate(self._blocks):
            self._replace(block.module, "forward", self._staged(index, block))
            spare_linears(block.module.modules())
        for path in self._plan.once:
            for owner, name in callables_at(self._model, path):
                self._replace(owner, name, self._run_once((owner, name)))
        final = module_at(self._model, self._plan.gathers[-1].path)
        self._started.callback(final.register_forward_hook(self._share_output).remove)
        self._sharded.pipeline = self

    def stop(self) -> None:
        self._sharded.pipeline = None
        self._started.close()
        self._sharded.pipeline_memory = self._caches.memory() if self._keep_memory else {}

    def _replace(self, owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> None:
        original = getattr(owner, name)
        self._started.enter_context(replaced(owner, name, functools.wraps(original)(wrap(original))))

    # What the engine asks

    @property
    def in_patches(self) -> bool:
        """Whether the model call in progress is one of patches."""
        return self._patches > 1

    @property
    def _cache_of_patches(self) -> ConditionCache | None:
        """The keys and values of a model call of patches; None in an exact one."""
        return self._cache if self.in_patches else None

    @property
    def patch(self) -> tuple[int, int]:
        """(number of this patch, number of patches)"""
        return self._patch, self._patches

    def situation(self) -> Hashable | None:
        """As ShardedModel.situation."""
        call = self._sharded.call
        if call is None or self._cache is None or not self.in_patches:
            return None
        return (self._patches, self._cache.memory.number, self._pipe.mailboxes.generation)

    def refuse(self, reach: Reach) -> None:
        """Raises ShardingError for foreign code that this rank's stages alone cannot run: around or at blocks, which
        all ranks call and most of them leave empty. What is inside a block runs where the block is.
        """
        if reach.around or reach.at:
            raise ShardingError(
                f"{reach.lines[0]} runs around the model's blocks, of which PipeFusion has each on one device only; set"
                " pipefusion to 1"
            )

    def begin(self, call: Call | None, options: dict[str, Any], inputs: tuple) -> None:
        """A model call begins: in how many patches, and with which cache. `call` is None for one that is not divided.

        The choice must be, and is, the same on all ranks.
        """
        self._patches, self._patch = 1, 0
        self._cache, self._block_number, self._made = None, None, []
        if (why := replaced_blocks(options) or undividable_attention(options)) != "":
            raise ShardingError(f"{why}; set pipefusion to 1")
        if call is None:
            return
        conditions, schedule = conditions_of(options, inputs), self._schedule
        why = schedule.exact or self._inexact_alone(call, options)
        if why or conditions is None:
            why = why or "the conditions of its model calls cannot be told apart"
            self._note(f"PipeFusion computes every step exactly, without a gain in speed: {why}")
            return
        if schedule.always_exact:
            return
        self._cache = cache = self._caches.of(conditions)
        if cache.calls and not schedule.warming(cache.calls):
            stages, chunks = self._pipe.stages.size, len(self._chunks)
            self._patches = schedule.choose(cache.streams, stages, chunks, self._sequence_size, self._note)
        cache.calls += 1

    def _inexact_alone(self, call: Call, options: dict[str, Any]) -> str:
        if call.reach:
            return f"{call.reach.lines[0]} may look at all tokens"
        if call.mode is not Mode.PERSIST:
            return "a patch works on whole tokens between the blocks"
        if (attention := node_attention(options)) is not None:
            return f"{name_of(attention)} computes attention in its own way"
        inner = [name for name in self._plan.inner_patches if options.get("patches", {}).get(name)]
        return f"the patch {inner[0]!r} looks at whole tokens inside the blocks" if inner else ""

    # The model's forward, once for each chunk and patch

    def _in_runs(self, original: Callable) -> Callable:
        def forward(*args, **kwargs):
            call = self._sharded.call
            ways = self._pipe.before, self._pipe.after
            for way in ways:
                way.begin()
            with self._once.model_call() if self.in_patches else contextlib.nullcontext():
                output = self._each_run(call, lambda: original(*args, **kwargs))
            for way in ways:
                way.finish()
            if call is not None and (cache := self._cache) is not None and not cache.streams:
                streams = tuple(length for _, length in call.layout.lengths)
                self._agree_on_room(cache, streams)
                cache.streams = streams
            return output

        return forward

    def _each_run(self, call: Call | None, run_forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The output of the last run, the one that goes on to the end of the model's forward."""
        self._runs = [(chunk, patch) for chunk in self._chunks for patch in range(self._patches)]
        self._to_post = 0
        last = len(self._runs) - 1
        for run in range(last):
            self._begin_run(run, call)
            with contextlib.suppress(RunDone):
                run_forward()
        self._begin_run(last, call)
        return run_forward()

    def _begin_run(self, run: int, call: Call | None) -> None:
        self._chunk, self._patch = self._runs[run]
        self._run, self._received, self._block_number = run, False, None
        self._once.begin_run()
        if call is not None:
            call.reset()

    def _agree_on_room(self, cache: ConditionCache, streams: tuple[int, ...]) -> None:
        """After the first model call of some conditions, whose streams have these lengths. Raises ShardingError on all
        stages where one is short.
        """
        if lacking := self._pipe.stages.largest(cache.needed if cache.lacking else 0):
            raise ShardingError(
                f"PipeFusion keeps keys and values of the whole sequence, {lacking / GIB:.2f} GiB for each set"
                " of conditions on each device, and that is not free; use ulysses, a smaller image, or more devices"
            )
        tokens = sum(math.ceil(length / self._sequence_size) for length in streams)
        self._pipe.mailboxes.agree(tokens, len(streams), self._note)

    def _run_once(self, who: Hashable) -> Callable[[Callable], Callable]:
        """What comes before the stages is the same in every run."""

        def wrap(original: Callable) -> Callable:
            def once(*args, **kwargs):
                if not self._once.active:
                    return original(*args, **kwargs)
                return self._once.of(who, lambda: original(*args, **kwargs))

            return once

        return wrap

    def _staged(self, index: int, block: StagedBlock) -> Callable[[Callable], Callable]:
        hidden = _hidden_arguments(block)
        names = argument_names(block.module, block.blocks.signature)
        final = len(self._blocks) - 1

        def wrap(original: Callable) -> Callable:
            def forward(*args, **kwargs):
                chunk = self._chunk
                if index in chunk:
                    if index == chunk.start > 0 and not self._received:
                        raise ShardingError(f"{self._plan.model}: the blocks before {block.path} were not called")
                    if index == chunk.stop - 1:
                        self._post_ahead()
                    with self._block(index):
                        output = self._run_block(block, original, args, kwargs)
                    if index == chunk.stop - 1 and index != final:
                        self._hand_over(_as_tuple(output))
                    return output
                if (call := self._sharded.call) is not None:
                    call.attention_calls += 1  # elsewhere
                bound = bind(names, args, kwargs)
                values = [bound[name] for name in hidden]
                if index == chunk.start - 1:
                    values = self._receive(values, index)
                return tuple(values) if len(values) > 1 else values[0]

            return forward

        return wrap

    def _run_block(self, block: StagedBlock, original: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        call = self._sharded.call
        if call is None or not self._once.active:
            return original(*args, **kwargs)
        lacks_tokens = any(call.split(segments).total == 0 for segments in _streams(block))
        with (
            self._once.inside(block, kwargs) as shared,  # the engine gives all arguments by name
            shapes_without_tokens() if lacks_tokens else contextlib.nullcontext(),
        ):
            return original(*args, **{**kwargs, **shared})

    @contextlib.contextmanager
    def _block(self, index: int) -> Iterator[None]:
        """The block with this number runs here."""
        self._block_number = index
        yield
        self._block_number = None

    @property
    def _last_run(self) -> bool:
        """Whether this run goes on to the end of the model's forward, on this rank."""
        return self._chunk is self._chunks[-1] and self._patch == self._patches - 1

    def _hand_over(self, output: tuple[torch.Tensor, ...]) -> None:
        """Raises RunDone for any run but the last, which goes on with tensors of its own: what comes next in the model
        may write into its hidden states.
        """
        goes_on = self._last_run
        patch = self.patch if self.in_patches else None
        self._pipe.after.send([value.clone() if goes_on else value for value in output], patch)
        if not goes_on:
            raise RunDone

    def _receive(self, like: list[torch.Tensor], index: int) -> list[torch.Tensor]:
        """The outputs of block `index` from the rank before; they have the shapes of its inputs, `like`."""
        before = self._pipe.before
        if not self.in_patches:
            before.hear(index, len(like))
        if self._to_post == self._run:
            self._post([tuple(value.shape) for value in like])
        self._received = True
        return before.take()

    def _post(self, shapes: list[tuple[int, ...]]) -> None:
        """Be ready for what the next run that is not provided for receives."""
        chunk, patch = self._runs[self._to_post]
        if (cache := self._cache_of_patches) is not None:
            cache.arriving[self._patches, patch, chunk.start] = shapes
        self._pipe.before.post(chunk.start - 1, shapes, (patch, self._patches) if self.in_patches else None)
        self._to_post += 1

    def _post_ahead(self) -> None:
        """Be ready a block before the next run begins, and for what comes from the round before as many runs before it
        as the rank that sends it is ahead. Sooner, it would take memory, and without mailboxes multiprocessors.
        """
        cache = self._cache_of_patches
        if cache is None:
            self._to_post = self._run + 1
            return
        ahead = self._patches - self._pipe.stages.size if self._pipe.stages.index == 0 else 0
        while self._to_post < min(self._run + 2 + max(ahead, 0), len(self._runs)):
            chunk, patch = self._runs[self._to_post]
            if chunk.start == 0:
                self._to_post += 1
                continue
            shapes = cache.arriving.get((self._patches, patch, chunk.start))
            if shapes is None:  # not yet seen: when the run begins
                self._to_post = max(self._to_post, self._run + 1)
                return
            self._post(shapes)

    def _share_output(self, module, args, output):
        """The last stage has the output; all get it."""
        local, *others = _as_tuple(output)
        whole = local.contiguous()
        stages = self._pipe.stages
        dist.broadcast(whole, stages.ranks[-1], group=stages.group)
        return (whole, *others) if isinstance(output, tuple) else whole

    def attends(self) -> bool:
        """Whether attention is over keys and values kept here: in a block of the stages, once conditions are known."""
        return self._cache is not None and self._block_number is not None

    def attention(
        self,
        call: Call,
        qkv: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        segments: Segments,
        kernel: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        """As sequence_parallel_attention of q, k, v [B, H, l, D] of this rank's patch: [B, l, H*D].

        Raises ShardingError unless `attends`.
        """
        if self._cache is None or self._block_number is None:
            raise ShardingError(
                f"{self._plan.model}: attention over kept keys and values was called outside the stages"
            )
        return attention_with_cache(call, self._cache, self._block_number, *qkv, mask, segments, kernel)

    def patch_made(self, call: Call, output: torch.Tensor, length: int) -> torch.Tensor:
        """[B, l, C] of this patch → [B, length, C] of all of them, in the order of patches, once the last is made.

        Raises RunDone before. Where the output is not made: memory for it.
        """
        if self._pipe.stages.index < self._pipe.stages.size - 1:
            return output.new_empty((output.shape[0], length, *output.shape[2:]))
        self._made.append(output)
        if not self._last_run:
            raise RunDone
        made, self._made = self._made, []
        return torch.cat(made, 1)


def _streams(block: StagedBlock) -> dict[Segments, str]:
    """The argument that holds each of the block's streams of tokens."""
    return {
        argument.segments: name for name, argument in block.blocks.arguments.items() if isinstance(argument, Tokens)
    }


def _hidden_arguments(block: StagedBlock) -> list[str]:
    """The argument that holds the same tokens, for each output of the block. Raises ShardingError if one has none."""
    held = _streams(block)
    found = [held[segments] for segments in block.blocks.returns if segments in held]
    if len(found) < len(block.blocks.returns):
        raise ShardingError(
            f"{block.path} returns {block.blocks.returns}, and only what it also takes ({', '.join(held.values())}) can"
            f" be handed from stage to stage: leave {block.blocks.path} out of the plan's stages"
        )
    return found


def _as_tuple(output: Any) -> tuple:
    return output if isinstance(output, tuple) else (output,)
