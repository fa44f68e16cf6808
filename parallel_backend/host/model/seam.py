"""The seam: where ComfyUI hands a sampling run over to whatever wraps it, whichever sampler node started it."""

from __future__ import annotations

SEAM_KEY = "xdit"


class Seam:
    """The outermost OUTER_SAMPLE wrapper of an xDiT MODEL: the run goes to the process group."""

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
        return self.run(executor, arguments, callback, disable_pbar)

    def run(self, executor, arguments, callback, disable_pbar):
        """`guider.outer_sample(**arguments)`, `executor.class_obj` being the guider; the sampled latent."""
        from ..run.runner import run

        return run(executor, arguments, callback, disable_pbar)
