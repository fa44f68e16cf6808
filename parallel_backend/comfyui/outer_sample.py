"""Calling `guider.outer_sample` as ComfyUI does: by position, which wrappers of node packs count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

POSITIONAL = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback", "disable_pbar", "seed")


def call_outer_sample(call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """`call` with `arguments` by name, in the order of comfy.samplers.CFGGuider.sample."""
    return call(*(arguments[name] for name in POSITIONAL), latent_shapes=arguments["latent_shapes"])
