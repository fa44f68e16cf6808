"""What a diffusion model did in tiny calls: which blocks ran, with which arguments, which attention, which lengths.

Three calls are compared, which differ in the size of the latent and in the number of text tokens. A dim of a tensor
that changes with the one holds image tokens, with the other text, with both text and image.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.ldm.modules.attention
import torch
from torch.overrides import TorchFunctionMode

from ..sharding.foreign.kernel_choice import OVERRIDE
from ..sharding.plan.modules import bind, parameter_names

IMAGE, TEXT, BOTH = "img", "txt", "txt + img"


@dataclass(frozen=True)
class Dim:
    """A dim of a tensor: its size, and which tokens it counts (IMAGE, TEXT, BOTH), "" where none."""

    size: int
    tokens: str = ""

    def __str__(self) -> str:
        return f"{self.size} {self.tokens}" if self.tokens else str(self.size)


@dataclass(frozen=True)
class Tensor:
    dims: tuple[Dim, ...]
    dtype: str

    def token_dims(self) -> list[int]:
        return [index for index, dim in enumerate(self.dims) if dim.tokens]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.dims))}] {self.dtype}"


@dataclass
class Attention:
    """`inside`: the submodule of the block that called it, "" for the block itself. `function`: "module:name" of the
    function, where it was called without transformer_options.
    """

    inside: str
    heads: int
    q: Any
    k: Any
    v: Any
    mask: Any = None
    function: str = ""


@dataclass
class ModuleCall:
    """`path` in the model; `arguments` by name and `outputs`: Tensor, a tuple of such, or the value itself."""

    path: str
    arguments: dict[str, Any]
    outputs: tuple[Any, ...] = ()
    attention: list[Attention] = field(default_factory=list)
    in_block: bool = False


@dataclass
class Observed:
    """`lists`: path of a list of blocks → the calls of its blocks, in order. `after`: calls of modules after the last
    block, the outer ones first. `joined`: token lengths of what torch.cat put together, in order.
    `direct`: blocks that call torch's attention, not ComfyUI's.
    """

    lists: dict[str, list[ModuleCall]]
    after: list[ModuleCall]
    joined: list[tuple[Dim, ...]]
    direct: list[str]


def observe(model: torch.nn.Module, call: Callable[[dict, tuple[int, int], int], Any], sizes: tuple) -> Observed:
    """`call(transformer_options, (height, width), tokens)` runs the model once. `sizes`: ((height, width), tokens) of
    the calls: as it is, with another latent, with another text.

    Raises whatever the model does.
    """
    traces = [_trace(model, functools.partial(_with_size, call, size)) for size in sizes]
    first, *others = traces
    if any(len(other.calls) != len(first.calls) or len(other.joined) != len(first.joined) for other in others):
        raise ValueError("the model runs other modules with another number of tokens, so its calls cannot be compared")
    calls = [_compared(*one) for one in zip(*(trace.calls for trace in traces), strict=True)]
    joined = [
        tuple(Dim(sizes[0], _tokens(*sizes)) for sizes in zip(*same, strict=True))
        for same in zip(*(trace.joined for trace in traces), strict=True)
        if len({len(one) for one in same}) == 1
    ]
    lists: dict[str, list[ModuleCall]] = {}
    for one in calls:
        if one.in_block:
            lists.setdefault(one.path.rpartition(".")[0], []).append(one)
    attends = {path for path, blocks in lists.items() if any(block.attention for block in blocks)}
    lists = {path: blocks for path, blocks in lists.items() if path in attends}
    of_blocks = (i for i, one in enumerate(calls) if one.in_block and one.path.rpartition(".")[0] in attends)
    last = max(of_blocks, default=-1)
    inside = tuple(f"{path}." for path in lists)
    after = [one for one in calls[last + 1 :] if not one.path.startswith(inside)]
    return Observed(lists, after, joined, sorted(set(first.direct)))


def _with_size(call: Callable, size: tuple[tuple[int, int], int], options: dict[str, Any]) -> Any:
    return call(options, *size)


def block_lists(model: torch.nn.Module) -> list[str]:
    """The paths of the model's outermost lists of modules."""
    found: list[str] = []
    for path, module in model.named_modules():
        several = isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict)
        if several and not any(path.startswith(f"{outer}.") for outer in found):
            found.append(path)
    return found


class _Trace:
    def __init__(self):
        self.calls: list[ModuleCall] = []
        self.joined: list[tuple[int, ...]] = []
        self.direct: list[str] = []
        self.stack: list[str] = []
        self.open: list[ModuleCall] = []
        self.blocks: list[ModuleCall] = []
        self.attending = False

    def attention(self, function: str, q, k, v, heads: int, mask, options: Mapping[str, Any]) -> torch.Tensor:
        """Noted, and computed as far as its shape goes."""
        if self.blocks:
            block = self.blocks[-1]
            inside = self.stack[-1].removeprefix(block.path).removeprefix(".")
            block.attention.append(Attention(inside, heads, _seen(q), _seen(k), _seen(v), _seen(mask), function))
        if options.get("skip_reshape"):
            (batch, heads, length), width = q.shape[:3], v.shape[3]
            split = bool(options.get("skip_output_reshape"))
            return q.new_empty((batch, heads, length, width) if split else (batch, length, heads * width))
        out = q.new_empty((*q.shape[:2], q.flatten(2).shape[2]))
        return out.unflatten(2, (heads, -1)).transpose(1, 2) if options.get("skip_output_reshape") else out


