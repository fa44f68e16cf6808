"""What of ComfyUI does not fit this pack, as problems."""

from __future__ import annotations

import sys

from ..comfyui.border import USED
from ..comfyui.self_check import misfits
from .report import Problem

OF_THE_SERVER = ("nodes", "server", "comfy_extras", "latent_preview")  # looked at inside ComfyUI only


def border_problems() -> list[Problem]:
    """One for each name of ComfyUI that is missing, or takes other parameters than this pack gives it."""
    inside = "server" in sys.modules
    names = [used for used in USED if inside or used.name.partition(".")[0] not in OF_THE_SERVER]
    return [
        Problem(f"ComfyUI's {misfit}", "update this pack; if it is the newest, report this with the doctor's JSON")
        for misfit in misfits(names)
    ]
