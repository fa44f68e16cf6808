"""A pack of ComfyUI's V3 kind that sets itself up before its nodes are listed."""

import comfy.samplers
from comfy.k_diffusion.sampling import sample_euler
from comfy_api.latest import ComfyExtension, io

settings = {}


def sample_scaled(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return sample_euler(model, x * settings["factor"], sigmas, extra_args, callback, disable)


class ExtensionSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("ExtensionSampler", inputs=[], outputs=[io.Sampler.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_scaled))


class Extension(ComfyExtension):
    async def on_load(self):
        settings["factor"] = 0.6

    async def get_node_list(self):
        return [ExtensionSampler]


async def comfy_entrypoint():
    return Extension()
