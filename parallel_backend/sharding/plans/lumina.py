"""Lumina 2 and Z-Image (NextDiT): text and image run through the layers as one sequence."""

from ..plan.argument_kinds import Positions, Ranges, Tokens
from ..plan.plan import Blocks, Gather, Plan


def _layers(path: str, segment: str) -> Blocks:
    return Blocks(
        path,
        {
            "x": Tokens(segment),
            "freqs_cis": Positions((segment,), 1),
            "timestep_zero_index": Ranges((segment,)),
        },
        attention=(segment,),
        returns=((segment,),),
        once={"adaln_input": ("adaLN_modulation",)},
    )


LUMINA = Plan(
    model="comfy.ldm.lumina.model.NextDiT",
    blocks=(_layers("noise_refiner", "img"), _layers("layers", "all")),
    gathers=(
        Gather("noise_refiner.-1", ("img",)),
        Gather("final_layer", ("all",), {"timestep_zero_index": Ranges(("all",))}),
    ),
    heads="n_heads",
    between_patches=frozenset({"noise_refiner", "double_block"}),
    stages=("layers",),
    once=("t_embedder", "clip_text_pooled_proj", "time_text_embed", "patchify_and_embed"),
    graphs=True,
)
