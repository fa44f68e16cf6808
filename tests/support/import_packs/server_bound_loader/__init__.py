"""A loader with a recipe that works in ComfyUI's process only."""

import comfy.sd
import folder_paths
from server import PromptServer


def load(path, disable_dynamic=False):
    if not isinstance(PromptServer.instance, PromptServer):
        raise LookupError("this loader asks ComfyUI's server first")
    model = comfy.sd.load_diffusion_model(path, disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (load, (path,))
    return model


class ServerBoundLoader:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"unet_name": (folder_paths.get_filename_list("diffusion_models"),)}}

    @classmethod
    def VALIDATE_INPUTS(cls, unet_name):
        return True

    def load(self, unet_name):
        return (load(folder_paths.get_full_path_or_raise("diffusion_models", unet_name)),)


NODE_CLASS_MAPPINGS = {"ServerBoundLoader": ServerBoundLoader}
