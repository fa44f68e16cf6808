"""Sampling algorithms of a node pack: they draw from the global generator, or hold what cannot be pickled."""

import threading

import comfy.k_diffusion.sampling
import comfy.samplers
import torch
from comfy_api.latest import io


def sample_with_global_noise(model, x, sigmas, extra_args=None, callback=None, disable=None, lock=None):
    """Euler with a little noise from torch's global generator after each step."""
    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        denoised = model(x, sigma * x.new_ones(x.shape[0]), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        x = x + (x - denoised) / sigma * (following - sigma) + 0.05 * following * torch.randn_like(x)
    return x


def sampler_schema(node_id: str) -> io.Schema:
    return io.Schema(node_id=node_id, category="xDiT/test", inputs=[], outputs=[io.Sampler.Output()])


class GlobalNoiseSampler(io.ComfyNode):
    """A sampler that calls torch.randn_like without a generator."""

    @classmethod
    def define_schema(cls):
        return sampler_schema("GlobalNoiseSampler")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_with_global_noise))


class LockedSampler(io.ComfyNode):
    """The same sampler with a lock among its options: it cannot be pickled."""

    @classmethod
    def define_schema(cls):
        return sampler_schema("LockedSampler")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_with_global_noise, {"lock": threading.Lock()}))


class ChurnSampler(io.ComfyNode):
    """ComfyUI's Euler with s_churn: it draws from the global generator."""

    @classmethod
    def define_schema(cls):
        return sampler_schema("ChurnSampler")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(comfy.samplers.ksampler("euler", {"s_churn": 2.0, "s_noise": 1.0}))
