"""Test-only nodes that give latents and conditioning of any shape, and patches that cannot be sent."""

import json
import os
import shutil

import torch
from comfy_api.latest import ComfyExtension, io

from .objects import UNSENDABLE


class AnyLatent(io.ComfyNode):
    """A latent of any shape: random, or zeros that take one number's memory however large they are."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AnyLatent",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[io.String.Input("shape"), io.Combo.Input("fill", options=["random", "zeros", "nan"])],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, shape, fill) -> io.NodeOutput:
        sizes = json.loads(shape)
        if fill == "random":
            samples = torch.randn(sizes, generator=torch.Generator().manual_seed(1))
        else:
            samples = torch.full([1] * len(sizes), torch.nan if fill == "nan" else 0.0).expand(sizes)
        return io.NodeOutput({"samples": samples})


class AnyConditioning(io.ComfyNode):
    """Conditioning whose tensor and pooled output have any shape; "none" leaves the pooled output out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="AnyConditioning",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.String.Input("shape"),
                io.String.Input("pooled"),
                io.Boolean.Input("empty", default=False, tooltip="no conditioning at all"),
                io.Boolean.Input("nan", default=False),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, shape, pooled, empty, nan) -> io.NodeOutput:
        if empty:
            return io.NodeOutput([])
        generator = torch.Generator().manual_seed(2)
        cond = torch.randn(json.loads(shape), generator=generator)
        options = {"guidance": 3.5}
        if pooled != "none":
            options["pooled_output"] = torch.randn(json.loads(pooled), generator=generator)
        return io.NodeOutput([[cond * torch.nan if nan else cond, options]])


class FlatNoise(io.ComfyNode):
    """Noise of zeros that takes one number's memory however large the latent is."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FlatNoise",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Flat())


class Flat:
    seed = 0

    def generate_noise(self, latent):
        return torch.zeros([]).expand(latent["samples"].shape)


class ChangeFile(io.ComfyNode):
    """Changes a file on the disk while a MODEL passes through."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ChangeFile",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Model.Input("model"),
                io.String.Input("path"),
                io.String.Input("new", default="", tooltip="the file whose content it gets; none: it is deleted"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, path, new) -> io.NodeOutput:
        if new:
            shutil.copy(new, f"{path}.new")
            os.replace(f"{path}.new", path)
        else:
            os.unlink(path)
        return io.NodeOutput(model)


class UnsendablePatch(io.ComfyNode):
    """Puts an object that cannot be sent to a rank somewhere on a MODEL."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="UnsendablePatch",
            category="xDiT/test",
            description=cls.__doc__,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("what", options=list(UNSENDABLE)),
                io.Combo.Input("where", options=["block", "wrapper", "post_cfg", "option", "attachment", "weight"]),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, what, where) -> io.NodeOutput:
        clone, held = model.clone(), UNSENDABLE[what]()
        if where == "block":
            clone.set_model_patch(lambda args, held=held: args, "single_block")
        elif where == "wrapper":
            clone.set_model_unet_function_wrapper(
                lambda apply, inputs, held=held: apply(inputs["input"], inputs["timestep"], **inputs["c"])
            )
        elif where == "post_cfg":
            clone.set_model_sampler_post_cfg_function(lambda args, held=held: args["denoised"])
        elif where == "option":
            clone.model_options["transformer_options"]["held_by_a_test"] = held
        elif where == "attachment":
            clone.set_attachments("held_by_a_test", held)
        else:
            clone.add_object_patch("diffusion_model.held_by_a_test", held)
        return io.NodeOutput(clone)


class BadNodes(ComfyExtension):
    async def get_node_list(self):
        return [AnyLatent, AnyConditioning, FlatNoise, ChangeFile, UnsendablePatch]


async def comfy_entrypoint():
    return BadNodes()
