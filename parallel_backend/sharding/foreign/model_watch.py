"""Where in a diffusion model code runs that is neither its classes' own nor this pack's.

Node packs replace a method of one module or of a class, exchange a module or its class, put hooks on: before a run, or
around each model call. Such code may look at any token, at another rank's too, and knows nothing of compiled blocks and
CUDA graphs. So at the beginning of each model call the model is held against what it was when it was loaded.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import chain, repeat
from types import FunctionType
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from ..plan.plan import class_path

OURS = f"{__package__.rsplit('.', 2)[0]}."  # how the names of this pack's modules begin
ATTRIBUTE = "xdit_watch"  # of a diffusion model
LIBRARIES = frozenset({"torch", "comfy", "comfy_kitchen"})
# Of torch's own classes only what is called for a module's output; packs wrap `to` and the like.
CALLS = frozenset({"forward", "__call__", "_call_impl", "_wrapped_call_impl"})
# Objects of ComfyUI whose methods replace a forward, and compute each token from this token alone.
TOKEN_BY_TOKEN = {
    # f(x) + h(x) of one linear layer, with what was there before as f; its adapters are products with matrices
    "comfy.weight_adapter.bypass.BypassForwardHook": ("original_forward", "adapter", "comfy.weight_adapter."),
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
GLOBAL_HOOKS = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)


@dataclass(frozen=True)
class ForeignCode:
    """One piece. `path`: of the module that runs it, "" for the model itself. `what`: which part of it ("forward", "a
    hook"). `by`: the code, and whose it is. `any_token`: it may look at all tokens; False where it is known not to.
    `everywhere`: each module of the model runs it.
    """

    path: str
    what: str
    by: str
    any_token: bool = True
    everywhere: bool = False


def watch(model: torch.nn.Module) -> ModelWatch:
    """The watch over this diffusion model. The first call is for one as it was loaded."""
    if ATTRIBUTE not in vars(model):
        object.__setattr__(model, ATTRIBUTE, ModelWatch(model))
    return vars(model)[ATTRIBUTE]


class ModelWatch:
    """`found`: the foreign code in `model` at the beginning of the last model call; the same object as long as nothing
    changed.
    """

    def __init__(self, model: torch.nn.Module):
        self.found: tuple[ForeignCode, ...] = ()
        self._model = model
        self._modules = dict(model.named_modules())
        self._class_of = {id(module): type(module) for module in self._modules.values()}
        self._kept = {id(module): _callables(module) for module in self._modules.values()}
        self._hooks = {(id(module), name, key) for module in self._modules.values() for name, key, _ in _hooks(module)}
        self._global_hooks = {key for hooks in GLOBAL_HOOKS for key in hooks}
        self._functions = {
            kind: {name: function for name, function in _functions(kind) if not _of_somebody_else(kind, function)}
            for kind in _classes(self._modules.values())
        }
        model.register_forward_pre_hook(self._before_call)
        self._look_closely()

    def look(self) -> tuple[ForeignCode, ...]:
        """Renew `found`, and give it."""
        if not self._unchanged():
            self._look_closely()
        return self.found

    def _before_call(self, *_) -> None:
        self.look()

    def _unchanged(self) -> bool:
        """Whether all is as at the last close look. Asked before each model call, of some thousand modules: every line
        is a loop of the interpreter's own.
        """
        return (
            RemovableHandle.next_id == self._next_hook
            and list(map(len, self._dicts)) == self._sizes
            and sum(map(operator.contains, self._dicts, repeat("forward"))) == self._forwards
            and vars(self._model).keys() == self._names
            and list(map(type, self._flat)) == self._kinds
            and list(map(len, self._used_hooks)) == self._hook_counts
            and list(chain.from_iterable(map(dict.values, self._children))) == self._grandchildren
            and all(map(operator.is_, map(dict.get, self._slot_dicts, self._slot_names), self._slot_values))
            and list(map(len, self._class_dicts)) == self._class_sizes
            and all(get(name) is function for get, name, function in self._class_slots)
        )

    def _look_closely(self) -> None:
        found = list(self._examine())
        if found != list(self.found):
            self.found = tuple(found)
        self._remember()

    def _remember(self) -> None:
        """The state in which `found` is true."""
        self._flat = list(self._model.modules())
        self._dicts = [vars(module) for module in self._flat]
        self._sizes = list(map(len, self._dicts))
        self._forwards = sum(map(operator.contains, self._dicts, repeat("forward")))
        self._names = set(vars(self._model))
        self._kinds = list(map(type, self._flat))
        hooks = [vars(module)[name] for module in self._flat for name in HOOKS]
        self._used_hooks = [*(one for one in hooks if one), *GLOBAL_HOOKS]
        self._hook_counts = list(map(len, self._used_hooks))
        self._next_hook = RemovableHandle.next_id
        self._children = [module._modules for module in self._flat if module._modules]
        self._grandchildren = [child for children in self._children for child in children.values()]
        slots = [(vars(module), name, value) for module in self._flat for name, value in self._values(module)]
        self._slot_dicts = [variables for variables, _, _ in slots]
        self._slot_names = [name for _, name, _ in slots]
        self._slot_values = [value for *_, value in slots]
        classes = _classes(self._flat)
        self._class_dicts = [vars(kind) for kind in classes]
        self._class_sizes = list(map(len, self._class_dicts))
        self._class_slots = [
            (vars(kind).get, name, function) for kind in classes for name, function in _functions(kind)
        ]

    def _examine(self) -> Iterator[ForeignCode]:
        exchanged: set[str] = set()
        changed = self._changed_classes()
        for path, module in self._model.named_modules():
            if _inside(path, exchanged):
                continue
            own = self._modules.get(path)
            if own is None:
                continue
            if own is not module:
                exchanged.add(path)
                yield ForeignCode(path, "module", described(type(module)))
                continue
            yield from self._of_module(path, own, changed)
        gone = self._modules.keys() - dict(self._model.named_modules(remove_duplicate=False)).keys()
        for path in sorted(gone):
            if not _inside(path, exchanged):
                exchanged.add(path)
                yield ForeignCode(path, "module", "nothing")
        for hooks in GLOBAL_HOOKS:
            for key, hook in hooks.items():
                if key not in self._global_hooks and not _is_ours(hook):
                    yield ForeignCode("", "hook on all modules", described(hook), everywhere=True)

    def _of_module(self, path: str, module: torch.nn.Module, changed: dict[type, list]) -> Iterator[ForeignCode]:
        kind = type(module)
        if kind is not self._class_of[id(module)]:
            yield ForeignCode(path, "class", described(kind))
        for name, value in self._values(module):
            code = self._foreign_value(module, name, value)
            if code is not None:
                yield ForeignCode(path, name, described(code), any_token=not self._token_by_token(module, name, code))
        for name, key, hook in _hooks(module):
            if (id(module), name, key) not in self._hooks and not _is_ours(hook):
                yield ForeignCode(path, "hook", described(hook))
        for base in self._class_of[id(module)].__mro__:
            for what, code in changed.get(base, ()):
                yield ForeignCode(path, what, described(code))

    def _changed_classes(self) -> dict[type, list[tuple[str, Callable]]]:
        """Foreign functions in the classes of the model's modules."""
        changed: dict[type, list[tuple[str, Callable]]] = {}
        for kind in self._functions:
            for name, function in _functions(kind):
                # This pack puts wrappers on a class around what that inherits.
                own = [_below_ours(self._functions[base].get(name)) for base in kind.__mro__ if base in self._functions]
                code = _below_ours(function)
                if code is not None and not any(code is one for one in own):
                    changed.setdefault(kind, []).append((f"{kind.__qualname__}.{name}", code))
        return changed

    def _values(self, module: torch.nn.Module) -> list[tuple[str, Any]]:
        """What lies in the module itself under a name that its class has a method by, or that it kept a callable by."""
        held = vars(module)
        kind: Any = self._class_of.get(id(module), type(module))  # for mypy a class is no Hashable
        names = held.keys() & (_method_names(kind) | self._kept_names(module))
        return [(name, held[name]) for name in sorted(names)]

    def _kept_names(self, module: torch.nn.Module) -> Set[str]:
        return self._kept.get(id(module), {}).keys()

    def _foreign_value(self, module: torch.nn.Module, name: str, value: Any) -> Any:
        """The foreign code that `value` runs in the place of what the module had under this name, or None."""
        code = value
        while code is not None:
            if isinstance(owner := getattr(code, "__self__", None), torch.nn.Module) and owner is not module:
                return code
            if not _is_ours(code):
                break
            code = getattr(code, "__wrapped__", None)
        # The class's own method: below this pack's wrappers, or bound to this module, as ComfyUI leaves it behind
        # where it takes an object patch away.
        of_class = _below_ours(getattr(self._class_of[id(module)], name, None))
        own = code is None or code is self._kept.get(id(module), {}).get(name)
        own = own or (of_class is not None and _below_ours(getattr(code, "__func__", code)) is of_class)
        return None if own else code

    def _token_by_token(self, module: torch.nn.Module, name: str, code: Any) -> bool:
        owner = getattr(code, "__self__", None)
        if owner is None or class_path(owner) not in TOKEN_BY_TOKEN:
            return False
        before, adapter, adapters = TOKEN_BY_TOKEN[class_path(owner)]
        below = self._foreign_value(module, name, getattr(owner, before))
        return class_path(getattr(owner, adapter)).startswith(adapters) and (
            below is None or self._token_by_token(module, name, below)
        )


def _inside(path: str, outer: set[str]) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in outer)


