"""A case's model under ComfyUI's calc_cond_batch, whose conditions and rows are divided over groups of ranks."""

from __future__ import annotations

import inspect
from typing import Any

import torch


class GuidedCall:
    """One guided call on a case's model, which stands where ComfyUI has a BaseModel and its patcher.

    Two rows, or one where the model takes no more. The second condition is the first with its text turned round.
    Conditions never share a model call, as where memory is short. `seen`: rows that the model evaluated.
    """

    def __init__(self, diffusion_model: torch.nn.Module, case):
        import comfy.conds
        import comfy.utils

        args, kwargs = case.inputs()
        inputs = inspect.signature(diffusion_model.forward).bind(*args, **kwargs).arguments
        x, timestep = (inputs.pop(name) for name in list(inputs)[:2])
        inputs |= inputs.pop("kwargs", {})
        self._options = inputs.pop("transformer_options", {})
        self._model = diffusion_model
        self._timesteps = len(timestep) if isinstance(timestep, tuple) else 0
        timestep = timestep[0] if self._timesteps else timestep
        self.nested = isinstance(x, list | tuple)
        rows = 2 if case.takes_batches else 1
        parts = [torch.cat((part, part.flip(-1))[:rows]) for part in (x if self.nested else [x])]
        self.x, self._shapes = comfy.utils.pack_latents(parts) if self.nested else (parts[0], [])
        self.timestep = timestep.repeat(rows, *[1] * (timestep.ndim - 1))
        context = inputs.pop("context")
        shared = {name: _cond(comfy.conds, value) for name, value in inputs.items()}
        texts = (context, context.flip(1) / 2)
        self.conds = [
            [{"uuid": index, "model_conds": {"context": comfy.conds.CONDRegular(text), **shared}}]
            for index, text in enumerate(texts)
        ]
        self.current_patcher = self.model = self
        self.seen = 0

    def run(self, wrappers: list) -> torch.Tensor:
        """Both conditions' results."""
        import comfy.samplers
        from comfy.patcher_extension import WrappersMP

        options = {**self._options, "wrappers": {WrappersMP.CALC_COND_BATCH: {"xdit": wrappers}}}
        self.seen = 0
        results = comfy.samplers.calc_cond_batch(
            self, self.conds, self.x, self.timestep, {"transformer_options": options}
        )
        return torch.cat(results)

    def apply_model(self, x, timestep, context, **inputs) -> torch.Tensor:
        import comfy.utils

        self.seen += x.shape[0]
        x = comfy.utils.unpack_latents(x, self._shapes) if self.nested else x
        timestep = (timestep,) * self._timesteps or timestep  # one for each of video and sound
        output = self._model(x, timestep, context=context, **inputs)
        return comfy.utils.pack_latents(output)[0] if self.nested else output

    def memory_required(self, *args: Any, **kwargs: Any) -> float:
        return 1.0

    def get_free_memory(self, device: torch.device) -> float:
        return 0.0

    def prepare_state(self, *args: Any) -> None:
        pass

    def apply_hooks(self, hooks: Any) -> dict[str, Any]:
        return {}


def _cond(conds, value: Any):
    if isinstance(value, torch.Tensor):
        return conds.CONDRegular(value)
    tensors = isinstance(value, list) and all(isinstance(item, torch.Tensor) for item in value)
    return conds.CONDList(value) if tensors else conds.CONDConstant(value)
