"""Encoders of text, images and sound that give random numbers of a model's widths."""

from __future__ import annotations

import zlib

import comfy.clip_vision
import torch

from .register import node
from .tensors import SEED, SIZE, generator

NODES: dict[str, type] = {}
WIDTH = ("INT", {"default": 64, "min": 0, "max": 16384})

CLIP_VISION_LAYERS = 24


class RandomTextEncoder:
    """What nodes ask of a CLIP: the same text gives the same conditioning."""

    def __init__(self, context: int, pooled: int):
        self._widths = context, pooled
        self.cond_stage_model = torch.nn.Module()

    def clone(self) -> RandomTextEncoder:
        return self

    def tokenize(self, text: str, **options) -> dict[str, list]:
        pairs = [(word, 1.0) for word in text.split() or [""]]
        return {name: [pairs] for name in ("l", "g", "t5xxl", "llama", "hydit_clip", "mt5xl", "qwen25_7b")}

    def encode_from_tokens_scheduled(self, tokens: dict[str, list], add_dict: dict | None = None, **options) -> list:
        context, pooled = self._widths
        (words,) = tokens["l"][:1]
        noise = generator(zlib.crc32(repr(words).encode()))
        extra = {"pooled_output": torch.randn(1, pooled, generator=noise)} if pooled else {}
        return [[torch.randn(1, 8 + len(words), context, generator=noise), {**extra, **(add_dict or {})}]]

    def encode_from_tokens(self, tokens: dict[str, list], return_pooled: bool = False, **options):
        ((cond, extra),) = self.encode_from_tokens_scheduled(tokens)
        return (cond, extra.get("pooled_output")) if return_pooled else cond

    def add_patches(self, patches: dict, *strengths: float) -> list:
        return []


@node(NODES, "CLIP", context=WIDTH, pooled=WIDTH)
class RandomClip:
    def make(self, context, pooled):
        return (RandomTextEncoder(context, pooled),)


def vision_output(seed: int, tokens: int, width: int) -> comfy.clip_vision.Output:
    noise = generator(seed)
    output = comfy.clip_vision.Output()
    output.last_hidden_state = torch.randn(1, tokens, width, generator=noise)
    output.penultimate_hidden_states = torch.randn(1, tokens, width, generator=noise)
    output.all_hidden_states = torch.randn(1, CLIP_VISION_LAYERS, tokens, width, generator=noise)
    output.image_embeds = torch.randn(1, width, generator=noise)
    output.mm_projected = None
    output.image_sizes = [(3, 64, 64)]
    return output


@node(NODES, "CLIP_VISION_OUTPUT", seed=SEED, tokens=SIZE, width=WIDTH)
class RandomClipVisionOutput:
    def make(self, seed, tokens, width):
        return (vision_output(seed, tokens, width),)


class RandomVisionEncoder:
    def __init__(self, tokens: int, width: int):
        self._shape = tokens, width

    def encode_image(self, image: torch.Tensor, crop: bool = True) -> comfy.clip_vision.Output:
        return vision_output(int(image.sum().item()) % 2**31, *self._shape)


@node(NODES, "CLIP_VISION", tokens=SIZE, width=WIDTH)
class RandomClipVision:
    def make(self, tokens, width):
        return (RandomVisionEncoder(tokens, width),)


class RandomStyle:
    """What StyleModelApply asks of a Redux model: `tokens` more of the text's width."""

    def __init__(self, tokens: int, context: int):
        self._shape = tokens, context

    def get_cond(self, vision: comfy.clip_vision.Output) -> torch.Tensor:
        return torch.randn(1, *self._shape, generator=generator(1))


@node(NODES, "STYLE_MODEL", tokens=SIZE, context=WIDTH)
class RandomStyleModel:
    def make(self, tokens, context):
        return (RandomStyle(tokens, context),)


@node(NODES, "AUDIO_ENCODER_OUTPUT", seed=SEED, frames=SIZE, width=WIDTH, layers=SIZE)
class RandomSound:
    """A sound as encoded by Wav2Vec 2 or Whisper, and as Wan Dancer wants it: 50 frames a second."""

    def make(self, seed, frames, width, layers):
        noise = generator(seed)
        encoded = [torch.randn(1, frames, width, generator=noise) for _ in range(layers)]
        feature = torch.randn(frames, 35, generator=noise)
        return (
            {
                "encoded_audio": encoded[-1],
                "encoded_audio_all_layers": encoded,
                "audio_samples": frames * 320,
                "audio_feature": feature,
                "fps": 30.0,
            },
        )
