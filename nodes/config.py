"""Parallel Config: which devices work on an image, and how it is divided over them."""

from __future__ import annotations

from comfy_api.latest import io

from ..parallel_backend.contract.config import (
    ATTENTION_KERNELS,
    COMPILE,
    MAX_PATCHES,
    STRATEGIES,
    UNSUPPORTED,
    WEIGHTS,
    ConfigError,
    Degrees,
    ParallelConfig,
)
from ..parallel_backend.host.base.devices import resolve

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
                    tooltip="auto: every GPU ComfyUI sees, but for a small one beside large ones (two CPU ranks without"
                    " a GPU). Or ComfyUI's device numbers: 0,1,2,3. Or CPU ranks and their number: cpu:2.",
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
                _degree(
                    "pipefusion",
                    "Divides the model's blocks: each device holds some of them, and parts of the image flow through."
                    " For slow links and big models. It approximates: see patches, warmup_steps and the help page.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTION_KERNELS),
                    tooltip="Attention kernel in the ranks, in rings too. auto: the exact one that is the fastest for"
                    " each shape, measured once. flash3: FlashAttention 3, for Hopper GPUs (pip install fa3-fwd).",
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
                io.Int.Input(
                    "patches",
                    default=0,
                    min=0,
                    max=MAX_PATCHES,
                    optional=True,
                    tooltip="PipeFusion: in how many parts the image flows through the devices. 0: chosen by size.",
                    advanced=True,
                ),
                io.Int.Input(
                    "warmup_steps",
                    default=1,
                    min=0,
                    max=10_000,
                    optional=True,
                    tooltip="PipeFusion: how many first steps are computed exactly, without a gain in speed. The first"
                    " evaluation of each prompt always is.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default="auto",
                    optional=True,
                    tooltip="replicate: every device holds the whole model. shard: each holds its share of every block,"
                    " and blocks are put together just in time. shard + offload: the shares rest in host memory. auto:"
                    " the first of these that fits.",
                    advanced=True,
                ),
            ],
            outputs=[ParallelConfigSocket.Output(display_name="parallel_config")],
        )

    @classmethod
    def validate_inputs(cls, devices, strategy, ulysses, ring, cfg, batch, pipefusion) -> bool | str:
        # Only what depends on each other: ComfyUI repeats a refusal for every input named here, and checks the others.
        values = (devices, strategy, ulysses, ring, cfg, batch, pipefusion)
        if None in values:  # a link: its value is known, and checked, when the node runs
            return True
        try:
            _config(devices, strategy, values[2:])
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        devices,
        strategy,
        ulysses,
        ring,
        cfg,
        batch,
        pipefusion,
        attention,
        unsupported,
        compile="auto",
        patches=0,
        warmup_steps=1,
        weights="auto",
    ) -> io.NodeOutput:
        degrees = (ulysses, ring, cfg, batch, pipefusion)
        others = (attention, unsupported, compile, patches, warmup_steps, weights)
        return io.NodeOutput(_config(devices, strategy, degrees, *others))


def _config(devices, strategy, degrees, *others) -> ParallelConfig:
    """The configuration, possible on this machine. Raises ConfigError."""
    config = ParallelConfig(devices, strategy, Degrees(*degrees), *others)
    available = resolve(devices).size
    if strategy == "manual" and config.degrees.ranks != available:
        raise ConfigError(
            f"{config.degrees} needs {config.degrees.ranks} device(s), devices {devices!r} are {available}; the degrees"
            f" must multiply to {available}"
        )
    return config
