"""Whether the ranks hold a model whole each, or share its blocks: what was asked for, or, for `auto`, what fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch

from ...contract.config import REPLICATE, SHARD, SHARD_OFFLOAD, ConfigError, Degrees, ParallelConfig
from ...loading.parameter_source import stored_parameters
from ...sharding.plan.block_paths import block_paths
from ...sharding.plan.plan import Plan
from ..base.per_model import once_per_model
from ..describe.companions import companion_bytes
from ..group.process_group import ProcessGroup
from ..group.shortage import GIB
from .choose import Choice, Workload, by_tokens


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model's weights: in `blocks`, of which the `largest` block, and in the `rest`."""

    blocks: int
    largest: int
    rest: int

    @staticmethod
    @once_per_model
    def of(model: Any, plan: Plan | None) -> Footprint:
        """Of a BaseModel, which may be on meta, and its architecture's plan."""
        paths = block_paths(model.diffusion_model, plan) if plan is not None else ()
        sizes, rest = dict.fromkeys(paths, 0), 0
        for name, stored in stored_parameters(model).items():
            path = next((path for path in paths if name.startswith(f"diffusion_model.{path}.")), None)
            if path is None:
                rest += stored.nbytes
            else:
                sizes[path] += stored.nbytes
        return Footprint(sum(sizes.values()), max(sizes.values(), default=0), rest)

    @property
    def whole(self) -> int:
        return self.blocks + self.rest

    def on_a_rank(self, weights: str, degrees: Degrees) -> int:
        """What a rank holds on its device. Of blocks that are divided, two are whole there."""
        blocks = self.blocks // degrees.pipefusion
        if weights == REPLICATE:
            return self.rest + blocks
        return self.rest + 2 * self.largest + (blocks // degrees.shards if weights == SHARD else 0)


@dataclass(frozen=True)
class Room:
    """`free`: bytes for this request on the device that has the fewest. `activations`: what one device would need
    beside the weights, and `least` what each needs however many there are. `ran_out`: memory ran out in this request.
    `companions`: bytes of ControlNets and the like, which every device holds whole.
    """

    footprint: Footprint
    free: int
    activations: int
    least: int
    ran_out: bool = False
    companions: int = 0

    def fits(self, weights: str, degrees: Degrees) -> bool:
        if weights == REPLICATE and self.ran_out:
            return False
        return self.needed(weights, degrees) <= self.free

    def __str__(self) -> str:
        if self.ran_out:
            return "memory ran out"
        beside = f" beside {self.companions / GIB:.1f} GiB of other models" if self.companions else ""
        return f"{self.footprint.whole / GIB:.1f} GiB do not fit in {self.free / GIB:.1f} GiB free{beside}"

    def needed(self, weights: str, degrees: Degrees) -> int:
        shared = self.activations // (degrees.sequence * degrees.batch)
        return self.footprint.on_a_rank(weights, degrees) + self.companions + shared + self.least


def measured_room(
    guider: Any, noise_shape: torch.Size, group: ProcessGroup, plan: Plan | None, ran_out: bool = False
) -> Room | None:
    """Asks the ranks; None for CPU ranks, and where one does not answer. What lies on the devices now but makes room
    when it is wanted (other models, ComfyUI's own) counts as free. `ran_out`: memory did, a moment ago.
    """
    if group.devices.kind != "cuda":
        return None
    standing = group.ask(stacks=False)
    if len(standing) < group.size:
        return None
    free = min(
        answer.device_memory.free + sum(size for _, size in answer.models) + _evictable(group.devices.indices[rank])
        for rank, answer in standing.items()
    )
    _, activations = comfy.sampler_helpers.estimate_memory(guider.model_patcher, list(noise_shape), guider.conds)
    footprint = Footprint.of(guider.model_patcher.model, plan)
    least = comfy.model_management.minimum_inference_memory()
    return Room(footprint, free, int(activations), least, companions=companion_bytes(guider), ran_out=ran_out)


def _evictable(index: int) -> int:
    device = torch.device("cuda", index)
    loaded = comfy.model_management.current_loaded_models
    return sum(entry.model_loaded_memory() for entry in loaded if entry.device == device and entry.model is not None)


def with_weights(choice: Choice, config: ParallelConfig, ranks: int, work: Workload, room: Room | None) -> Choice:
    """`choice` with where the weights lie; strategy auto may take other degrees for it, as tokens divided need less
    memory. `room` None: not known, so `auto` replicates. Raises ConfigError when it cannot be had.
    """
    candidates = [choice]
    if config.strategy == "auto" and (tokens := by_tokens(ranks, work)) is not None:
        candidates.append(replace(tokens, reason=f"{choice.reason}; tokens divided to save memory"))
    candidates = [candidate for candidate in candidates if refusal_to_divide(candidate.degrees, work) is None]
    if room is not None and room.ran_out:
        candidates.reverse()  # tokens first
    if config.weights in (SHARD, SHARD_OFFLOAD):
        if not candidates:
            reason = refusal_to_divide(choice.degrees, work)
            raise ConfigError(f"weights {config.weights!r}: {reason}")
        fitting = [one for one in candidates if room is None or room.fits(config.weights, one.degrees)]
        return replace((fitting or candidates[-1:])[0], weights=config.weights)
    if config.weights == REPLICATE or room is None or room.fits(REPLICATE, choice.degrees):
        return choice
    for weights in (SHARD, SHARD_OFFLOAD):
        for candidate in candidates:
            if room.fits(weights, candidate.degrees):
                how = "sharded" if weights == SHARD else "sharded and offloaded"
                return replace(candidate, weights=weights, reason=f"{candidate.reason}; weights {how}: {room}")
    if not candidates or room.ran_out:
        return choice  # it is tried, and running out of memory says what would help
    needed = min(room.needed(SHARD_OFFLOAD, candidate.degrees) for candidate in candidates)
    raise ConfigError(
        f"{work.architecture}: weights of {room} on the fullest device, nor does the least that a device can work"
        f" with, {needed / GIB:.1f} GiB with weights sharded and offloaded: take a smaller image or batch, a smaller"
        " file (fp8), or end what else uses the devices; weights set to shard + offload tries nevertheless"
    )


def refusal_to_divide(degrees: Degrees, work: Workload) -> str | None:
    """Why weights cannot be divided with these degrees, and what to set; None if they can."""
    if work.plan is None:
        return f"{work.architecture} has no plan that names its blocks; set weights to replicate"
    if work.undivided:
        return f"{work.undivided}, so it runs on one device; set weights to replicate, or leave that node out"
    if degrees.pipefusion > 1:
        return f"{degrees}: PipeFusion divides the weights already, a stage holds its own blocks; set weights to auto"
    if degrees.ranks == 1:
        return (
            "blocks are divided over the devices that work on a prompt, and here that is one; name more devices, or"
            " set weights to replicate"
        )
    if work.hook_lora:
        return "this prompt has a hook LoRA, which changes whole weights while it samples; set weights to replicate"
    return None
