"""Does to a rank's model what nodes did to ComfyUI's, beside its patcher; refuses what cannot be done here."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ...foreign.changes_in_place import AS_PATCHED, InPlace, class_name, modules_of, samples, tensors_of
from ...foreign.code_origin import file_of_class, pack_of

WHAT_TO_DO = (
    "what a node does to a loaded model itself, beside its patcher, cannot be brought to the ranks as far as that:"
    " leave that node out and load the model anew (change an input of the loader, or restart ComfyUI), or sample with a"
    " stock loader and sampler"
)

_last_seen: WeakKeyDictionary[torch.nn.Module, tuple] = WeakKeyDictionary()  # of ComfyUI's model, and found alike
_own_samples: WeakKeyDictionary[torch.nn.Module, dict] = WeakKeyDictionary()


class ChangedInPlace(RuntimeError):
    """ComfyUI's model is not the one that its files give, and the ranks cannot follow."""


def as_object_patches(model: torch.nn.Module, found: InPlace) -> dict[str, Any]:
    """The replaced methods, bound to this rank's modules, as ComfyUI's patcher puts them there and takes them back."""
    modules = dict(model.named_modules())
    return {
        one.key: types.MethodType(one.value, modules[one.path]) if one.bound else one.value
        for one in found.methods
        if one.path in modules
    }


def follow(patcher: Any, found: InPlace) -> list[Callable[[], None]]:
    """Do what was done there; what is returned undoes it. Raises ChangedInPlace, having done nothing."""
    model = patcher.model
    looks = (found.skipped, found.classes, found.samples, found.attributes)
    if _last_seen.get(model) == looks and not found.hooks and not found.foreign:
        return []
    _last_seen.pop(model, None)
    with patcher.use_ejected():
        modules = dict(modules_of(model, found.skipped))
        classes = _classes(modules, found)
        _check_weights(model, found, modules)
    undo: list[Callable[[], None]] = []
    for module, cls in classes:
        undo.append(functools.partial(setattr, module, "__class__", type(module)))
        module.__class__ = cls
    for hook in found.hooks:
        module = modules[hook.path]
        if hook.early:
            handle = module.register_forward_pre_hook(hook.value, with_kwargs=hook.with_kwargs)
        else:
            handle = module.register_forward_hook(hook.value, with_kwargs=hook.with_kwargs, always_call=hook.always)
        undo.append(handle.remove)
    for path, attributes in found.attributes.items():
        own = vars(modules[path])
        for name, value in attributes.items():
            if type(own.get(name)) is type(value) and own[name] != value:
                undo.append(functools.partial(own.__setitem__, name, own[name]))
                own[name] = value
            elif not hasattr(modules[path], name):
                undo.append(functools.partial(own.pop, name))
                own[name] = value
    if not undo:
        _last_seen[model] = looks
    return undo


def _classes(modules: dict[str, torch.nn.Module], found: InPlace) -> list[tuple[torch.nn.Module, type]]:
    """The modules that are of another pack's subclass in ComfyUI's process. Raises ChangedInPlace."""
    for path in found.classes.keys() ^ modules.keys():
        there = f"a {found.classes[path]}" if path in found.classes else "nothing"
        here = f"a {class_name(type(modules[path]))}" if path in modules else "nothing"
        raise ChangedInPlace(
            f"{path} of the model is {there} in ComfyUI's process, and {here} in its file; {WHAT_TO_DO}"
        )
    changed = []
    for path, name in found.classes.items():
        own, cls = modules[path], found.foreign.get(path)
        if name in (class_name(type(own)), AS_PATCHED):
            continue
        if cls is None or not issubclass(cls, type(own)):
            by = f" of the node pack {pack_of(file_of_class(cls))!r}" if cls is not None else ""
            raise ChangedInPlace(
                f"{path} of the model is a {name}{by} in ComfyUI's process, and a {class_name(type(own))} in its file;"
                f" {WHAT_TO_DO}"
            )
        changed.append((own, cls))
    return changed


def _check_weights(model: Any, found: InPlace, modules: dict[str, torch.nn.Module]) -> None:
    """Raises ChangedInPlace when ComfyUI's process has other weights than the files."""
    held = dict(tensors_of(modules.items()))
    looked_at = {
        name: sample for name, sample in found.samples.items() if name not in getattr(model, "xdit_missing", ())
    }
    if missing := [name for name in looked_at if name not in held]:
        raise ChangedInPlace(f"the model's file has no {missing[0]}, ComfyUI's process has; {WHAT_TO_DO}")
    known = _own_samples.setdefault(model, {})
    wanted = {name: dtype for name, (dtype, _) in looked_at.items() if (name, dtype) not in known}
    sources = ((name, model.xdit_weights.source(name, held[name])) for name in wanted)
    own = samples(sources, wanted)
    for name, dtype in wanted.items():
        known[name, dtype] = own[name][1] if name in own else None
    different = [name for name, (dtype, bits) in looked_at.items() if known[name, dtype] not in (None, bits)]
    if different:
        more = f" and {len(different) - 1} more parameters" if len(different) > 1 else ""
        raise ChangedInPlace(
            f"{different[0]}{more} of the model: other values in ComfyUI's process than in its file; {WHAT_TO_DO}. A"
            " LoRA, or a merge that is saved and loaded again, changes weights in all processes"
        )