class _TorchCalls(TorchFunctionMode):
    def __init__(self, trace: _Trace):
        super().__init__()
        self._trace = trace

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention and self._trace.blocks:
            self._trace.direct.append(self._trace.blocks[-1].path)
        if function in (torch.cat, torch.concat):
            tensors = args[0] if args else kwargs["tensors"]
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if isinstance(dim, int):
                self._trace.joined.append(tuple(tensor.shape[dim] for tensor in tensors if tensor.ndim))
        return function(*args, **kwargs)


def _trace(model: torch.nn.Module, call: Callable[[dict], Any]) -> _Trace:
    trace = _Trace()
    blocks = {f"{path}.{name}" for path in block_lists(model) for name, _ in model.get_submodule(path).named_children()}
    with contextlib.ExitStack() as hooks:
        for path, module in model.named_modules():
            if path and not isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict):
                before, after = _hooks(trace, path, module, path in blocks)
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(after).remove)
        hooks.enter_context(_global_attention(model, trace))
        hooks.enter_context(_TorchCalls(trace))

        def override(function, q, k, v, heads, *others, **options):
            mask = others[0] if others else options.get("mask")
            return trace.attention("", q, k, v, heads, mask, options)

        call({OVERRIDE: override})
    return trace


def _hooks(trace: _Trace, path: str, module: torch.nn.Module, is_block: bool) -> tuple[Callable, Callable]:
    names = parameter_names(module.forward)

    def before(_, args, kwargs):
        bound = {name: _seen(value) for name, value in bind(names, args, kwargs).items()}
        one = ModuleCall(path, bound, in_block=is_block)
        trace.calls.append(one)
        trace.stack.append(path)
        if is_block:
            trace.blocks.append(one)
        trace.open.append(one)

    def after(_, args, output):
        one = trace.open.pop()
        outputs = output if isinstance(output, tuple | list) else (output,)
        one.outputs = tuple(_seen(value) for value in outputs)
        trace.stack.pop()
        if is_block:
            trace.blocks.pop()

    return before, after


@contextlib.contextmanager
def _global_attention(model: torch.nn.Module, trace: _Trace) -> Iterator[None]:
    """ComfyUI's attention functions under the names that the model's modules gave them, for calls that the override
    does not reach.
    """
    home = comfy.ldm.modules.attention
    functions = [
        value
        for name, value in vars(home).items()
        if inspect.isfunction(value) and name.startswith(("attention_", "optimized_attention"))
    ]
    replaced = []
    for name in {type(module).__module__ for module in model.modules()}:
        for attribute, value in list(vars(sys.modules.get(name, object)).items()):
            if inspect.isfunction(value) and any(value is function for function in functions):
                replaced.append((sys.modules[name], attribute, value))
    try:
        for module, attribute, function in replaced:
            setattr(module, attribute, _routed(trace, f"{module.__name__}:{attribute}", function))
        yield
    finally:
        for module, attribute, function in replaced:
            setattr(module, attribute, function)


def _routed(trace: _Trace, name: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def routed(q, k, v, heads, *others, **options):
        if OVERRIDE in (options.get("transformer_options") or {}):
            return function(q, k, v, heads, *others, **options)
        mask = others[0] if others else options.get("mask")
        return trace.attention(name, q, k, v, heads, mask, options)

    return routed


def _seen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return Tensor(tuple(Dim(size) for size in value.shape), str(value.dtype).removeprefix("torch."))
    if isinstance(value, tuple | list):
        return tuple(_seen(item) for item in value)
    if isinstance(value, bool | int | float | str | type(None)):
        return value
    return type(value).__name__


def _compared(first: ModuleCall, *others: ModuleCall) -> ModuleCall:
    if any(other.path != first.path or len(other.attention) != len(first.attention) for other in others):
        raise ValueError(f"{first.path} runs otherwise with another number of tokens, so calls cannot be compared")
    attention = [_of_all(same) for same in zip(*(call.attention for call in (first, *others)), strict=True)]
    arguments = {name: _same(*(call.arguments.get(name) for call in (first, *others))) for name in first.arguments}
    outputs = tuple(_same(*same) for same in zip(*(call.outputs for call in (first, *others)), strict=True))
    return ModuleCall(first.path, arguments, outputs, attention, first.in_block)


def _of_all(same: tuple[Attention, ...]) -> Attention:
    q, k, v, mask = (_same(*(getattr(one, name) for one in same)) for name in ("q", "k", "v", "mask"))
    return Attention(same[0].inside, same[0].heads, q, k, v, mask, same[0].function)


def _same(*values: Any) -> Any:
    """One value as seen in all calls, its dims with what they count."""
    first = values[0]
    if all(isinstance(value, Tensor) for value in values) and len({len(value.dims) for value in values}) == 1:
        dims = zip(*([dim.size for dim in value.dims] for value in values), strict=True)
        return Tensor(tuple(Dim(sizes[0], _tokens(*sizes)) for sizes in dims), first.dtype)
    if all(isinstance(value, tuple) for value in values) and len({len(value) for value in values}) == 1:
        return tuple(_same(*same) for same in zip(*values, strict=True))
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        tokens = _tokens(*values)
        return Dim(first, tokens) if tokens else first
    return first


def _tokens(size: int, other_latent: int, other_text: int) -> str:
    return {(False, False): "", (True, False): IMAGE, (False, True): TEXT, (True, True): BOTH}[
        size != other_latent, size != other_text
    ]
