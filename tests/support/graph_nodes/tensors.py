"""Images, masks, latents and VAEs that are random: the same for the same seed."""

from __future__ import annotations

import json

import torch

from .register import node

NODES: dict[str, type] = {}
SEED = ("INT", {"default": 0, "min": 0, "max": 2**31})
SIZE = ("INT", {"default": 64, "min": 1, "max": 4096})


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@node(NODES, "IMAGE", seed=SEED, width=SIZE, height=SIZE, frames=SIZE)
class RandomImage:
    def make(self, seed, width, height, frames):
        return (torch.rand(frames, height, width, 3, generator=generator(seed)),)


@node(NODES, "MASK", seed=SEED, width=SIZE, height=SIZE, frames=SIZE)
class RandomMask:
    def make(self, seed, width, height, frames):
        return (torch.rand(frames, height, width, generator=generator(seed)),)


@node(NODES, "LATENT", seed=SEED, shape=("STRING", {"default": "[1, 16, 8, 8]"}))
class LatentOfShape:
    """A latent of any shape; `shape` as JSON."""

    def make(self, seed, shape):
        return ({"samples": torch.randn(json.loads(shape), generator=generator(seed))},)


class RandomEncoder:
    """Encodes to noise of the shape that a VAE gives: `channels`, a frame for `temporal` frames, `spatial` pixels.

    `temporal`: 0 for a VAE of images.
    """

    def __init__(self, channels: int, spatial: int, temporal: int):
        self.latent_channels = channels
        self.downscale_ratio = (lambda frames: (frames + temporal - 1) // temporal, spatial, spatial)
        self.downscale_index_formula = (temporal or 1, spatial, spatial)
        self._spatial, self._temporal = spatial, temporal
        if not temporal:
            self.downscale_ratio = spatial

    def spacial_compression_encode(self) -> int:
        return self._spatial

    def temporal_compression_decode(self) -> int | None:
        return self._temporal or None

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels`: B,H,W,C of an image, frames,H,W,C of a video, or with both dimensions."""
        *leading, height, width, _ = pixels.shape
        size = (self.latent_channels, height // self._spatial, width // self._spatial)
        seed = generator(int(pixels.sum().item()) % 2**31)
        if not self._temporal:
            return torch.randn(leading[-1], *size, generator=seed)
        frames = (leading[-1] - 1) // self._temporal + 1
        batch = leading[0] if len(leading) == 2 else 1
        return torch.randn(batch, size[0], frames, *size[1:], generator=seed)


@node(NODES, "VAE", channels=SIZE, spatial=SIZE, temporal=("INT", {"default": 0, "min": 0, "max": 16}))
class RandomVae:
    def make(self, channels, spatial, temporal):
        return (RandomEncoder(channels, spatial, temporal),)


class RandomSoundEncoder:
    """Encodes a waveform to a latent of 8 channels and 16 frequencies, a frame for each 441 samples."""

    audio_sample_rate = 44100

    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        """`waveform`: B,samples,channels."""
        return torch.randn(1, 8, waveform.shape[1] // 441, 16, generator=generator(waveform.shape[1]))


@node(NODES, "VAE")
class RandomSoundVae:
    def make(self):
        return (RandomSoundEncoder(),)
