"""Runs an unmodified diffusion model over a share of its tokens, as a plan says.

Hooks on the blocks cut what comes in, an attention override exchanges q, k and v. In persist mode tokens stay split
from block to block until a gather makes them whole; in block mode each block's outputs are made whole at once, so that
code between blocks sees all tokens. Between two model calls nothing is sharded, and without a session hooks do nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ..foreign.kernel_choice import OVERRIDE
from ..foreign.model_watch import ForeignCode, watch
from ..foreign.options_read import keys_read
from ..foreign.reach import Reach, reach_of
from ..plan.block_paths import hooked_blocks
from ..plan.errors import ShardingError
from ..plan.modules import argument_names, bind, blocks_at, check_arguments, module_at
from ..plan.plan import Blocks, Gather, Plan, Undivided
from .attention_override import ShardedAttention, route_global
from .call_modes import Mode, mode_for
from .inner_patches import wrap_inner
from .model_call import Call, LengthsUnknown, Pipeline
from .modulations import DividedModulations
from .residuals import shard_residuals
from .session import Session


class ShardedModel:
    """The hooks on one diffusion model. `call` is the state of the model call in progress, None between calls.
    `whole_weights`: every rank has all of them at any time, while `session` is set.

    Raises ShardingError when the model lacks what the plan names (a renamed argument or module).
    """

    def __init__(self, model: torch.nn.Module, plan: Plan):
        self.model = model
        self.plan = plan
        self.session: Session | None = None
        self.whole_weights = True
        self.pipeline: Pipeline | None = None
        self.pipeline_memory: dict[Hashable, Any] = {}  # what a pipeline kept from the last request
        self.call: Call | None = None
        self._watch = watch(model)  # its hook comes first
        self._reach: tuple[tuple[ForeignCode, ...], Reach] = ((), Reach())
        self._names = argument_names(model)
        self._blocks = hooked_blocks(model, plan)
        self._path_of = {block: path for path, block in self._blocks.items()}
        self._keys = {type(block): keys_read(block) for block in self._blocks.values()}
        self._exchanged: set[type] = set()  # blocks of these classes were seen to pass the exchange
        self._modulations = DividedModulations(model, plan)
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)
        for blocks in plan.blocks:
            for block in blocks_at(model, blocks.path):
                self._hook_block(block, blocks)
        for gather in plan.gathers:
            module = module_at(model, gather.path)
            names = argument_names(module)
            check_arguments(plan.model, gather.path, gather.arguments, names)
            module.register_forward_pre_hook(self._before_gather(gather, names), with_kwargs=True)
            module.register_forward_hook(self._gather(gather))
        for undivided in plan.undivided:
            self._hook_undivided(model, undivided)
        for name in plan.attention_globals:
            route_global(name, lambda: self.call)

    def _hook_block(self, block: torch.nn.Module, blocks: Blocks) -> None:
        names = argument_names(block, blocks.signature)
        check_arguments(self.plan.model, blocks.path, blocks.arguments, names)
        block.register_forward_pre_hook(self._enter_block(blocks, names), with_kwargs=True)
        block.register_forward_hook(self._leave_block(blocks))
        for name in blocks.local:
            inner = module_at(block, name)
            split_queries = name not in blocks.local_queries
            inner.register_forward_pre_hook(lambda *_, split=split_queries: self._suspend_attention(True, split))
            inner.register_forward_hook(lambda *_: self._suspend_attention(False))
        for name in blocks.gather_keys:
            inner = module_at(block, name)
            inner.register_forward_pre_hook(lambda *_: self._whole_queries(True))
            inner.register_forward_hook(lambda *_: self._whole_queries(False))

    def _hook_undivided(self, model: torch.nn.Module, undivided: Undivided) -> None:
        path, _, inner = undivided.path.partition(".*")
        for module in blocks_at(model, path):
            module = module_at(module, inner[1:]) if inner else module
            names = argument_names(module)
            check_arguments(self.plan.model, undivided.path, (undivided.argument,), names)
            module.register_forward_pre_hook(self._enter_undivided(undivided, names), with_kwargs=True)
            module.register_forward_hook(self._leave_undivided(undivided))

    def _enter_undivided(self, undivided: Undivided, names: tuple[str, ...]) -> Callable:
        def hook(module, args, kwargs):
            if self.call is None or not self.call.sharded:
                return None
            bound = bind(names, args, kwargs)
            bound[undivided.argument] = self.call.gather(bound[undivided.argument], undivided.segments)
            self.call.suspended = True
            return (), bound

        return hook

    def _leave_undivided(self, undivided: Undivided) -> Callable:
        def hook(module, args, output):
            if self.call is None or not self.call.sharded:
                return None
            self.call.suspended = False
            return self.call.layout.take(output, undivided.segments, 1)

        return hook

    def _suspend_attention(self, suspended: bool, split_queries: bool = False) -> None:
        if not torch.compiler.is_compiling() and self.call is not None:
            self.call.suspended = suspended
            self.call.split_queries = split_queries

    def _whole_queries(self, whole: bool) -> None:
        if not torch.compiler.is_compiling() and self.call is not None:
            self.call.whole_queries = whole

    def situation(self) -> Hashable | None:
        """What the kernels of the model call in progress depend on beside its inputs; None when it must not be
        captured: PipeFusion's whole calls, whose stages tell each other what comes.
        """
        return self.pipeline.situation() if self.pipeline is not None else ()

    def restart(self) -> None:
        """Go back to the beginning of the model call in progress, whose forward ended early."""
        self._modulations.end_call()
        if self.call is not None:
            self.call.reset()

    def _begin(self, model, args, kwargs):
        if self.session is None:
            return None
        options = kwargs.get("transformer_options") or {}
        mode, reason = mode_for(self.plan, options, bind(self._names, args, kwargs))
        reach = self.reach()
        if mode is not Mode.WHOLE and (why := self._needs_all(reach, options)):
            mode, reason = Mode.WHOLE, why
        if self.pipeline is not None and reach:
            self.pipeline.refuse(reach)
        if mode is Mode.WHOLE:
            if self.pipeline is not None:
                self.pipeline.begin(None, options, ())
            self.session.note(f"{reason}; this model call runs unsharded on every rank")
            return None
        for line in reach.lines:
            self.session.note(f"{line} may look at all tokens, so they are whole between blocks, and in blocks with it")
        mode = Mode.BLOCK if reach else self.session.mode or mode
        self.call = Call(self.session, mode, self.pipeline, reach)
        if self.pipeline is not None:
            self.pipeline.begin(self.call, options, (args, kwargs))
        logging.debug("xDiT: %s in %s mode", self.plan.model, self.call.mode.value)
        options = dict(options)
        options[OVERRIDE] = ShardedAttention(self.call, options.get(OVERRIDE))
        if "patches" in options:
            options["patches"] = wrap_inner(options["patches"], self.plan.inner_patches, self.call)
        kwargs = {**kwargs, "transformer_options": options}
        if kwargs.get("control") is not None:
            kwargs["control"] = shard_residuals(kwargs["control"], self.plan.residuals, self.call)
        return args, kwargs

    def reach(self) -> Reach:
        """What the foreign code in the model, as it is at the model call in progress, can see."""
        found = self._watch.found
        if self._reach[0] is not found:
            self._reach = found, reach_of(found, self._blocks)
        return self._reach[1]

    def _needs_all(self, reach: Reach, options: dict[str, Any]) -> str:
        """Why no block of this model call may be divided, or ""."""
        if reach.blocks >= self._blocks.keys():
            return f"{reach.lines[0]} may look at all tokens in every block"
        for kind, keys in self._keys.items():
            if kind not in self._exchanged and (given := keys & options.keys()):
                # They may leave its attention out, and then nothing tells that from a plan that does not match.
                return f"{kind.__qualname__} reads {min(given)!r} of transformer_options and was not yet seen to attend"
        return ""

    def _end(self, model, args, output):
        call, self.call = self.call, None
        self._modulations.end_call()
        if not self.whole_weights and (reach := self.reach()):
            self._refuse_missing_weights(reach, output)
        if call is not None and call.sharded:
            raise ShardingError(
                f"{self.plan.model}: the tokens were split but never gathered; this version of ComfyUI does not match"
                " the plan. Set strategy to manual with all degrees 1 and report it"
            )

    def _refuse_missing_weights(self, reach: Reach, output: Any) -> None:
        """Weights of blocks are whole while these run, and NaN before and after."""
        outputs = output if isinstance(output, tuple | list) else (output,)
        if any(bool(value.isnan().any()) for value in outputs if isinstance(value, torch.Tensor)):
            raise ShardingError(
                f"{reach.lines[0]} uses parts of a block outside of it, where the block's weights are divided"
                " over devices: set weights to replicate"
            )

    def _enter_block(self, blocks: Blocks, names: tuple[str, ...]) -> Callable:
        shown = {name for patch in self.plan.inner_patches.values() for name in patch.whole.values()}

        def hook(block, args, kwargs):
            call = self.call
            if call is None or call.whole or (call.patch[1] > 1 and blocks.path not in self.plan.stages):
                return None
            if call.reach and self._path_of[block] in call.reach.blocks:
                return None
            bound = bind(names, args, kwargs)
            if "**" in names:
                check_arguments(self.plan.model, blocks.path, blocks.arguments, tuple(bound))
            try:
                call.enter(self.plan, blocks, bound)
            except LengthsUnknown as error:
                if self.pipeline is not None:
                    raise
                why = f"{call.reach.lines[0]} calls blocks in another way" if call.reach.around else str(error)
                call.session.note(f"{why}; every rank runs them whole")
                logging.debug("xDiT: %s", error)
                call.whole = True
                return None
            if not call.sharded and call.leaves_a_rank_empty(blocks, bound):
                call.session.note(f"{blocks.path}: fewer tokens than ranks; every rank runs them whole")
                call.whole = True
                return None
            if self._divides_modulations(call):
                self._modulations.before_block(blocks, bound, call.session.sp)
            call.whole_arguments = {name: bound.get(name) for name in shown}
            for name, argument in blocks.arguments.items():
                if bound.get(name) is not None:
                    bound[name] = argument.cut(bound[name], call)
            call.sharded = True
            call.inside = blocks
            call.attention_calls = 0
            return (), bound

        return hook

    def _divides_modulations(self, call: Call) -> bool:
        """In block mode patches may leave blocks out; a pipeline's ranks have the weights of their own stage only."""
        several = call.session.sp.size > 1 and call.pipeline is None
        return several and self.whole_weights and call.mode is Mode.PERSIST

    def _leave_block(self, blocks: Blocks) -> Callable:
        def hook(block, args, output):
            call = self.call
            if call is None or call.inside is None:
                return None
            call.inside = None
            if call.attention_calls > 0:
                self._exchanged.add(type(block))
            elif type(block) not in self._exchanged:
                raise ShardingError(
                    f"{self.plan.model}: no attention of {blocks.path} passed the exchange, so its tokens would see"
                    " only this rank's share; this version of ComfyUI does not match the plan"
                )
            if call.mode is not Mode.BLOCK:
                return None
            call.sharded = False
            outputs = output if isinstance(output, tuple) else (output,)
            whole = tuple(
                value if segments is None or value is None else call.gather(value, segments)
                for value, segments in zip(outputs, blocks.returns, strict=True)
            )
            return whole if isinstance(output, tuple) else whole[0]

        return hook

    def _before_gather(self, gather: Gather, names: tuple[str, ...]) -> Callable:
        def hook(module, args, kwargs):
            if self.call is None or not self.call.sharded or not gather.arguments:
                return None
            bound = bind(names, args, kwargs)
            for name, argument in gather.arguments.items():
                if bound.get(name) is not None:
                    bound[name] = argument.cut(bound[name], self.call)
            return (), bound

        return hook

    def _gather(self, gather: Gather) -> Callable:
        def hook(module, args, output):
            call = self.call
            if call is None or not call.sharded:
                return None
            call.sharded = False
            front = call.layout.split(gather.front).local[call.layout.rank] if gather.front else 0
            local, *others = output if isinstance(output, tuple) else (output,)
            whole = call.gather(local[:, front:], gather.segments)
            whole = torch.cat((local[:, :front], whole), 1) if front else whole
            return (whole, *others) if isinstance(output, tuple) else whole

        return hook
