"""The tiny models that graphs are composed for: their files, latents, texts and encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..prompts import Graph, Node
from ..tiny_models import (
    FLUX_CONTEXT,
    FLUX_POOLED,
    HUNYUAN_VIDEO_CONTEXT,
    HUNYUAN_VIDEO_POOLED,
    LTX2_CONTEXT,
    SD3_CONTEXT,
    SD3_POOLED,
    SDXL_CONTEXT,
    SDXL_POOLED,
    WAN_CONTEXT,
    ModelShelf,
)
from ..wide_models import LUMINA2_CONTEXT

SOUND_FRAMES = 11
Files = Callable[[ModelShelf], str]


@dataclass(frozen=True)
class Family:
    """`weight`: how often it is drawn. `encoder`: channels, pixels and frames to one latent (0: images). `size`: a
    multiple of so many pixels, and the most of them in steps. `hidden`: the width of its blocks.
    """

    file: Files
    weight: float
    context: int
    pooled: int
    encoder: tuple[int, int, int]
    hidden: int
    guidance: float = -1.0
    empty: str = "EmptySD3LatentImage"
    size: tuple[int, int] = (16, 6)
    lora: Files | None = None
    control: Files | None = None
    other: Files | None = None
    dtype: str = "default"
    tokens: bool = True
    pipefusion: bool = False
    layers: tuple[str, ...] = ("0", "1", "0, 1")

    @property
    def video(self) -> bool:
        return self.encoder[2] > 0

    def frames(self, length: int) -> int:
        """Pixel frames of `length` latent frames."""
        return (length - 1) * self.encoder[2] + 1 if self.video else 1


def _wan(file: Files, weight: float, **options) -> Family:
    return Family(
        file, weight, WAN_CONTEXT, 0, (16, 8, 4), 256, empty="EmptyHunyuanLatentVideo", lora=lambda m: m.wan_lora(),
        other=lambda m: m.wan(seed=41), **options,
    )  # fmt: skip


FAMILIES = {
    "flux": Family(
        lambda m: m.flux(), 5, FLUX_CONTEXT, FLUX_POOLED, (16, 8, 0), 256, guidance=3.5, lora=lambda m: m.flux_lora(),
        control=lambda m: m.flux_controlnet(), other=lambda m: m.flux(seed=41), pipefusion=True,
    ),
    "sd3": Family(
        lambda m: m.sd3(), 4, SD3_CONTEXT, SD3_POOLED, (16, 8, 0), 256, lora=lambda m: m.sd3_lora(),
        control=lambda m: m.sd3_controlnet(), other=lambda m: m.sd3(seed=41), pipefusion=True,
        layers=("0", "1, 2", "3"),
    ),
    "sdxl": Family(
        lambda m: m.sdxl(), 3, SDXL_CONTEXT, SDXL_POOLED, (4, 8, 0), 320, empty="EmptyLatentImage", size=(32, 2),
        lora=lambda m: m.sdxl_lora(), control=lambda m: m.sdxl_controlnet(), other=lambda m: m.sdxl(seed=41),
        tokens=False,
    ),
    "wan": _wan(lambda m: m.wan(), 4, pipefusion=True),
    "wan i2v": _wan(lambda m: m.wan_i2v(), 1),
    "wan vace": _wan(lambda m: m.wan_vace(), 0.5),
    "wan causal": _wan(lambda m: m.wan_causal(), 0),
    "ltx-2": Family(
        lambda m: m.ltx2(), 3, LTX2_CONTEXT, 0, (128, 32, 8), 256, empty="EmptyLTXVLatentVideo", size=(32, 4),
        lora=lambda m: m.ltx2_lora(), other=lambda m: m.ltx2(seed=41),
    ),
    "lumina 2": Family(
        lambda m: m.lumina2(), 0.3, LUMINA2_CONTEXT, 0, (16, 8, 0), 2304, size=(16, 4),
        lora=lambda m: m.lumina2_lora(), other=lambda m: m.lumina2(), dtype="fp8_e5m2", layers=("0",),
    ),
    "flux2": Family(
        lambda m: m.flux2(), 0.5, FLUX_CONTEXT, 0, (128, 16, 0), 256, guidance=3.5, empty="EmptyFlux2LatentImage",
        other=lambda m: m.flux2(seed=41), pipefusion=True,
    ),
    "hunyuan video": Family(
        lambda m: m.hunyuan_video(), 0.5, HUNYUAN_VIDEO_CONTEXT, HUNYUAN_VIDEO_POOLED, (16, 8, 4), 256, guidance=3.5,
        empty="EmptyHunyuanLatentVideo", other=lambda m: m.hunyuan_video(seed=41), layers=("0",),
    ),
}  # fmt: skip
MAIN = ("flux", "sd3", "sdxl", "wan", "ltx-2", "lumina 2")


@dataclass(frozen=True)
class Shape:
    """Width and height in pixels, latent frames, images."""

    width: int
    height: int
    length: int
    batch: int


def empty_latent(graph: Graph, family: Family, shape: Shape) -> Node:
    """Without the sound of LTX-2."""
    frames = {"length": family.frames(shape.length)} if family.video else {}
    return graph.add(family.empty, width=shape.width, height=shape.height, batch_size=shape.batch, **frames)


def with_sound(graph: Graph, name: str, video: list, shape: Shape) -> list:
    """What the sampler takes: for LTX-2 the latents of video and sound together."""
    if name != "ltx-2":
        return video
    sound = graph.add("LatentOfShape", seed=3, shape=f"[{shape.batch}, 8, {SOUND_FRAMES}, 16]")
    return graph.add("LTXVConcatAVLatent", video_latent=video, audio_latent=sound)


def saved_latents(graph: Graph, name: str, sampled: list) -> list[str]:
    """The ids of the nodes that save what was sampled."""
    if name != "ltx-2":
        return [graph.save(sampled, PREFIX).id]
    parts = graph.add("LTXVSeparateAVLatent", av_latent=sampled)
    return [graph.save(parts.out(index), PREFIX).id for index in range(2)]


def random_text(graph: Graph, family: Family, seed: int, tokens: int) -> Node:
    return graph.add(
        "RandomConditioning", seed=seed, tokens=tokens, context_dim=family.context, pooled_dim=family.pooled,
        guidance=family.guidance,
    )  # fmt: skip


PREFIX = "graphs/latent"
