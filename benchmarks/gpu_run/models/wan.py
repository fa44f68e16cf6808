"""Wan 2.1 / 2.2 text to video, 14B parameters, 81 frames. Its steps are long, so there are few."""

import json

from .job import Case, Job

TINY_HEADS, TINY_TEXT = 4, 64


def job(tiny: bool) -> Job:
    """In small: four heads, which the file's metadata tell ComfyUI."""
    shape = (
        {"dim": 256, "ffn_dim": 512, "num_heads": TINY_HEADS, "num_layers": 2, "text_dim": TINY_TEXT}
        if tiny
        else {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "text_dim": 4096}
    )
    config = {"transformer": {"num_heads": TINY_HEADS, "text_dim": TINY_TEXT}}

    def module():
        import comfy.ldm.wan.model
        import comfy.ops

        return comfy.ldm.wan.model.WanModel(
            model_type="t2v", in_dim=16, out_dim=16, **shape, device="meta", operations=comfy.ops.disable_weight_init
        )

    def case(name: str, width: int, height: int, frames: int, steps: int, step_seconds: float, warm_up: bool) -> Case:
        inputs = {"width": width, "height": height, "length": frames, "batch_size": 1}
        latent = ("EmptyHunyuanLatentVideo", inputs)
        return Case(f"{name}, {frames} frames", latent, 5.0, (512, 512), steps, step_seconds, warm_up, prompts=1)

    cases = (
        (case("64 × 64", 64, 64, 9, 3, 1.0, True), case("96 × 64", 96, 64, 9, 2, 1.0, False))
        if tiny
        else (case("480p", 832, 480, 81, 3, 8.0, True), case("720p", 1280, 720, 81, 2, 33.0, False))
    )
    return Job("Wan 14B", module, shape["text_dim"], 0, cases, metadata={"config": json.dumps(config)} if tiny else {})
