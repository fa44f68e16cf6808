"""FLUX.1-dev: guidance as an input, so one condition."""

from support.tiny_models import published_name

from ..flux.model_files import FLUX_DEV, TINY
from .job import Case, Job


def job(tiny: bool) -> Job:
    shape = TINY if tiny else FLUX_DEV
    steps, tokens = (4, 16) if tiny else (10, 512)

    def module():
        import comfy.ldm.flux.model
        import comfy.ops

        return comfy.ldm.flux.model.Flux(
            **shape.config(shape.double, shape.single), device="meta", operations=comfy.ops.disable_weight_init
        )

    def case(size: int, step_seconds: float) -> Case:
        latent = ("EmptySD3LatentImage", {"width": size, "height": size, "batch_size": 1})
        return Case(f"{size}²", latent, 1.0, (tokens, tokens), steps, step_seconds)

    cases = (case(128, 0.5), case(192, 0.5)) if tiny else (case(1024, 0.2), case(2048, 1.05))
    return Job(
        "FLUX.1-dev",
        module,
        shape.context,
        shape.pooled,
        cases,
        guidance=3.5,
        file_name=published_name,
        vector=shape.pooled,
    )
