"""Looks at a MODEL's model in ComfyUI's process for what nodes did to it beside its patcher."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ...foreign.changes_in_place import (
    AS_PATCHED,
    CLASS,
    Hook,
    InPlace,
    Method,
    attributes_of,
    class_name,
    modules_of,
    samples,
    tensors_of,
)
from ...foreign.code_origin import file_of_class, foreign_file, is_foreign_file, pack_of
from ...foreign.per_class import once_per_class

_made: WeakKeyDictionary[torch.nn.Module, dict[str, torch.nn.Module]] = WeakKeyDictionary()


def remember_modules(model: torch.nn.Module) -> None:
    """`model` is as it was made: of modules without weights, no other way tells whether one was exchanged."""
    _made[model] = {path: module for path, module in model.named_modules() if path}


def look_at(patcher: Any) -> InPlace:
    """Of a MODEL whose object patches may be applied just now, as they are while ComfyUI samples."""
    with patcher.use_ejected():
        found = InPlace(skipped=tuple(patcher.object_patches))
        modules = list(modules_of(patcher.model, found.skipped))
        made = _made.get(patcher.model, {})
        for path, module in modules:
            patched = {name for name in found.skipped if name.rpartition(".")[0] == path}
            found.classes[path] = class_name(type(module)) if f"{path}.{CLASS}" not in patched else AS_PATCHED
            if made and path and made.get(path) is not module:
                found.classes[path] += " that was not there"
            if attributes := attributes_of(module):
                found.attributes[path] = {
                    name: value for name, value in attributes.items() if f"{path}.{name}" not in patched
                }
            if _is_of_a_pack(type(module)) and found.classes[path] != AS_PATCHED:
                found.foreign[path] = type(module)
            found.methods.extend(
                Method(path, name, *_unbound(value, module))
                for name, value in _changed(module)
                if (f"{path}.{name}" if path else name) not in patcher.object_patches
            )
            found.hooks.extend(_hooks(path, module))
        found.samples = samples(_unpatched(patcher, modules))
    return found


def undivided(found: InPlace) -> str:
    """Why a model call cannot be divided, or ""."""
    changes: list[Method | Hook] = [*found.methods, *found.hooks]
    for changed in changes:
        where = changed.key if isinstance(changed, Method) else changed.path
        what = "replaced" if isinstance(changed, Method) else "put a hook on"
        file = foreign_file(changed.value)
        who = f"the node pack {pack_of(file)!r}" if file is not None else "a node"
        return f"{who} {what} {where} of the loaded model, beside its patcher, which may look at all tokens"
    for path, cls in found.foreign.items():
        if any(base.__module__.startswith("comfy.ldm.") for base in cls.__mro__):  # a loader's layers have no such base
            pack = pack_of(file_of_class(cls))
            return f"the node pack {pack!r} made {path} of the model a {cls.__qualname__}, which may look at all tokens"
    return ""


@once_per_class
def _is_of_a_pack(cls: type) -> bool:
    return is_foreign_file(file_of_class(cls))


def _changed(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """What runs of this object and is not its class's."""
    cls = type(module)
    for name, value in list(vars(module).items()):
        if not callable(value):
            continue
        own = getattr(cls, name, None)
        if own is None or isinstance(own, torch.nn.Module):
            if not _is_of_a_pack(cls) and not isinstance(value, type) and foreign_file(value) is not None:
                yield name, value
        elif not _is_bound_to(value, module, own):
            yield name, value


def _is_bound_to(value: Any, module: torch.nn.Module, function: Any) -> bool:
    """Whether `value` is the class's own method: ComfyUI leaves it in the object when it takes an object patch back."""
    return isinstance(value, types.MethodType) and value.__self__ is module and value.__func__ is function


def _unbound(value: Any, module: torch.nn.Module) -> tuple[Any, bool]:
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return value.__func__, True
    return value, False


def _hooks(path: str, module: torch.nn.Module) -> Iterator[Hook]:
    for number, value in list(module._forward_pre_hooks.items()):
        if foreign_file(value) is not None:
            yield Hook(path, value, True, number in module._forward_pre_hooks_with_kwargs, False)
    for number, value in list(module._forward_hooks.items()):
        if foreign_file(value) is not None:
            with_kwargs = number in module._forward_hooks_with_kwargs
            yield Hook(path, value, False, with_kwargs, number in module._forward_hooks_always_called)


def _unpatched(patcher: Any, modules: list[tuple[str, torch.nn.Module]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that hold what was loaded."""
    patched = set(patcher.backup) | set(patcher.hook_backup)
    if patcher.model.current_weight_patches_uuid is not None:
        patched |= {key if isinstance(key, str) else key[0] for key in patcher.patches}
    return ((name, tensor) for name, tensor in tensors_of(modules) if name not in patched)
