"""The weights of a MODEL that has none in ComfyUI's process: their names, shapes and dtypes can be looked at, no more.

torch computes on `meta` without a word, and ComfyUI copies what lies there into memory that nobody has set, so a node
that runs the model would go on with numbers out of nowhere.
"""

from __future__ import annotations

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


class WeightlessTensor(torch.Tensor):
    """A tensor on meta that raises WeightlessModelError when its values are asked for or set."""

    @classmethod
    def of(cls, tensor: torch.Tensor, parameter: bool) -> WeightlessTensor:
        """`tensor` (on meta), as a parameter of a module or as a buffer."""
        with torch._C.DisableTorchFunctionSubclass():
            made = tensor.detach().as_subclass(cls)
        if parameter:
            made._is_param = True
        return made

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if not _only_looks(function, name, args, kwargs):
            raise no_weights(f"compute with a weight there, copy it or change it ({name})")
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
            if isinstance(result, torch.Tensor) and result.is_meta and type(result) is not cls:
                return result.as_subclass(cls)
        return result

    def __deepcopy__(self, memo):
        raise no_weights("copy the model there")

    def __reduce_ex__(self, protocol):
        raise no_weights("copy the model there, or send it elsewhere")


def guard_weights(model: torch.nn.Module) -> None:
    """Every plain tensor of `model` that is on meta shows what it is like and refuses the rest."""
    for module in model.modules():
        for tensors, parameter in ((module._parameters, True), (module._buffers, False)):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta and type(tensor) in (torch.Tensor, torch.nn.Parameter):
                    tensors[name] = WeightlessTensor.of(tensor, parameter)
        if any(_lacks_data(tensor) for tensor in module._parameters.values()):
            module.register_forward_pre_hook(refuse_to_run)


def refuse_to_run(module: torch.nn.Module, args: Any) -> None:
    """A forward hook of quantised layers, which take their weights apart before anything is computed."""
    raise no_weights(f"run a {type(module).__name__} of the model there")


def _lacks_data(tensor: Any) -> bool:
    if tensor is None or isinstance(tensor, WeightlessTensor) or not hasattr(tensor, "__tensor_flatten__"):
        return False
    names, _ = tensor.__tensor_flatten__()
    return any(getattr(tensor, name).is_meta for name in names)


def _only_looks(function: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    if name == "__set__":
        return function.__self__.__name__ in SETTABLE
    if name == "to":
        return any(str(value) == "meta" for value in (*args[1:], *kwargs.values()))
    return name in LOOKS or name in LIKE
