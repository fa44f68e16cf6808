"""Runs shipped templates without the files that they name: tiny models and test nodes stand in.

Loaders, LoRAs, ControlNets, samplers and configs stay as shipped, and so does VAE encoding. Text encoders become
random conditioning, with the references that they would add, and what comes after VAE decoding is saved as a latent.
Steps and sizes are cut, and no picture is scaled to a megapixel.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from .images import write_random_image
from .tiny_models import (
    FLUX_CONTEXT,
    FLUX_POOLED,
    SD3_CONTEXT,
    SD3_POOLED,
    SDXL_CONTEXT,
    SDXL_POOLED,
    WAN_CONTEXT,
    ModelShelf,
)
from .wide_models import QWEN_IMAGE_CONTEXT, Z_IMAGE_CONTEXT

FOLDERS = {
    "unet_name": "diffusion_models",
    "ckpt_name": "checkpoints",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "vae_name": "vae",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
}
FRAMES = 5
REFERENCES = ("image1", "image2", "image3")  # inputs of text encoders that see pictures


@dataclass(frozen=True)
class Family:
    """What stands in for a model: methods of ModelShelf by loader input, the widths of its text, the latent of a run.

    `latent`: channels, and frames for those that have them. `size`: width and height in pixels, of which `scale` are
    one of the latent. `name`: how templates of it begin.
    """

    name: str
    context: int
    pooled: int
    files: dict[str, str]
    latent: tuple[int, ...] = (16,)
    size: tuple[int, int] = (256, 192)
    scale: int = 8
    steps: int = 3
    weight_dtype: str = "default"


FLUX = Family(
    "flux",
    FLUX_CONTEXT,
    FLUX_POOLED,
    {"unet_name": "flux", "lora_name": "flux_lora", "control_net_name": "flux_controlnet", "vae_name": "image_vae"},
)
# Qwen-Image and Z-Image cannot be made narrow: one step of a small picture, and weights as small as in the file.
WIDE = {"size": (80, 64), "steps": 1, "weight_dtype": "fp8_e5m2"}
FAMILIES = (
    FLUX,
    Family("flux2", FLUX_CONTEXT, 0, {"unet_name": "flux2"}, (128,), scale=16),
    Family("sdxl", SDXL_CONTEXT, SDXL_POOLED, {"ckpt_name": "sdxl_checkpoint"}, (4,)),
    Family("sd35", SD3_CONTEXT, SD3_POOLED, {"ckpt_name": "sd3_checkpoint"}),
    Family("qwen_image", QWEN_IMAGE_CONTEXT, 0, {"unet_name": "qwen_image", "vae_name": "video_vae"}, (16, 1), **WIDE),
    Family("z_image", Z_IMAGE_CONTEXT, 0, {"unet_name": "z_image", "vae_name": "image_vae"}, **WIDE),
    Family("wan22", WAN_CONTEXT, 0, {"unet_name": "wan", "vae_name": "video_vae"}, (16, 2), (128, 96)),
)


def family_of(template: str) -> Family:
    """The family of a template by the name of its file."""
    (family,) = (family for family in FAMILIES if template.startswith(f"{family.name}_"))
    return family


def place_files(prompt: dict, shelf: ModelShelf, family: Family = FLUX) -> list[Path]:
    """Put a file under every name that the prompt's loaders ask for, and give those that are new.

    Text encoders are only there to be listed, and so are VAEs of a family that encodes nothing.
    """
    placed = []
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if name in FOLDERS and isinstance(value, str):
                folder = shelf.models / FOLDERS[name]
                model = folder / getattr(shelf, family.files[name])() if name in family.files else None
                placed += _place(folder / value, model)
            elif name == "image" and node["class_type"] == "LoadImage":
                write_random_image(shelf.models.parent / "input" / value, *family.size)
    return placed


def _place(path: Path, model: Path | None) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # another template's family may have used the same name
    if model is None:
        save_file({"stand_in": torch.ones(1)}, path)
    else:
        path.hardlink_to(model)
    return [path]


def with_stand_ins(
    prompt: dict,
    object_info: dict[str, dict],
    family: Family = FLUX,
    size: tuple[int, int] | None = None,
    steps: int | None = None,
) -> tuple[dict, list[str]]:
    """The prompt without text encoders and VAE decoding, and the ids of its SaveLatent nodes.

    `size` (width, height) and `steps` also change latents and samplers, for a quicker run.
    """
    outputs = {node_id: object_info[node["class_type"]]["output"] for node_id, node in prompt.items()}
    result, saved = {}, []
    for node_id, node in prompt.items():
        class_type, inputs = node["class_type"], dict(node["inputs"])
        if class_type.startswith("VAEDecode"):
            class_type, inputs = "SaveLatent", {"samples": inputs["samples"], "filename_prefix": "template"}
            saved.append(node_id)
        elif "clip" in inputs and outputs[node_id][:1] == ["CONDITIONING"]:
            result.update(_conditioning(node_id, inputs, family))
            continue
        elif class_type in ("ImageScale", "FluxKontextImageScale") and size:
            class_type = "ImageScale"
            inputs.update(upscale_method="lanczos", width=size[0], height=size[1], crop="center")
        elif class_type.startswith("Empty") and size and outputs[node_id] == ["LATENT"]:
            inputs.update(width=size[0], height=size[1], **({"length": FRAMES} if "length" in inputs else {}))
        elif class_type == "XDiTParallelConfig":
            inputs.update(unsupported="refuse")
        elif class_type == "XDiTLoader":
            inputs.update(weight_dtype=family.weight_dtype)
        elif outputs[node_id] == ["CLIP"]:
            continue
        result[node_id] = {"class_type": class_type, "inputs": _shortened(inputs, steps)}
    return _needed_for(saved, result), saved


def _conditioning(node_id: str, inputs: dict, family: Family) -> dict:
    """What stands in for a text encoder: other text gives other conditioning; pictures become reference latents."""
    text = " ".join(str(value) for value in inputs.values() if isinstance(value, str))
    random = {"seed": zlib.crc32(text.encode()), "tokens": 33, "guidance": -1.0}
    random.update(context_dim=family.context, pooled_dim=family.pooled)
    chain = [{"class_type": "RandomConditioning", "inputs": random}]
    nodes = {}
    for picture in (inputs[name] for name in REFERENCES if name in inputs and "vae" in inputs):
        before, encoded = f"{node_id}-{len(chain)}", f"{node_id}-latent-{len(chain)}"
        nodes[before] = chain[-1]
        nodes[encoded] = {"class_type": "VAEEncode", "inputs": {"pixels": picture, "vae": inputs["vae"]}}
        links = {"conditioning": [before, 0], "latent": [encoded, 0]}
        chain.append({"class_type": "ReferenceLatent", "inputs": links})
    return {**nodes, node_id: chain[-1]}


def _shortened(inputs: dict, steps: int | None) -> dict:
    """With so many steps at most; where one stage ends and the next begins moves along."""
    asked = inputs.get("steps")
    if steps is None or asked is None or asked <= steps:
        return inputs
    moved = {
        name: inputs[name] * steps // asked
        for name in ("start_at_step", "end_at_step")
        if name in inputs and inputs[name] <= asked
    }
    return {**inputs, "steps": steps, **moved}


def _needed_for(ends: list[str], prompt: dict) -> dict:
    """The nodes of `ends` and all that they depend on."""
    wanted, todo = set(), list(ends)
    while todo:
        node_id = todo.pop()
        if node_id not in wanted:
            wanted.add(node_id)
            todo += [value[0] for value in prompt[node_id]["inputs"].values() if isinstance(value, list)]
    return {node_id: node for node_id, node in prompt.items() if node_id in wanted}
