"""A MODEL as a recipe: the loader call that makes it, and an identity that changes whenever the weights may have.

The identity names the files by real path, size, modification time and header hash, so that sampling with another model
than the graph's is impossible: host and ranks compute it each for themselves and must agree before anything runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..system.printable_names import shown

HEADER_LENGTH_BYTES = 8
MAX_HEADER = 256 * 1024 * 1024


class NoRecipe(ValueError):
    """A MODEL that cannot be loaded again in the ranks."""


class UnreadableWeights(ValueError):
    """A weight file that is no safetensors file, or a broken one."""


@dataclass(frozen=True)
class FileIdentity:
    """A weight file: `header` is the SHA-256 of a safetensors header, or "" for other formats."""

    path: str
    size: int
    mtime_ns: int
    header: str

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        real = os.path.realpath(path)
        status = os.stat(real)
        return cls(real, status.st_size, status.st_mtime_ns, _header_hash(real, status.st_size))


@dataclass(frozen=True)
class Recipe:
    """`function(*args)` gives a patcher, or a sequence whose item `index` it is (ComfyUI's cached_patcher_init)."""

    function: Callable[..., Any]
    args: tuple
    index: int | None = None

    @classmethod
    def of(cls, patcher: Any) -> Recipe:
        """The recipe a MODEL carries. Raises NoRecipe, naming the class and what to use instead."""
        init = getattr(patcher, "cached_patcher_init", None)
        if init is None:
            raise NoRecipe(_without_recipe(patcher))
        return cls(init[0], tuple(init[1]), init[2] if len(init) > 2 else None)

    def files(self) -> tuple[str, ...]:
        """The existing files and folders among the arguments, in order. A list of folders is where embeddings lie."""
        flat: list[str] = []
        for arg in self.args:
            if isinstance(arg, list | tuple):
                flat.extend(item for item in arg if isinstance(item, str) and not os.path.isdir(item))
            elif isinstance(arg, str):
                flat.append(arg)
        return tuple(path for path in flat if os.path.exists(path))

    def identity(self) -> ModelIdentity:
        """The identity as the files are now, of those that are there. Raises UnreadableWeights."""
        files: list[FileIdentity] = []
        for path in self.files():
            if os.path.isdir(path):
                names = sorted(name for name in os.listdir(path) if name.endswith((".safetensors", ".json")))
                files.extend(FileIdentity.of(os.path.join(path, name)) for name in names)
            else:
                files.append(FileIdentity.of(path))
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        key = hashlib.sha256(repr((files, name, self.args, self.index)).encode()).hexdigest()
        return ModelIdentity(key, self, tuple(files))


@dataclass(frozen=True)
class ModelIdentity:
    """`key` stands for recipe and files together; two identities with the same key are the same weights."""

    key: str
    recipe: Recipe
    files: tuple[FileIdentity, ...]

    @property
    def title(self) -> str:
        return shown(os.path.basename(self.files[0].path)) if self.files else self.recipe.function.__qualname__


def _without_recipe(patcher: Any) -> str:
    """What can be done with a MODEL that does not say how to load it again, by what it is."""
    name, architecture = type(patcher).__name__, type(patcher.model).__name__
    text = f"this {name} of {architecture} does not say how to load it again, so the ranks cannot"
    if _is_gguf(patcher):
        return (
            f"{text}: it comes from a GGUF file, which the ranks do not read. Load a safetensors file of the model with"
            " xDiT Loader (fp8, int8 or nvfp4 ones are as small, and faster), or sample this MODEL on one device with a"
            " stock sampler"
        )
    return (
        f"{text}: if it comes from a safetensors file or a checkpoint, load that with xDiT Loader or xDiT Checkpoint"
        " Loader; else sample it on one device with a stock sampler. A node pack makes its MODELs loadable by setting"
        " cached_patcher_init (see docs/loaders.md of xDiT for ComfyUI)"
    )


def _is_gguf(patcher: Any) -> bool:
    """Whether a MODEL's weights are blocks of a GGUF file (city96/ComfyUI-GGUF and packs that build on it)."""
    operations = getattr(getattr(patcher.model, "model_config", None), "custom_operations", None)
    kinds = [*type(patcher).__mro__, *getattr(operations, "__mro__", ())]
    kinds += [type(parameter.data) for parameter in patcher.model.parameters()]
    return any("gguf" in one.__name__.lower() or "ggml" in one.__name__.lower() for one in kinds)


def _header_hash(path: str, size: int) -> str:
    if not path.lower().endswith((".safetensors", ".sft")):
        return ""
    with open(path, "rb") as file:
        start = file.read(HEADER_LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if len(start) < HEADER_LENGTH_BYTES or length > min(size, MAX_HEADER):
            raise UnreadableWeights(f"{shown(path)} is no safetensors file, or a truncated one")
        return hashlib.sha256(start + file.read(length)).hexdigest()
