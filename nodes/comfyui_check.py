"""Lines at start about the ComfyUI that this pack runs in: one for its version, one for each name that does not fit."""

from __future__ import annotations

import logging

import comfy.model_patcher
from comfyui_version import __version__

from ..parallel_backend.comfyui.border import NEWEST_TESTED, OLDEST, USED
from ..parallel_backend.comfyui.self_check import misfits, overrides
from ..parallel_backend.host.model.weightless_model import XDiTModelPatcher
from ..parallel_backend.host.run.loaded_models import DevicePatcher

PATCHERS = (XDiTModelPatcher, DevicePatcher)


def tell_about_comfyui(version: str = __version__) -> None:
    """Log a warning for a ComfyUI that is too old, or in which something that this pack uses is not as expected; an
    information for one that is newer than was tested and fits. Nothing is refused.
    """
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < OLDEST:
        logging.warning(
            "xDiT for ComfyUI needs ComfyUI %s or newer, this is %s: update ComfyUI", _text(OLDEST), version
        )
    wrong = [str(misfit) for misfit in misfits()]
    for patcher in PATCHERS:
        wrong += overrides(patcher, comfy.model_patcher.ModelPatcher)
    for line in wrong:
        logging.warning("xDiT for ComfyUI does not fit ComfyUI %s: %s. Update this pack", version, line)
    if found > NEWEST_TESTED and not wrong:
        logging.info(
            "xDiT for ComfyUI was tested up to ComfyUI %s, this is %s: the %d names that it uses are as expected",
            _text(NEWEST_TESTED),
            version,
            len(USED),
        )


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
