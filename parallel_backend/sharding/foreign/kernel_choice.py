"""Whether an attention override only chooses which attention function computes what it is called with.

Such a choice is proven, not guessed: the override's code may hold nothing but straight calls (no branch, no arithmetic,
no subscript), and run with stand-ins it must hand every argument on as it got it, once, and return what comes back.
Anything else may look at tokens and heads: it is a node's own attention.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

import comfy.ldm.modules.attention as comfy_attention

from .authors import name_of

OVERRIDE = "optimized_attention_override"  # in transformer_options
GIVEN = "given"
"""What `chosen_kernel` says of an override that calls the function that it was given."""

# Attention functions of published packs that compute what ComfyUI's do, as "module:name" within the pack.
KERNELS_OF_PACKS = frozenset(
    {
        "nodes.model_optimization_nodes:get_sage_func.<locals>.attention_sage",  # KJNodes
        "nodes.model_optimization_nodes:get_flash_func.<locals>.attention_flash",  # KJNodes
    }
)

# Of CPython 3.10 to 3.14: loads of names, calls, and what puts their arguments together.
_STRAIGHT = frozenset(
    "RESUME NOP CACHE COPY_FREE_VARS MAKE_CELL PUSH_NULL PRECALL EXTENDED_ARG NOT_TAKEN"
    " LOAD_FAST LOAD_FAST_BORROW LOAD_FAST_CHECK LOAD_FAST_LOAD_FAST LOAD_FAST_BORROW_LOAD_FAST_BORROW"
    " LOAD_DEREF LOAD_GLOBAL LOAD_ATTR LOAD_METHOD LOAD_CONST LOAD_SMALL_INT STORE_FAST STORE_FAST_LOAD_FAST"
    " BUILD_TUPLE BUILD_LIST BUILD_MAP BUILD_CONST_KEY_MAP DICT_MERGE LIST_EXTEND LIST_TO_TUPLE CALL_INTRINSIC_1"
    " KW_NAMES CALL CALL_KW CALL_METHOD CALL_FUNCTION CALL_FUNCTION_KW CALL_FUNCTION_EX"
    " RETURN_VALUE RETURN_CONST".split()
)
_NAMES = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")
_DEFAULTS = {"mask": None, "attn_precision": None, "skip_reshape": False, "skip_output_reshape": False}
_NOT_READ = frozenset({"transformer_options", "_inside_attn_wrapper"})  # by an attention function


def chosen_kernel(override: Callable) -> Callable | str | None:
    """The attention function that `override` calls in place of the one given to it (wrappers taken off), GIVEN where it
    calls that one, None where it may do anything else.
    """
    bound: tuple = ()
    if isinstance(override, functools.partial) and not override.keywords:
        bound, override = override.args, override.func
    if not isinstance(override, types.FunctionType):
        return None
    names = _names_in_straight(override.__code__)
    if names is None:
        return None
    every = {name: object() for name in (*_NAMES, *_NOT_READ, "scale", "enable_gqa")}
    few = {name: every[name] for name in _NAMES[:4]}
    kernels = [_called_with(override, names, bound, arguments) for arguments in (every, few)]
    return kernels[0] if kernels[0] is kernels[1] else None


def node_attention(options: dict[str, Any]) -> Callable | None:
    """The override in these transformer_options, if it is a node's own attention."""
    override = options.get(OVERRIDE)
    return override if override is not None and chosen_kernel(override) is None else None


def runs_torchs_kernel(override: Callable | None) -> bool:
    """Whether attention under this override is ComfyUI's attention_pytorch, which runs on this pack's kernels."""
    kernel = GIVEN if override is None else chosen_kernel(override)
    if kernel is GIVEN:
        return comfy_attention.optimized_attention is comfy_attention.attention_pytorch
    return kernel is inspect.unwrap(comfy_attention.attention_pytorch)


@functools.lru_cache(maxsize=256)
def _names_in_straight(code: types.CodeType) -> frozenset[str] | None:
    """The global names that straight code reads; None for code that is not."""
    instructions = list(dis.get_instructions(code))
    if any(instruction.opname not in _STRAIGHT for instruction in instructions):
        return None
    return frozenset(instruction.argval for instruction in instructions if instruction.opname == "LOAD_GLOBAL")


class _Refused(Exception):
    """The override uses something else than attention functions and what it was called with."""


class _Recorder:
    """In the place of an attention function."""

    def __init__(self, kernel: Callable | str):
        self.kernel = kernel
        self.calls: list[tuple[tuple, dict[str, Any]]] = []
        self.result = object()

    @property
    def __wrapped__(self) -> _Recorder:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        self.calls.append((args, kwargs))
        return self.result


class _Module:
    """In the place of a Python module: gives attention functions and further modules, nothing else."""

    def __init__(self, module: types.ModuleType, stand_in: Callable[[Any], Any]):
        self._module = module
        self._stand_in = stand_in

    def __getattr__(self, name: str) -> Any:
        return self._stand_in(getattr(self._module, name))


def _called_with(
    override: types.FunctionType, global_names: Iterable[str], bound: tuple, arguments: dict[str, Any]
) -> Callable | str | None:
    """The kernel that gets exactly `arguments` when `override`, which reads `global_names`, is called with them."""
    recorders: list[_Recorder] = []

    def stand_in(value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return _Module(value, stand_in)
        kernel = _attention_function(value)
        if kernel is None:
            raise _Refused
        recorders.append(_Recorder(kernel))
        return recorders[-1]

    given = _Recorder(GIVEN)
    recorders.append(given)
    positional = [arguments[name] for name in _NAMES if name in arguments]
    others = {name: value for name, value in arguments.items() if name not in _NAMES}
    try:
        names = {name: stand_in(override.__globals__[name]) for name in global_names}
        cells = [types.CellType(stand_in(cell.cell_contents)) for cell in override.__closure__ or ()]
        rebuilt = types.FunctionType(
            override.__code__, {"__builtins__": {}, **names}, override.__name__, override.__defaults__, tuple(cells)
        )
        rebuilt.__kwdefaults__ = override.__kwdefaults__
        result = rebuilt(*(stand_in(value) for value in bound), given, *positional, **others)
    except Exception:  # whatever the code of a node does with stand-ins: it is not a mere choice
        return None
    called = [recorder for recorder in recorders if recorder.calls]
    if len(called) != 1 or len(called[0].calls) != 1 or result is not called[0].result:
        return None
    return called[0].kernel if _same(called[0].calls[0], arguments) else None


def _attention_function(value: Any) -> Callable | None:
    """`value` without what is wrapped around it, if it is an attention function that is known."""
    if not isinstance(value, types.FunctionType):
        return None
    inner = inspect.unwrap(value)
    if inner.__globals__ is vars(comfy_attention):
        return inner if inner.__name__.startswith("attention") else None
    return inner if name_of(inner).name in KERNELS_OF_PACKS else None


def _same(call: tuple[tuple, dict[str, Any]], arguments: dict[str, Any]) -> bool:
    """Whether an attention function that is called so computes what it would with `arguments`."""
    args, kwargs = call
    got = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    if len(args) > len(_NAMES):
        return False
    names = (got.keys() | arguments.keys()) - _NOT_READ
    return all(got.get(name, _DEFAULTS.get(name)) is arguments.get(name, _DEFAULTS.get(name)) for name in names)
