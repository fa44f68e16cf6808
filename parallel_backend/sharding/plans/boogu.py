"""Boogu: OmniGen2's refiners and single stream layers, with double stream layers between them.

A double stream layer attends to text and image (references and noise), then to the image alone.
"""

from ..plan.argument_kinds import Positions, Tokens
from ..plan.plan import Blocks, Gather, Plan
from ..plan.token_layout import Segments

TEXT_IMAGE = ("txt", "refs_and_img")
IMAGE = TEXT_IMAGE[1:]


def _layers(path: str, segments: Segments) -> Blocks:
    return Blocks(
        path,
        {"hidden_states": Tokens(*segments), "image_rotary_emb": Positions(segments, 1)},
        attention=segments,
        returns=(segments,),
    )


BOOGU = Plan(
    model="comfy.ldm.boogu.model.BooguTransformer2DModel",
    blocks=(
        _layers("noise_refiner", ("img",)),
        _layers("ref_image_refiner", ("ref",)),
        Blocks(
            "double_stream_layers",
            {
                "img_hidden_states": Tokens(*IMAGE),
                "instruct_hidden_states": Tokens("txt"),
                "joint_rotary_emb": Positions(TEXT_IMAGE, 1),
                "img_rotary_emb": Positions(IMAGE, 1),
            },
            attention=TEXT_IMAGE,
            returns=(IMAGE, ("txt",)),
            then=(IMAGE,),
        ),
        _layers("single_stream_layers", TEXT_IMAGE),
    ),
    gathers=(
        Gather("noise_refiner.-1", ("img",)),
        Gather("ref_image_refiner.-1", ("ref",)),
        Gather("norm_out", TEXT_IMAGE),
    ),
    heads="single_stream_layers.0.attn.heads",
)