def _callables(module: torch.nn.Module) -> dict[str, Any]:
    """What lies in the module itself and can be called, but for modules."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not isinstance(value, torch.nn.Module | type)
    }


def _hooks(module: torch.nn.Module) -> Iterator[tuple[str, int, Callable]]:
    for name in HOOKS:
        for key, hook in vars(module)[name].items():
            yield name, key, hook


def _classes(modules: Iterable[torch.nn.Module]) -> list[type]:
    """Of these modules, with those that they inherit from."""
    return list(dict.fromkeys(base for module in modules for base in type(module).__mro__ if base is not object))


def _functions(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """What the class itself defines that is called for a module's output."""
    of_torch = kind.__module__.partition(".")[0] == "torch"
    for name, value in vars(kind).items():
        if isinstance(value, FunctionType) and (not of_torch or name in CALLS):
            yield name, value


@functools.cache
def _method_names(kind: type) -> frozenset[str]:
    return frozenset(
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if isinstance(value, FunctionType | staticmethod | classmethod)
    )


def _of_somebody_else(kind: type, function: FunctionType) -> bool:
    """Whether a class got this function from outside before its model was loaded."""
    code = _below_ours(function)
    if code is None:
        return False
    made_in = getattr(code, "__globals__", {}).get("__name__", kind.__module__)
    return made_in != kind.__module__ and made_in.partition(".")[0] not in LIBRARIES


def _is_ours(code: Any) -> bool:
    """Whether this pack's files define it."""
    while isinstance(code, functools.partial):
        code = code.func
    code = getattr(code, "__func__", code)
    variables = getattr(code, "__globals__", None)
    return (class_path(code) if variables is None else variables.get("__name__", "")).startswith(OURS)


def _below_ours(code: Any) -> Any:
    """What this pack's wrappers call in the end; None where they call nothing that was there before."""
    while code is not None and _is_ours(code):
        code = getattr(code, "__wrapped__", None)
    return code


def described(code: Any) -> str:
    """A function, method, object or class, and the pack or module that it is of."""
    while isinstance(code, functools.partial):
        code = code.func
    code = getattr(code, "__func__", code)
    if not hasattr(code, "__qualname__"):
        code = type(code)
    module = str(code.__module__).replace("\\", "/")
    pack = module.rpartition("/custom_nodes/")[2]
    return f"{code.__qualname__} of {pack}"
