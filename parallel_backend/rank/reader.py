"""Reads a request in a rank: gives the functions of `transport.restore` what this rank holds."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from ..protocol import ArenaMessage, Prepare
from ..recipe import ModelIdentity
from ..transport import restore
from ..transport.blobs import BlobCache
from .packs import PackImportFailed, import_packs
from .store import ModelStore, ModuleStore

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
        self.echo: list[tuple] = []
        self.patchers: list[Any] = []

    def add_arena(self, message: ArenaMessage, descriptor: int) -> None:
        self._blobs.add_arena(descriptor, message.size, message.spans)

    def read(self, message: Prepare) -> Any:
        """The request's objects. Raises whatever keeps them from being rebuilt."""
        self.echo, self.patchers = [], []
        self.modules.offer(message.modules, message.keep_modules)
        return self.loads(message.stream, message.packs, message.forget)

    def loads(self, stream: bytes, packs: Mapping[str, str], forget: list[bytes]) -> Any:
        """What `stream` holds, read with `packs` imported; blobs that it no longer names (`forget`) are let go."""
        unpickler = _Unpickler(io.BytesIO(stream))
        try:
            import_packs(packs)
            with restore.reading(self):
                return unpickler.load()
        except (ImportError, AttributeError, TypeError, LookupError, ValueError) as error:
            if isinstance(error, PackImportFailed):
                raise
            raise Unreadable(f"{unpickler.latest}: {type(error).__name__}: {error}") from error
        finally:  # the host counts on it, whether the stream could be read or not
            self._blobs.forget(forget)

    # transport.restore.Reader

    def blob(self, digest: bytes) -> torch.Tensor:
        return self._blobs.get(digest)

    def model_patcher(self, identity: ModelIdentity, state: dict[str, Any]) -> Any:
        patcher = self.models.patcher(identity, state)
        model = patcher.model
        self.echo.append(
            (identity.key, str(patcher.patches_uuid), str(model.get_dtype()), str(model.manual_cast_dtype))
        )
        self.patchers.append(patcher)
        return patcher

    def base_model(self, identity: ModelIdentity) -> Any:
        return self.models.base(identity).model

    def module(self, key: bytes) -> torch.nn.Module:
        return self.modules.module(key)

    def module_patcher(self, module: torch.nn.Module, state: dict[str, Any]) -> Any:
        return self.modules.patcher(module, state)
