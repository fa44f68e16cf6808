"""The samplers: ComfyUI's own sampling, with the model's work done by the process group."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

from nodes import common_ksampler

from ..parallel_backend.host.model.convert import as_parallel, devices_of, with_parallel_model
from ..parallel_backend.host.run.latent_size import refuse_too_large
from .config import CATEGORY, config_input
from .owner import owner


class XDiTSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTSampler",
            display_name="xDiT Sampler",
            category=CATEGORY,
            description="KSampler on several devices. Takes the MODEL of an xDiT loader, or any MODEL that ComfyUI's"
            " own loaders made.",
            search_aliases=["xdit", "multi gpu", "ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="The model used for denoising the latent."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The random seed of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The number of denoising steps."),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance scale. At 1.0 the negative prompt is not evaluated (Flux).",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    tooltip="The sampling algorithm; all of ComfyUI's work.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    tooltip="How the noise is removed over the steps.",
                ),
                io.Conditioning.Input("positive", tooltip="What the image should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much is denoised: below 1 the structure of the latent is kept (image to image).",
                ),
                config_input(),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
        )

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise,
        parallel_config=None,
    ) -> io.NodeOutput:  # fmt: skip
        model = as_parallel(model, parallel_config, owner.seam)
        refuse_too_large(latent_image["samples"], devices_of(model))
        return io.NodeOutput(
            *common_ksampler(
                model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
            )
        )


class XDiTSamplerAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTSamplerAdvanced",
            display_name="xDiT Sampler (Advanced)",
            category=CATEGORY,
            description="SamplerCustomAdvanced on several devices.",
            search_aliases=["xdit", "multi gpu", "samplercustomadvanced"],
            inputs=[
                io.Noise.Input("noise", tooltip="The noise to start from."),
                io.Guider.Input("guider", tooltip="The model with its prompts and guidance."),
                io.Sampler.Input("sampler", tooltip="The sampling algorithm."),
                io.Sigmas.Input("sigmas", tooltip="The noise level of each step."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                config_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="output", tooltip="The latent after the last step."),
                io.Latent.Output(display_name="denoised_output", tooltip="The model's last denoised estimate."),
            ],
        )

    @classmethod
    def execute(cls, noise, guider, sampler, sigmas, latent_image, parallel_config=None) -> io.NodeOutput:
        guider = with_parallel_model(guider, parallel_config, owner.seam)
        refuse_too_large(latent_image["samples"], devices_of(guider.model_patcher))
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent_image)
