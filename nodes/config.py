"""Parallel Config: which devices work on an image, and how it is divided over them."""

from __future__ import annotations

from comfy_api.latest import io

from ..parallel_backend.config import (
    ATTENTION_KERNELS,
    COMPILE,
    STRATEGIES,
    UNSUPPORTED,
    ConfigError,
    Degrees,
    ParallelConfig,
)
from ..parallel_backend.host.devices import resolve

CATEGORY = "xDiT"
ParallelConfigSocket = io.Custom("XDIT_PARALLEL_CONFIG")


def config_input() -> io.Input:
    """The optional Parallel Config input of every other node."""
    return ParallelConfigSocket.Input(
        "parallel_config",
        optional=True,
        tooltip="Which devices to use and how to divide the work. Without one: every GPU, divided automatically.",
    )


def _degree(name: str, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=1, min=1, max=64, tooltip=f"{tooltip} Used when strategy is manual.")


class XDiTParallelConfig(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XDiTParallelConfig",
            display_name="Parallel Config",
            category=CATEGORY,
            description="Chooses the devices that work on one image together, and how it is divided over them.",
            search_aliases=["xdit", "multi gpu", "parallel", "ulysses", "ring", "usp"],
            inputs=[
                io.String.Input(
                    "devices",
                    default="auto",
                    tooltip="auto: every GPU ComfyUI sees (two CPU ranks without a GPU). Or ComfyUI's device numbers:"
                    " 0,1,2,3. Or CPU ranks and their number: cpu:2.",
                ),
                io.Combo.Input(
                    "strategy",
                    options=list(STRATEGIES),
                    tooltip="auto picks the degrees from model, heads, CFG, size and devices, and says what it picked"
                    " and why. manual takes the degrees below; they must multiply to the number of devices.",
                ),
                _degree(
                    "ulysses",
                    "Splits the image's tokens and exchanges attention heads (all-to-all). The first choice; at most"
                    " as many as the model has heads.",
                ),
                _degree(
                    "ring", "Splits the image's tokens and passes keys and values around. For more ranks than heads."
                ),
                _degree(
                    "cfg", "Evaluates the positive and the negative prompt at the same time. 2 when CFG is above 1."
                ),
                _degree("batch", "Divides the images of a latent batch; at most as many as it has images."),
                _degree("pipefusion", "Divides the model's blocks into a pipeline. Not built yet: keep 1."),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTION_KERNELS),
                    tooltip="Attention kernel in the ranks. auto: cuDNN on Hopper and newer, else ComfyUI's choice.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "unsupported",
                    options=list(UNSUPPORTED),
                    tooltip="What to do with a model that cannot be divided exactly over all devices: run it on fewer,"
                    " with a line in the log, or refuse.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "compile",
                    options=list(COMPILE),
                    default="auto",
                    optional=True,
                    tooltip="Compiles the model's blocks (torch.compile) and replays small images as CUDA graphs: the"
                    " same picture, faster steps. The first compiled step of a model takes up to a minute. auto: on"
                    " GPUs, for a model with which this ComfyUI has sampled 60 steps or that was compiled here before.",
                    advanced=True,
                ),
            ],
            outputs=[ParallelConfigSocket.Output(display_name="parallel_config")],
        )

    @classmethod
    def validate_inputs(
        cls, devices, strategy, ulysses, ring, cfg, batch, pipefusion, attention, unsupported, compile="auto"
    ) -> bool | str:
        values = (devices, strategy, ulysses, ring, cfg, batch, pipefusion, attention, unsupported, compile)
        if None in values:  # a link: its value is known, and checked, when the node runs
            return True
        try:
            _config(*values)
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, devices, strategy, ulysses, ring, cfg, batch, pipefusion, attention, unsupported, compile="auto"
    ) -> io.NodeOutput:
        return io.NodeOutput(
            _config(devices, strategy, ulysses, ring, cfg, batch, pipefusion, attention, unsupported, compile)
        )


def _config(devices, strategy, ulysses, ring, cfg, batch, pipefusion, attention, unsupported, compile):
    """The configuration, possible on this machine. Raises ConfigError."""
    degrees = Degrees(ulysses, ring, cfg, batch, pipefusion)
    config = ParallelConfig(devices, strategy, degrees, attention, unsupported, compile)
    available = resolve(devices).size
    if strategy == "manual" and degrees.ranks != available:
        raise ConfigError(
            f"{degrees} needs {degrees.ranks} device(s), devices {devices!r} are {available}; the degrees must multiply"
            f" to {available}"
        )
    return config
