"""Qwen-Image, 20B parameters: two prompts of different length."""

from .job import Case, Job


def job(tiny: bool) -> Job:
    """In small: one block. ComfyUI reads neither heads nor text width from the file, so a block has its full width."""
    layers = 1 if tiny else 60
    size, steps, tokens = (128, 3, (33, 17)) if tiny else (1328, 8, (300, 20))

    def module():
        import comfy.ldm.qwen_image.model
        import comfy.ops

        return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
            num_layers=layers, device="meta", operations=comfy.ops.disable_weight_init
        )

    latent = ("EmptySD3LatentImage", {"width": size, "height": size, "batch_size": 1})
    return Job("Qwen-Image", module, 3584, 0, (Case(f"{size}²", latent, 4.0, tokens, steps, 0.7),), video=True)
