"""Looks at a MODEL's model in ComfyUI's process for what nodes did to it beside its patcher."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch

from ..foreign_code import file_of_class, foreign_file, is_foreign_file, pack_of
from ..in_place import Hook, InPlace, Method, class_name, modules_of, samples, tensors_of


def look_at(patcher: Any) -> InPlace:
    """Of a MODEL whose object patches may be applied just now, as they are while ComfyUI samples."""
    with patcher.use_ejected():
        found = InPlace(skipped=tuple(patcher.object_patches))
        for path, module in modules_of(patcher.model, found.skipped):
            found.classes[path] = class_name(module)
            if is_foreign_file(file_of_class(type(module))):
                found.foreign[path] = type(module)
            found.methods.extend(
                Method(path, name, *_unbound(value, module))
                for name, value in _changed(module)
                if (f"{path}.{name}" if path else name) not in patcher.object_patches
            )
            found.hooks.extend(_hooks(path, module))
        found.samples = samples(_unpatched(patcher, found.skipped))
    return found


def undivided(found: InPlace) -> str:
    """Why a model call cannot be divided, or ""."""
    for changed in (*found.methods, *found.hooks):
        where = changed.key if isinstance(changed, Method) else changed.path
        what = "replaced" if isinstance(changed, Method) else "put a hook on"
        file = foreign_file(changed.value)
        who = f"the node pack {pack_of(file)!r}" if file is not None else "a node"
        return f"{who} {what} {where} of the loaded model, beside its patcher, which may look at all tokens"
    return ""


def _changed(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """What runs of this object and is not its class's."""
    cls = type(module)
    made_by_pack = is_foreign_file(file_of_class(cls))
    for name, value in list(vars(module).items()):
        if not callable(value):
            continue
        own = getattr(cls, name, None)
        if own is None or isinstance(own, torch.nn.Module):
            if not made_by_pack and not isinstance(value, type) and foreign_file(value) is not None:
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


def _unpatched(patcher: Any, skipped: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that hold what was loaded."""
    patched = set(patcher.backup) | set(patcher.hook_backup)
    if patcher.model.current_weight_patches_uuid is not None:
        patched |= {key if isinstance(key, str) else key[0] for key in patcher.patches}
    return ((name, tensor) for name, tensor in tensors_of(patcher.model, skipped) if name not in patched)
