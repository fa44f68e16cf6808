"""SDXL's UNet: convolutions, no tokens to divide; conditions and images are."""

from .job import Case, Job

LATENT = "EmptyLatentImage"


def job(tiny: bool) -> Job:
    depths = [0, 0, 1, 1, 2, 2] if tiny else [0, 0, 2, 2, 10, 10]
    width = [1, 1, 1] if tiny else [1, 2, 4]
    size, steps = (128, 4) if tiny else (1024, 12)

    def module():
        import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
        import comfy.ops

        return openaimodel.UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            num_res_blocks=[2, 2, 2],
            channel_mult=width,
            transformer_depth=list(depths),
            transformer_depth_output=[depth for depth in depths[::2] for _ in range(3)],
            transformer_depth_middle=1 if tiny else depths[-1],
            num_head_channels=64,
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            context_dim=2048,
            num_classes="sequential",
            adm_in_channels=2816,
            legacy=False,
            device="meta",
            operations=comfy.ops.disable_weight_init,
        )

    def case(batch: int, step_seconds: float) -> Case:
        inputs = {"width": size, "height": size, "batch_size": batch}
        return Case(f"{size}², batch {batch}", (LATENT, inputs), 7.0, (77, 77), steps, step_seconds)

    return Job("SDXL", module, 2048, 1280, (case(1, 0.12), case(4, 0.4)), scheduler="normal", vector=2816)
