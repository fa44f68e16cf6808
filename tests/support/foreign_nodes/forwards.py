"""Nodes whose code takes the place of the model's own in one module, and looks at all tokens there."""

import types
from unittest.mock import patch

import torch

NODES = {}


def together(output):
    """Each tensor [B, L, ...], times what all of its tokens give."""
    if isinstance(output, tuple | list):
        return type(output)(together(one) for one in output)
    return output * (1 + 0.5 * output.abs().mean(1, keepdim=True))


def together_forward(self, *args, **kwargs):
    return together(type(self).forward(self, *args, **kwargs))


def together_hook(module, args, output):
    return together(output)


class Around(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return together(self.inner(*args, **kwargs))


def other_class(own):
    class Other(own):
        def forward(self, *given, **named):
            return together(super().forward(*given, **named))

    return Other


HOW = ["object patch", "class", "module", "hook during the run", "swap during the run"]


class ForeignForward:
    """`path`: of a module in the diffusion model, "" for itself."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "foreign"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "path": ("STRING", {"default": ""}), "how": (HOW,)}}

    def make(self, model, path, how):
        m = model.clone()
        name = f"diffusion_model.{path}".rstrip(".")
        module = m.get_model_object(name)
        if how == "object patch":
            m.add_object_patch(f"{name}.forward", types.MethodType(together_forward, module))
        elif how == "class":
            m.add_object_patch(f"{name}.__class__", other_class(type(module)))
        elif how == "module":
            m.add_object_patch(name, Around(module))
        elif how == "hook during the run":

            def with_hook(function, parameters):
                handle = module.register_forward_hook(together_hook)
                try:
                    return function(parameters["input"], parameters["timestep"], **parameters["c"])
                finally:
                    handle.remove()

            m.set_model_unet_function_wrapper(with_hook)
        else:

            def with_swap(function, parameters):
                with patch.object(module, "forward", types.MethodType(together_forward, module)):
                    return function(parameters["input"], parameters["timestep"], **parameters["c"])

            m.set_model_unet_function_wrapper(with_swap)
        return (m,)


def peeking_forward(self, img, img_ids, txt, txt_ids, timesteps, y, *args, **kwargs):
    """Decides by the first layer of one block, asked outside of it, as step caches do."""
    vec = torch.ones(img.shape[0], self.hidden_size, dtype=img.dtype, device=img.device)
    asked = self.double_blocks[1].img_mod(vec)[0].shift.abs().mean()
    out = type(self).forward_orig(self, img, img_ids, txt, txt_ids, timesteps, y, *args, **kwargs)
    return out * (0.5 + asked) if asked > 0 else out


class ForeignPeek:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "foreign"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        m = model.clone()
        diffusion_model = m.get_model_object("diffusion_model")
        swap = patch.multiple(diffusion_model, forward_orig=types.MethodType(peeking_forward, diffusion_model))

        def wrapper(function, parameters):
            with swap:
                return function(parameters["input"], parameters["timestep"], **parameters["c"])

        m.set_model_unet_function_wrapper(wrapper)
        return (m,)


NODES.update({cls.__name__: cls for cls in (ForeignForward, ForeignPeek)})
