"""The sharding plans of this pack: what `describe_model` proposes for the transformer, and wrong ones."""

from dataclasses import replace

from .model import OtherForward, Transformer


def name(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def plan(cls=Transformer):
    from xdit_plans import Blocks, Gather, Plan, Positions, Tokens

    return Plan(
        model=name(cls),
        blocks=(
            Blocks(
                "joint",
                {"img": Tokens("img"), "txt": Tokens("txt"), "pe": Positions(("txt", "img"), 1)},
                attention=("txt", "img"),
                returns=(("img",), ("txt",)),
            ),
            Blocks(
                "single",
                {"x": Tokens("txt", "img"), "pe": Positions(("txt", "img"), 1)},
                attention=("txt", "img"),
                returns=(("txt", "img"),),
                local=("cross",),
            ),
        ),
        gathers=(Gather("final", ("img",)),),
    )


def register(which):
    """Called by a node, and so after ComfyUI has imported all packs."""
    from xdit_plans import Blocks, Gather, Tokens, register_plan

    right, own = plan(), name(OtherForward)
    tokens = Blocks("single", {"tokens": Tokens("all")}, attention=("all",), returns=(("all",),))
    register_plan(
        {
            "right": right,
            "another for the same class": replace(right, residuals={"output": "img"}),
            "for a class of xDiT's": replace(right, model="comfy.ldm.flux.model.Flux"),
            "no plan": {"model": own},
            "a renamed argument": replace(right, model=own, blocks=(tokens,), gathers=(Gather("final", ("all",)),)),
        }[which]
    )
