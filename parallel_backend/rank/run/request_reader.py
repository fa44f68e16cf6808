"""Reads a request in a rank: gives the functions of `transport.restore` what this rank holds."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from comfy_api.internal import lock_class

from ...contract.commands import ArenaMessage, Prepare
from ...contract.payload import IN_PLACE, PATCHER_STATE
from ...contract.recipe import ModelIdentity
from ...transport import restore
from ...transport.blobs import BlobCache
from ...transport.returned import Received
from ..weights.model_store import ModelStore, ModuleStore
from .changed_models import as_object_patches
from .pack_imports import PackImportFailed, import_packs
from .replaced_for_request import Replacements

INFRASTRUCTURE = ("_io", "_thread", "builtins", "cloudpickle", "collections", "copyreg", "torch", "types")


class Unreadable(RuntimeError):
    """An object of a request cannot be rebuilt here; the message names the last one begun, and its module."""


class _Unpickler(pickle.Unpickler):
    """Knows what it rebuilds: `latest`, a class or function of ComfyUI's or a node pack's."""

    latest = "an object of the request"

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in INFRASTRUCTURE and module != restore.__name__:
            self.latest = f"{name} of {module}"
        return super().find_class(module, name)


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
        import_packs(message.packs)
        self._replacements.begin()
        return self.read_again(message)

    def read_again(self, message: Prepare) -> Any:
        """New objects of the same request. Parameters of models among them are those that the models have now."""
        self.echo, self.patchers, self._identities = [], [], {}
        carried = self.loads(message.stream, message.packs, message.forget)
        self._replacements.apply(carried)
        return carried.payload

    def end(self) -> None:
        """The request that was read is over."""
        self._replacements.end()
        self.patchers, self.received = [], Received()

    def loads(self, stream: bytes, packs: Mapping[str, str], forget: list[bytes]) -> Any:
        """What `stream` holds, read with `packs` imported; blobs that it no longer names (`forget`) are let go."""
        self.received = Received()
        unpickler = _Unpickler(io.BytesIO(stream))
        try:
            import_packs(packs)
            with restore.reading(self):
                return unpickler.load()[0]
        except (ImportError, AttributeError, TypeError, LookupError, ValueError) as error:
            if isinstance(error, PackImportFailed):
                raise
            raise Unreadable(f"{unpickler.latest}: {type(error).__name__}: {error}") from error
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
        """The model's own, also while an earlier prompt's object patches are in its place."""
        patcher = self.models.base(identity)
        own, names, exchanged = patcher.model, path.split(".") if path else [], patcher.object_patches_backup
        for length in range(len(names), 0, -1):
            if (patched := ".".join(names[:length])) in exchanged:
                own, names = exchanged[patched], names[length:]
                break
        return comfy.utils.get_attr(own, ".".join(names)) if names else own

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

    def node_class(self, cls: Any, hidden: dict[str, Any]) -> type:
        clone = cls.PREPARE_CLASS_CLONE(None)
        for name, value in hidden.items():
            setattr(clone.hidden, name, value)
        return lock_class(clone)
