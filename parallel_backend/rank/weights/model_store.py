"""The models of one rank, by identity; and other modules (ControlNet, VAE), by content."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection, Iterable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from ...contract.recipe import ModelIdentity
from ...loading.meta_loading import load_model
from ...sharding.plan.plan import class_path
from .model_weights import Weights
from .rank_patcher import RankModelPatcher


class StaleIdentity(RuntimeError):
    """The files changed after the host looked at them."""


class ModelNotLoaded(RuntimeError):
    """A model cannot be loaded in this rank; `cause` is what its loader raised, or StaleIdentity."""

    def __init__(self, title: str, cause: Exception):
        super().__init__(f"{title} cannot be loaded: {cause}")
        self.cause = cause


class ModelStore:
    def __init__(self, device: torch.device, on_load: Callable[[Any], None]):
        self._device = device
        self._on_load = on_load
        self._models: dict[str, tuple[ModelIdentity, RankModelPatcher]] = {}

    def base(self, identity: ModelIdentity) -> RankModelPatcher:
        """The patcher of the model with `identity` from which those of requests are cloned.

        Raises ModelNotLoaded: the file is not the one the host named, or its loader raised.
        """
        try:
            return self._base(identity)
        except Exception as error:
            raise ModelNotLoaded(identity.title, error) from error

    def _base(self, identity: ModelIdentity) -> RankModelPatcher:
        now = identity.recipe.identity()
        if now.key != identity.key:
            raise StaleIdentity(f"{identity.title} changed on disk while this prompt was being queued; queue it again")
        self._drop_stale(identity)
        if identity.key not in self._models:
            model = load_model(identity.recipe, data=True)
            model.xdit_weights = Weights(model, self._device, identity.title)
            model.device = torch.device("cpu")
            self._on_load(model)
            patcher = RankModelPatcher(model, load_device=self._device, offload_device=torch.device("cpu"))
            self._models[identity.key] = (identity, patcher)
        return self._models[identity.key][1]

    def resident(self) -> tuple[tuple[str, int], ...]:
        """(title, bytes) of the models whose weights are on the device. For any thread."""
        weights = [patcher.model.xdit_weights for _, patcher in list(self._models.values())]
        return tuple((one.title, one.nbytes) for one in weights if one.nbytes)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the models with these identity keys, their files' pages too."""
        for key in keys:
            if key in self._models:
                _, patcher = self._models.pop(key)
                comfy.model_management.unload_model_and_clones(patcher)

    def forget_classes(self, classes: Collection[str]) -> None:
        """Drop the models whose diffusion model is of one of these classes (`class_path`): they are loaded again when
        they are named, and get the plan that their class has then.
        """
        held = {key: class_path(patcher.model.diffusion_model) for key, (_, patcher) in self._models.items()}
        self.forget(key for key, name in held.items() if name in classes)

    def forget_kernels(self) -> None:
        """Drop what was recorded for a model beside its weights (CUDA graphs, a pipeline's memory): it refers to
        process groups and their buffers.
        """
        for _, patcher in self._models.values():
            patcher.forget_kernels()

    def _drop_stale(self, identity: ModelIdentity) -> None:
        """Forget models made by the same recipe from files that are no longer those."""
        stale = [key for key, (held, _) in self._models.items() if held.recipe == identity.recipe]
        self.forget(key for key in stale if key != identity.key)


class ModuleStore:
    """Modules by content key, kept while the host names them."""

    def __init__(self, device: torch.device):
        self._device = device
        self._payloads: dict[bytes, bytes] = {}
        self._modules: dict[bytes, torch.nn.Module] = {}
        self._patchers: dict[int, comfy.model_patcher.ModelPatcher] = {}

    def offer(self, payloads: dict[bytes, bytes], keep: list[bytes]) -> None:
        self._payloads.update(payloads)
        for key in [key for key in self._modules if key not in keep]:
            module = self._modules.pop(key)
            patcher = self._patchers.pop(id(module), None)
            if patcher is not None:
                comfy.model_management.unload_model_and_clones(patcher)
        self._payloads = {key: value for key, value in self._payloads.items() if key in keep}

    def resident(self) -> tuple[tuple[str, int], ...]:
        """(class, bytes) of the modules whose weights are on the device. For any thread."""
        sizes = [(type(one.model).__name__, int(one.loaded_size())) for one in list(self._patchers.values())]
        return tuple((title, size) for title, size in sizes if size)

    def release(self) -> None:
        """Drop what `module` built, once unloaded. It is built again from what the ranks share: no copies are left."""
        self._modules.clear()
        self._patchers.clear()

    def module(self, key: bytes) -> torch.nn.Module:
        if key not in self._modules:
            module = pickle.load(io.BytesIO(self._payloads[key]))
            _cast_to_model_dtypes(module)
            self._modules[key] = module
        return self._modules[key]

    def patcher(self, module: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
        base = self._patchers.get(id(module))
        if base is None:
            base = comfy.model_patcher.ModelPatcher(module, self._device, torch.device("cpu"))
            self._patchers[id(module)] = base
        return base.clone()


def _cast_to_model_dtypes(module: torch.nn.Module) -> None:
    """ComfyUI's DynamicVRAM keeps a file's dtype and casts while it runs; a plain module holds the model's dtype."""
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            dtype = getattr(inner, f"{name}_comfy_model_dtype", None)
            if dtype is not None and parameter.dtype != dtype and type(parameter.data) is torch.Tensor:
                parameter.data = parameter.data.to(dtype)
