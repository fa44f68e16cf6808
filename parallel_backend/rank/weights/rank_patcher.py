"""ComfyUI's patcher in a rank: what the rank holds is on its device or not at all, without a CPU backup of weights."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher

from ...foreign.changes_in_place import InPlace
from .model_weights import Weights
from .placement import Held, Placement


class RankModelPatcher(comfy.model_patcher.ModelPatcher):
    """A ModelPatcher over `model.xdit_weights` (Weights). Unloading drops to the file's pages, always whole.

    `in_place`: what nodes did to ComfyUI's model beside its patcher; None where nothing runs.
    """

    in_place: InPlace | None = None

    @property
    def _weights(self) -> Weights:
        return self.model.xdit_weights

    def place(self, placement: Placement) -> None:
        """Which weights this rank holds from the next load on; what it holds otherwise is let go."""
        if self._weights.placement != placement:
            comfy.model_management.unload_model_and_clones(self, unload_additional_models=False)
            self._weights.place(placement)

    def model_size(self):
        return self._weights.wanted

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        self._weights.materialise()
        super().load(device_to, force_patch_weights=force_patch_weights, full_load=True)
        self._weights.restore()
        self._weights.hide()

    def patch_weight_to_device(self, key, device_to=None, inplace_update=False, return_weight=False, force_cast=False):
        if return_weight or key not in self.patches or not self._weights.knows(key):
            return super().patch_weight_to_device(key, device_to, inplace_update, return_weight, force_cast)
        if not self._weights.owns(key):
            return None
        with self._weights.as_in_file(key):
            weight = super().patch_weight_to_device(key, device_to, return_weight=True)
        self._weights.write(key, weight)
        return None

    def patch_hook_weight_to_device(self, hooks, combined_patches, key, original_weights, memory_counter):
        held = self._weights.held(key)
        if held is Held.CUT and key in combined_patches:
            raise NotImplementedError(f"a hook LoRA changes {key}, whose weights are divided: set weights to replicate")
        if held is Held.WHOLE:
            super().patch_hook_weight_to_device(hooks, combined_patches, key, original_weights, memory_counter)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        super().unpatch_model(None, unpatch_weights)
        if unpatch_weights:
            self._weights.unpatch()

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return super().partially_load(device_to, 1e32, force_patch_weights)

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return 0

    def detach(self, unpatch_all=True):
        model = super().detach(unpatch_all)
        if unpatch_all:
            self.forget_kernels()
            self._weights.release()
            self.model.device = self.offload_device
        return model

    def forget_kernels(self) -> None:
        """Drop the model's CUDA graphs and what PipeFusion keeps of it from one run to the next."""
        if (accelerated := getattr(self.model, "xdit_accelerated", None)) is not None:
            accelerated.drop()
        if (sharded := getattr(self.model, "xdit_sharded", None)) is not None:
            sharded.pipeline_memory.clear()
