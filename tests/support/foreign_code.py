"""Code of nodes in a diffusion model, each piece of which looks at all tokens, put in and taken out again."""

from __future__ import annotations

import types
from collections.abc import Callable

import torch

Undo = Callable[[], None]


def seen_together(output):
    """Each tensor [B, L, ...] of an output, times what all of its tokens give."""
    if isinstance(output, tuple | list):
        return type(output)(seen_together(one) for one in output)
    if not isinstance(output, torch.Tensor) or output.ndim < 3 or not output.numel():
        return output
    return output * (1 + 0.5 * output.abs().mean(1, keepdim=True))


def replaced_forward(module: torch.nn.Module) -> Undo:
    """As object patches do; what was the class's stays behind as ComfyUI leaves it."""
    own = module.forward

    def forward(self, *args, **kwargs):
        return seen_together(type(self).forward(self, *args, **kwargs))

    module.forward = types.MethodType(forward, module)
    return lambda: setattr(module, "forward", own)


def hooked(module: torch.nn.Module) -> Undo:
    return module.register_forward_hook(lambda module, args, output: seen_together(output)).remove


def other_class(module: torch.nn.Module) -> Undo:
    own = type(module)

    class Other(own):
        def forward(self, *given, **named):
            return seen_together(super().forward(*given, **named))

    module.__class__ = Other
    return lambda: setattr(module, "__class__", own)


class Around(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return seen_together(self.inner(*args, **kwargs))


def exchanged(model: torch.nn.Module, path: str) -> Undo:
    module = model.get_submodule(path)
    model.set_submodule(path, Around(module))
    return lambda: model.set_submodule(path, module)


def class_function(module: torch.nn.Module) -> Undo:
    own = type(module).forward
    type(module).forward = lambda self, *args, **kwargs: seen_together(own(self, *args, **kwargs))
    return lambda: setattr(type(module), "forward", own)


def hook_on_all(module: torch.nn.Module) -> Undo:
    kind = type(module)
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, output: seen_together(output) if type(module) is kind else None
    )
    return hook.remove


def bypass(module: torch.nn.Module) -> Undo:
    """A LoRA of ComfyUI in bypass mode on a linear layer: each token by itself."""
    from comfy.weight_adapter.bypass import BypassForwardHook
    from comfy.weight_adapter.lora import LoRAAdapter

    generator = torch.Generator().manual_seed(5)
    up, down = (
        torch.randn(shape, generator=generator) for shape in ((module.out_features, 4), (4, module.in_features))
    )
    hook = BypassForwardHook(module, LoRAAdapter(set(), (up * 0.1, down * 0.1, 4.0, None, None, None)))
    hook.inject()
    return hook.eject


KINDS = {
    "forward": replaced_forward,
    "hook": hooked,
    "class": other_class,
    "class function": class_function,
    "hook on all": hook_on_all,
    "bypass": bypass,
}


def put_in(model: torch.nn.Module, kind: str, paths: tuple[str, ...]) -> list[Undo]:
    """The kind of code at each of these modules of the model, "" the model itself."""
    if kind == "module":
        return [exchanged(model, path) for path in paths]
    return [KINDS[kind](model.get_submodule(path)) for path in paths]


def foreign(side, case, kind: str, paths: tuple[str, ...], ulysses: int, ring: int, compiled: bool = False):
    """Of a ModelSide: the error with foreign code in the model, that without, before and after, and the notes of the
    calls with it and of the one before.
    """
    from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
    from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
    from xdit_comfyui.parallel_backend.sharding.engine.session import Session
    from xdit_comfyui.parallel_backend.sharding.plans import plan_for

    from support.model_side import run
    from support.parity import relative_error

    with torch.inference_mode():
        stock = case.model()
        plain = run(stock, case)
        undo = put_in(stock, kind, paths)
        expected = run(stock, case)
        for one in undo:
            one()
        assert relative_error(expected, plain) > 1e-3, "the code shows"
        model = case.model()
        sharded, said = ShardedModel(model, plan_for(model)), []
        sharded.session = Session(side._mesh(ulysses, ring).sp) if ulysses * ring > 1 else None
        if compiled:
            accelerate(model, sharded, backend="aot_eager").start(said.append, (), graphs=False)
        before = relative_error(run(model, case), plain)
        notes = [*said, *(sharded.session.notes if sharded.session else ())]
        undo = put_in(model, kind, paths)
        during = max(relative_error(run(model, case), expected) for _ in range(2))
        notes_during = [*said, *(sharded.session.notes if sharded.session else ())][len(notes) :]
        for one in undo:
            one()
        after = relative_error(run(model, case), plain)
    return during, max(before, after), notes_during, notes


def flagged(side, case, options: dict, ulysses: int, ring: int, compiled: bool, plain_first: bool = True):
    """Of a ModelSide: the error of a model call with these transformer_options after one without any, that of one more
    without, and the notes.
    """
    from xdit_comfyui.parallel_backend.compiled.accelerated_model import accelerate
    from xdit_comfyui.parallel_backend.sharding.engine.engine import ShardedModel
    from xdit_comfyui.parallel_backend.sharding.engine.session import Session
    from xdit_comfyui.parallel_backend.sharding.plans import plan_for

    from support.model_side import run
    from support.parity import relative_error

    class Flagged:
        @staticmethod
        def inputs():
            args, kwargs = case.inputs()
            return args, {**kwargs, "transformer_options": {**kwargs.get("transformer_options", {}), **options}}

    with torch.inference_mode():
        stock = case.model()
        plain, expected = run(stock, case), run(stock, Flagged)
        assert relative_error(expected, plain) > 1e-3, "the options show"
        model = case.model()
        sharded, said = ShardedModel(model, plan_for(model)), []
        sharded.session = Session(side._mesh(ulysses, ring).sp) if ulysses * ring > 1 else None
        if compiled:
            accelerate(model, sharded, backend="aot_eager").start(said.append, (), graphs=False)
        if plain_first:
            run(model, case)
        during = max(relative_error(run(model, Flagged), expected) for _ in range(2))
        after = relative_error(run(model, case), plain)
    return during, after, [*said, *(sharded.session.notes if sharded.session else ())]
