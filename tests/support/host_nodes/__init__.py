"""Test-only nodes. Linked into a test host's custom_nodes; never registered for users."""

import threading
import time
import uuid
from pathlib import Path

import comfy.model_management
import comfy.samplers
import torch
from comfy_api.latest import ComfyExtension, io


class RandomConditioning(io.ComfyNode):
    """Stands in for a text encoder: the same seed gives the same conditioning."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RandomConditioning",
            display_name="Random Conditioning (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1),
                io.Int.Input("tokens", default=16, min=1, max=4096),
                io.Int.Input("context_dim", default=128, min=1, max=16384),
                io.Int.Input("pooled_dim", default=64, min=0, max=16384, tooltip="0: no pooled output"),
                io.Float.Input("guidance", default=3.5, min=-1.0, max=100.0, step=0.1, tooltip="negative: none"),
                io.Combo.Input("device", options=["cpu", "gpu"], default="cpu", optional=True, tooltip="where it lies"),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed, tokens, context_dim, pooled_dim, guidance, device="cpu") -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        target = comfy.model_management.get_torch_device() if device == "gpu" else torch.device("cpu")
        cond = torch.randn(1, tokens, context_dim, generator=generator).to(target)
        options = {}
        if pooled_dim:
            options["pooled_output"] = torch.randn(1, pooled_dim, generator=generator).to(target)
        if guidance >= 0:
            options["guidance"] = guidance
        return io.NodeOutput([[cond, options]])


class RandomLatent(io.ComfyNode):
    """Stands in for a VAE-encoded image: normal noise, the same for the same seed."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RandomLatent",
            display_name="Random Latent (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**63 - 1),
                io.Int.Input("width", default=128, min=8, max=16384, step=8),
                io.Int.Input("height", default=128, min=8, max=16384, step=8),
                io.Int.Input("channels", default=16, min=1, max=256),
                io.Int.Input("batch_size", default=1, min=1, max=64),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, seed, width, height, channels, batch_size) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randn(batch_size, channels, height // 8, width // 8, generator=generator)
        return io.NodeOutput({"samples": samples})


class Uncached(io.ComfyNode):
    """Passes a latent on. With another number, what comes after it is not taken from ComfyUI's cache."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Uncached",
            display_name="Uncached (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[io.Latent.Input("samples"), io.Int.Input("number", default=0, min=0, max=2**62)],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples, number) -> io.NodeOutput:
        return io.NodeOutput(samples)


class ScaleLoraInPlace(io.ComfyNode):
    """Multiplies the large matrices of a MODEL's LoRA where they lie, as nodes do that change a LoRA's strength."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ScaleLoraInPlace",
            display_name="Scale LoRA In Place (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("factor", default=1.0, min=-100.0, max=100.0),
                io.Combo.Input("by", options=["operation", "data", "numpy"], tooltip="how it is written"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, factor, by) -> io.NodeOutput:
        clone = model.clone()
        for patches in clone.patches.values():
            for _, adapter, *_ in patches:
                up = adapter.weights[0]
                if by == "operation":
                    up.mul_(factor)
                elif by == "data":
                    up.data.mul_(factor)
                else:
                    up.numpy()[...] *= factor
        clone.patches_uuid = uuid.uuid4()
        return io.NodeOutput(clone)


class HoldQueue(io.ComfyNode):
    """Keeps the queue busy until it is cancelled, or for so many seconds."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HoldQueue",
            display_name="Hold Queue (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[io.Float.Input("seconds", default=60.0, min=0.0, max=600.0)],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, seconds) -> io.NodeOutput:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.02)
        return io.NodeOutput()


class WantMemory(io.ComfyNode):
    """Stands in for a text encoder or a VAE that is loaded: ComfyUI frees so much more than is free."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WantMemory",
            display_name="Want Memory (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Latent.Input("samples", tooltip="passed through"),
                io.Int.Input("more", default=1, min=-(2**62), max=2**62, tooltip="bytes beyond what is free"),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples, more) -> io.NodeOutput:
        want_memory(more)
        return io.NodeOutput(samples)


def want_memory(more: int) -> None:
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(comfy.model_management.get_free_memory(device) + more, device)


class After(io.ComfyNode):
    """Passes a MODEL on once something else is made and a file is there."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="After",
            display_name="After (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[io.Model.Input("model"), io.AnyType.Input("other"), io.String.Input("file")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, other, file) -> io.NodeOutput:
        while not Path(file).exists():
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.02)
        return io.NodeOutput(model)


class GreedySampler(io.ComfyNode):
    """Euler that wants all memory before each step, and cannot be sent to the ranks."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="GreedySampler", category="xDiT/test", inputs=[], outputs=[io.Sampler.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_greedily, {"lock": threading.Lock()}))


def sample_greedily(model, x, sigmas, extra_args=None, callback=None, disable=None, lock=None):
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        want_memory(2**50)
        denoised = model(x, sigma * x.new_ones(x.shape[0]), **(extra_args or {}))
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


class LoadedModels(io.ComfyNode):
    """Shows ComfyUI's list of loaded models: class, device, bytes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoadedModels",
            display_name="Loaded Models (test only)",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[io.Latent.Input("samples", tooltip="passed through")],
            outputs=[io.Latent.Output()],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, samples) -> io.NodeOutput:
        loaded = [
            (type(entry.model.model).__name__, str(entry.device), entry.model_loaded_memory())
            for entry in comfy.model_management.current_loaded_models
        ]
        return io.NodeOutput(samples, ui={"loaded": loaded})


class TestNodes(ComfyExtension):
    async def get_node_list(self):
        return [
            RandomConditioning,
            RandomLatent,
            Uncached,
            ScaleLoraInPlace,
            HoldQueue,
            WantMemory,
            After,
            GreedySampler,
            LoadedModels,
        ]


async def comfy_entrypoint():
    return TestNodes()
