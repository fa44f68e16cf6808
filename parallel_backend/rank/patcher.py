"""ComfyUI's patcher in a rank: always whole on the rank's device or not at all, and without a CPU backup of weights."""

from __future__ import annotations

import comfy.model_patcher
import comfy.utils

from .weights import Weights


class RankModelPatcher(comfy.model_patcher.ModelPatcher):
    """A ModelPatcher over `model.xdit_weights` (Weights). Unloading drops to the file's pages, always whole."""

    @property
    def _weights(self) -> Weights:
        return self.model.xdit_weights

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        self._weights.materialise()
        super().load(device_to, force_patch_weights=force_patch_weights, full_load=True)

    def patch_weight_to_device(self, key, device_to=None, inplace_update=False, return_weight=False, force_cast=False):
        if return_weight or key not in self.patches:
            return super().patch_weight_to_device(key, device_to, inplace_update, return_weight, force_cast)
        weight = super().patch_weight_to_device(key, device_to, return_weight=True)
        comfy.utils.set_attr_param(self.model, key, weight)
        self._weights.patched.add(key)
        return None

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        super().unpatch_model(None, unpatch_weights)
        if unpatch_weights:
            self._weights.restore_patched()

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        return super().partially_load(device_to, 1e32, force_patch_weights)

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return 0

    def detach(self, unpatch_all=True):
        model = super().detach(unpatch_all)
        if unpatch_all:
            if (accelerated := getattr(self.model, "xdit_accelerated", None)) is not None:
                accelerated.drop()
            self._weights.release()
            self.model.device = self.offload_device
        return model
