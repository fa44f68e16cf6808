"""The weights of a MODEL that has none in ComfyUI's process: their names, shapes and dtypes can be looked at, no more.

torch computes on `meta` without a word, and ComfyUI copies what lies there into memory that nobody has set, so a node
that runs the model would go on with numbers out of nowhere.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

LOOKS = frozenset(
    "__get__ size dim ndimension numel nelement element_size stride storage_offset is_contiguous is_floating_point"
    " is_complex is_signed is_inference get_device detach requires_grad_ untyped_storage data_ptr"
    " __hash__ __repr__ __format__ __len__ __dir__".split()
)
# What is made in the likeness of a weight, without its values.
LIKE = frozenset(
    "empty_like zeros_like ones_like full_like rand_like randn_like new_empty new_zeros new_ones new_full".split()
)
SETTABLE = ("requires_grad", "grad")


class WeightlessModelError(RuntimeError):
    """A node asked the weightless MODEL for its weights."""


def no_weights(what: str) -> WeightlessModelError:
    """`what` the node wants to do, for "this node wants to …"."""
    return WeightlessModelError(
        f"an xDiT MODEL has no weights in ComfyUI's process, and this node wants to {what}: use it as the main model of"
        " a sampler node, with a sampler and a guider that can be sent to the ranks, or give this node the MODEL of a"
        " stock loader"
    )


class Weightless:
    """Mixed into a class of tensors: what asks for values, or sets them, raises WeightlessModelError."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if not _only_looks(function, name, args, kwargs):
            raise no_weights(f"compute with a weight there, copy it or change it ({name})")
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
            return _guarded(result) if isinstance(result, torch.Tensor) and _lacks_data(result) else result

    def dequantize(self, *args, **kwargs):
        raise no_weights("read a weight there")

    def __deepcopy__(self, memo):
        raise no_weights("copy the model there")

    def __reduce_ex__(self, protocol):
        raise no_weights("copy the model there, or send it elsewhere")


@functools.cache
def _weightless(kind: type[torch.Tensor]) -> type[torch.Tensor]:
    return type(f"Weightless{kind.__name__}", (Weightless, kind), {})


def _guarded(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, which has no data, as one that refuses to be computed with."""
    if isinstance(tensor, Weightless):
        return tensor
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return tensor.as_subclass(_weightless(torch.Tensor))
    tensor.__class__ = _weightless(type(tensor))  # a quantised one, of parts
    return tensor


def guard_weights(model: torch.nn.Module) -> None:
    """The tensors of `model` that have no data show what they are like and refuse the rest."""
    for module in model.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]  # a guarded tensor is no Parameter
        for tensors in tables:
            for name, tensor in tensors.items():
                if tensor is not None and _lacks_data(tensor):
                    guarded = _guarded(tensor.detach() if type(tensor) is torch.nn.Parameter else tensor)
                    guarded._is_param = tensors is module._parameters
                    tensors[name] = guarded
                    if hasattr(tensor, "__tensor_flatten__"):
                        module.register_forward_pre_hook(refuse_to_run)


def refuse_to_run(module: torch.nn.Module, args: Any) -> None:
    """A forward hook of quantised layers, which take their weights apart before anything is computed."""
    raise no_weights(f"run a {type(module).__name__} of the model there")


def _lacks_data(tensor: torch.Tensor) -> bool:
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.is_meta
    names, _ = tensor.__tensor_flatten__()
    return any(getattr(tensor, name).is_meta for name in names)


def _only_looks(function: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    if name == "__set__":
        return function.__self__.__name__ in SETTABLE
    if name == "to":
        return any(str(value) == "meta" for value in (*args[1:], *kwargs.values()))
    return name in LOOKS or name in LIKE
