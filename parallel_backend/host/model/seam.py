"""The seam: where ComfyUI hands a sampling run over to whatever wraps it, whichever sampler node started it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SEAM_KEY = "xdit"


class Seam:
    """The outermost OUTER_SAMPLE wrapper of an xDiT MODEL: the run goes to the process group.

    `run(executor, arguments, callback, disable_pbar)` is `guider.outer_sample(**arguments)` there, `executor.class_obj`
    being the guider; it returns the sampled latent.
    """

    def __init__(self, run: Callable[[Any, dict[str, Any], Callable | None, bool], Any]):
        self._run = run

    def __deepcopy__(self, memo: dict) -> Seam:
        return self  # nodes copy a MODEL's options; what they lead to is one

    def __call__(
        self,
        executor,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
        latent_shapes=None,
    ):
        arguments = {
            "noise": noise,
            "latent_image": latent_image,
            "sampler": sampler,
            "sigmas": sigmas,
            "denoise_mask": denoise_mask,
            "seed": seed,
            "latent_shapes": latent_shapes,
        }
        return self._run(executor, arguments, callback, disable_pbar)
