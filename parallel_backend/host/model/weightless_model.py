"""The MODEL that the graph holds: ComfyUI's model object without weights, in a patcher that samples in the ranks."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP

from ...contract.config import ParallelConfig
from ...contract.recipe import ModelIdentity, Recipe
from ...loading.meta_loading import load_model
from .file_identity import identity_of, remember
from .model_changes import remember_modules
from .seam import SEAM_KEY, Seam
from .weightless_parameters import WeightlessModelError, guard_weights, no_weights

FORWARDS = frozenset(("forward", "_forward"))  # one of these is replaced while the ranks serve the model's calls


class XDiTModelPatcher(comfy.model_patcher.ModelPatcher):
    """A patcher whose weights live in the ranks. Patches, wrappers, options and hooks are kept here and sent along.

    `recipe` is how the ranks load it, `parallel_config` the loader's Parallel Config (a sampler's wins over it).
    """

    recipe: Recipe
    parallel_config: ParallelConfig | None = None

    @classmethod
    def from_recipe(cls, recipe: Recipe, config: ParallelConfig | None, seam: Seam) -> XDiTModelPatcher:
        """The MODEL of `recipe`, its tensors above 64 KB on meta, sampled by `seam`. Raises UnreadableWeights."""
        identity = recipe.identity()
        model = load_model(recipe, data=False)
        guard_weights(model)
        remember_modules(model)
        remember(model, identity)
        patcher = cls(model, comfy.model_management.get_torch_device(), torch.device("cpu"))
        patcher._attach(recipe, config, seam)
        return patcher

    @classmethod
    def from_patcher(cls, patcher: Any, config: ParallelConfig | None, seam: Seam) -> XDiTModelPatcher:
        """A parallel MODEL with the state of any MODEL that carries a recipe. The other one leaves ComfyUI's GPU.

        Raises NoRecipe, naming the class, or FilesChanged.
        """
        recipe, identity = Recipe.of(patcher), identity_of(patcher)
        comfy.model_management.unload_model_and_clones(patcher)
        plain = patcher.clone(disable_dynamic=True, model_override=patcher.get_clone_model_override())
        ours = cls(plain.model, plain.load_device, plain.offload_device)
        ours.__dict__.update(plain.__dict__)
        remember(ours.model, identity)
        ours._attach(recipe, config, seam)
        return ours

    def _attach(self, recipe: Recipe, config: ParallelConfig | None, seam: Seam) -> None:
        self.recipe = recipe
        self.parallel_config = config
        self.cached_patcher_init = (recipe.function, recipe.args, *(() if recipe.index is None else (recipe.index,)))
        self.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, SEAM_KEY)
        self.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, SEAM_KEY, seam)

    def identity(self) -> ModelIdentity:
        """The identity of the weights. Raises FilesChanged when their files are not those any more that were loaded."""
        return identity_of(self)

    def with_config(self, config: ParallelConfig | None) -> XDiTModelPatcher:
        """A clone whose Parallel Config is `config`, or this one when there is none."""
        if config is None:
            return self
        clone = self.clone()
        clone.parallel_config = config
        return clone

    # ComfyUI's contract

    def clone(self, disable_dynamic=False, model_override=None, force_deepcopy=False):
        clone = super().clone(disable_dynamic, model_override)
        clone.recipe = self.recipe
        clone.parallel_config = self.parallel_config
        return clone

    def register_all_hook_patches(self, hooks, target_dict, model_options=None, registered=None):
        # The last call before ComfyUI builds the chain of OUTER_SAMPLE wrappers: ours has to be the outermost, or a
        # wrapper in front of it (EasyCache) would run here and once more in the ranks.
        if model_options is not None:
            wrappers = model_options["transformer_options"].get("wrappers", {}).get(WrappersMP.OUTER_SAMPLE, {})
            if SEAM_KEY in wrappers:
                seam = wrappers.pop(SEAM_KEY)[:1]
                others = dict(wrappers)
                wrappers.clear()
                wrappers.update({SEAM_KEY: seam, **others})
        return super().register_all_hook_patches(hooks, target_dict, model_options, registered)

    def model_size(self):
        return 0

    def loaded_size(self):
        return 0

    def patch_model(self, device_to=None, lowvram_model_memory=0, load_weights=True, force_patch_weights=False):
        return super().patch_model(device_to, load_weights=False)

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        self.unpatch_model(unpatch_weights=False)
        self.patch_model(device_to)
        return 0

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return 0

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        return super().unpatch_model(None, unpatch_weights=False)

    def pre_run(self):
        # Without this a weightless model would compute on unset memory, and give a picture.
        if FORWARDS.isdisjoint(vars(self.model.diffusion_model)):
            raise no_weights("run it there")
        return super().pre_run()

    def get_key_patches(self, filter_prefix=None):
        raise WeightlessModelError(
            "an xDiT MODEL has no weights in ComfyUI's process, so it cannot be merged or saved: merge or save with a"
            " stock loader first, then load the result with xDiT Loader"
        )

    def state_dict_for_saving(self, *args, **kwargs):
        return self.get_key_patches()

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        if any(isinstance(value, list) for value in patches.values()):
            self.get_key_patches()  # a merge: whole weights of another MODEL as patches
        return super().add_patches(patches, strength_patch, strength_model)
