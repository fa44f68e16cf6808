"""Runs shipped templates without the files that they name: tiny models and test nodes stand in.

Loaders of diffusion models, LoRAs and ControlNets, samplers and configs stay as shipped. Text encoders become random
conditioning, VAE encoding a random latent, and what comes after VAE decoding is saved as a latent.
"""

import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from .tiny_models import FLUX_CONTEXT, FLUX_POOLED, ModelShelf

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


def place_flux_files(prompt: dict, shelf: ModelShelf) -> None:
    """Put a file under every name that the prompt's loaders ask for.

    Diffusion models, LoRAs and ControlNets are the tiny Flux's; text encoders and VAEs are only there to be listed.
    """
    tiny = {"unet_name": shelf.flux, "lora_name": shelf.flux_lora, "control_net_name": shelf.flux_controlnet}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if name in FOLDERS and isinstance(value, str):
                folder = shelf.models / FOLDERS[name]
                _place(folder / value, folder / tiny[name]() if name in tiny else None)


def _place(path: Path, model: Path | None) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if model is None:
        save_file({"stand_in": torch.ones(1)}, path)
    else:
        path.hardlink_to(model)


def with_stand_ins(
    prompt: dict,
    object_info: dict[str, dict],
    context_dim: int = FLUX_CONTEXT,
    pooled_dim: int = FLUX_POOLED,
    size: tuple[int, int] | None = None,
) -> tuple[dict, list[str]]:
    """The prompt without text encoders and VAE, and the ids of its SaveLatent nodes.

    `size` (width, height) also changes the empty latents, for a quicker run.
    """
    outputs = {node_id: object_info[node["class_type"]]["output"] for node_id, node in prompt.items()}
    result, saved = {}, []
    for node_id, node in prompt.items():
        class_type, inputs = node["class_type"], dict(node["inputs"])
        if class_type.startswith("VAEDecode"):
            class_type, inputs = "SaveLatent", {"samples": inputs["samples"], "filename_prefix": "template"}
            saved.append(node_id)
        elif class_type.startswith("VAEEncode"):
            width, height = size or (512, 512)
            inputs = {"seed": 1, "width": width, "height": height, "channels": 16, "batch_size": 1}
            class_type = "RandomLatent"
        elif "clip" in inputs and outputs[node_id][:1] == ["CONDITIONING"]:
            text = " ".join(str(value) for value in inputs.values() if isinstance(value, str))
            inputs = {"seed": zlib.crc32(text.encode()), "tokens": 33, "guidance": -1.0}
            inputs.update(context_dim=context_dim, pooled_dim=pooled_dim)
            class_type = "RandomConditioning"
        elif class_type.startswith("Empty") and size and outputs[node_id] == ["LATENT"]:
            inputs.update(width=size[0], height=size[1])
        elif outputs[node_id] and set(outputs[node_id]) <= {"CLIP", "VAE"}:
            continue
        result[node_id] = {"class_type": class_type, "inputs": inputs}
    return _without_dangling(result, set(saved)), saved


def _without_dangling(prompt: dict, ends: set[str]) -> dict:
    """Drop nodes that take what is no longer there, or what a SaveLatent shows, until none is left."""
    while True:
        kept = {
            node_id: node
            for node_id, node in prompt.items()
            if all(
                value[0] in prompt and value[0] not in ends
                for value in node["inputs"].values()
                if isinstance(value, list)
            )
        }
        if kept.keys() == prompt.keys():
            return kept
        prompt = kept
