"""Reads a request in a rank: gives the functions of `transport.restore` what this rank holds."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from typing import Any

import comfy.utils
import torch
from comfy_api.internal import lock_class

from ..protocol import IN_PLACE, PATCHER_STATE, ArenaMessage, Prepare
from ..recipe import ModelIdentity
from ..transport import restore
from ..transport.blobs import BlobCache
from ..transport.returned import Received
from .in_place import as_object_patches
from .replacements import Replacements
from .store import ModelStore, ModuleStore


class RequestReader:
    """Everything pickled streams refer to. `echo` collects what the host compares before it says go."""

    def __init__(self, device: torch.device, models: ModelStore):
        self.device = device
        self.models = models
        self.modules = ModuleStore(device)
        self._blobs = BlobCache()
        self._replacements = Replacements()
        self.echo: list[tuple] = []
        self.patchers: list[Any] = []
        self.received = Received()
        self._identities: dict[int, str] = {}

    def add_arena(self, message: ArenaMessage, descriptor: int) -> None:
        self._blobs.add_arena(descriptor, message.size, message.spans)

    def read(self, message: Prepare) -> Any:
        """The request's objects. Raises whatever keeps them from being rebuilt."""
        self.modules.offer(message.modules, message.keep_modules)
        for name, (file, package) in reversed(message.imports.items()):
            import_by_path(name, file, package)
        self._replacements.begin()
        return self.read_again(message)

    def read_again(self, message: Prepare) -> Any:
        """New objects of the same request. Parameters of models among them are those that the models have now."""
        self.echo, self.patchers, self._identities = [], [], {}
        carried = self.loads(message.stream, message.forget)
        self._replacements.apply(carried)
        return carried.payload

    def end(self) -> None:
        """The request that was read is over."""
        self._replacements.end()
        self.patchers = []

    def loads(self, stream: bytes, forget: list[bytes]) -> Any:
        """What `stream` holds; blobs that it no longer names (`forget`) are let go."""
        self.received = Received()
        try:
            with restore.reading(self):
                return pickle.loads(stream)[0]
        finally:  # the host counts on it, whether the stream could be read or not
            self._blobs.forget(forget)

    # transport.restore.Reader

    def blob(self, digest: bytes) -> torch.Tensor:
        return self._blobs.get(digest)

    def number(self, number: int, made: Any) -> None:
        self.received.number(number, made)

    def model_patcher(self, identity: ModelIdentity) -> Any:
        patcher = self.models.base(identity).clone()
        self.patchers.append(patcher)
        self._identities[id(patcher)] = identity.key
        return patcher

    def model_part(self, identity: ModelIdentity, path: str) -> Any:
        model = self.models.base(identity).model
        return comfy.utils.get_attr(model, path) if path else model

    def original(self, module_name: str, qualified_name: str) -> Any:
        return self._replacements.function(module_name, qualified_name)

    def module(self, key: bytes) -> torch.nn.Module:
        return self.modules.module(key)

    def module_patcher(self, module: torch.nn.Module) -> Any:
        return self.modules.patcher(module)

    def set_patcher_state(self, patcher: Any, state: dict[str, Any]) -> None:
        for name in PATCHER_STATE:
            setattr(patcher, name, state[name])
        if (key := self._identities.get(id(patcher))) is not None:
            model = patcher.model
            patcher.in_place = state.get(IN_PLACE)
            if patcher.in_place is not None:
                patcher.object_patches = {**as_object_patches(model, patcher.in_place), **patcher.object_patches}
            self.echo.append((key, str(patcher.patches_uuid), str(model.get_dtype()), str(model.manual_cast_dtype)))

    def node_class(self, cls: type, hidden: dict[str, Any]) -> type:
        clone = cls.PREPARE_CLASS_CLONE(None)
        for name, value in hidden.items():
            setattr(clone.hidden, name, value)
        return lock_class(clone)


def import_by_path(name: str, file: str, package: bool) -> None:
    """Import `file` under the name that ComfyUI gave it, so that classes are the same objects for pickle."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[file.rpartition("/")[0]] if package else None
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
