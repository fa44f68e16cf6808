"""What is known of a sampling run before it runs, as far as its division depends on it."""

from __future__ import annotations

from typing import Any

from ...sharding.engine.call_modes import replaced_blocks
from ...sharding.engine.node_attention import undividable_attention
from ...sharding.foreign.kernel_choice import OVERRIDE, runs_torchs_kernel
from ...sharding.guided.guided_call import conditions_stay_together, rows_stay_together, weighs_conditions
from ...sharding.plans import plan_for
from ..base.devices import DeviceSet
from ..describe.changes import Changes
from ..strategy.choose import Workload
from ..strategy.condition_counts import count_conditions


def workload(
    guider: Any, arguments: dict[str, Any], devices: DeviceSet, changes: Changes, steered: bool = False
) -> Workload:
    """`arguments`: those of `guider.outer_sample`; `changes`: what it meets in ComfyUI's process; `steered`: whether a
    callback may change the guider.
    """
    options = guider.model_options.get("transformer_options", {})
    model = guider.model_patcher.model.diffusion_model
    plan = plan_for(model)
    shape = tuple(arguments["noise"].shape)
    call = (guider.model_patcher, guider.model_options, list(guider.conds.values()))
    rows = shape[0] if shape else 1
    conditions = count_conditions(guider, arguments["sampler"], steered)
    return Workload.of(
        model,
        conditions.expected,
        shape,
        together=weighs_conditions(*call),
        conditions_undivided=conditions_stay_together(*call, rows),
        rows_undivided=rows_stay_together(*call, rows),
        hook_lora=bool(guider.model_patcher.hook_patches),
        most_conditions=conditions.most,
        steps=len(arguments["sigmas"]) - 1,
        undivided_blocks=replaced_blocks(options) or undividable_attention(options),
        ring_of_two=plan is not None and plan.ring_of_two and _kernel_is_ours(options) and devices.share_memory,
        undivided=changes.undivided,
    )


def _kernel_is_ours(options: dict[str, Any]) -> bool:
    """Whether no node and no flag of ComfyUI's (--use-sage-attention) brings an attention function of its own, which a
    ring could not use: it needs the log-sum-exp, which all kernels of Parallel Config give.
    """
    return runs_torchs_kernel(options.get(OVERRIDE))
