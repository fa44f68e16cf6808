"""xDiT Benchmark: measures every way of dividing a model's work on this machine, and remembers the fastest for auto."""

from __future__ import annotations

import time

import comfy.samplers
import comfy.utils
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io, ui

from nodes import common_ksampler

from ..parallel_backend.host.model.convert import as_parallel
from ..parallel_backend.host.model.seam import SEAM_KEY
from ..parallel_backend.host.run.benchmark import BenchmarkSeam
from ..parallel_backend.host.run.benchmark_report import as_text
from .config import CATEGORY, config_input
from .owner import owner

SEED = 0


class XDiTBenchmark(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTBenchmark",
            display_name="xDiT Benchmark",
            category=CATEGORY,
            description="Samples a few steps with every way of dividing this model's work over the devices, shows how"
            " long a step takes with each, and remembers the fastest: strategy auto takes it from then on.",
            search_aliases=["xdit", "multi gpu", "measure", "speed", "ulysses"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that you sample with, patches included."),
                io.Conditioning.Input("positive", tooltip="The prompt that you sample with; its length matters."),
                io.Conditioning.Input("negative", tooltip="Evaluated when cfg is above 1, as in a sampler."),
                io.Latent.Input("latent_image", tooltip="A latent of the size and batch that you sample."),
                io.Int.Input(
                    "steps",
                    default=6,
                    min=3,
                    max=100,
                    tooltip="Steps sampled with each strategy. The first is not timed; the median of the rest counts.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="As in your sampler: at 1.0 only the positive prompt is evaluated.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampling algorithm."
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="How the noise is removed."
                ),
                config_input(),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> float:
        return time.time()  # the machine may have changed since

    @classmethod
    def execute(
        cls, model, positive, negative, latent_image, steps, cfg, sampler_name, scheduler, parallel_config=None
    ) -> io.NodeOutput:  # fmt: skip
        bar = comfy.utils.ProgressBar(1)
        seam = BenchmarkSeam(owner.runner, bar.update_absolute)
        model = as_parallel(model, parallel_config, owner.seam).clone()
        model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, SEAM_KEY)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, SEAM_KEY, seam)
        common_ksampler(model, SEED, steps, cfg, sampler_name, scheduler, positive, negative, latent_image)
        text = as_text(seam.measured)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
