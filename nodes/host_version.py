"""One clear line on a ComfyUI that is older than what the pack is written against."""

from __future__ import annotations

import logging

from comfyui_version import __version__

MINIMUM = (0, 30)


def warn_if_too_old() -> None:
    found = tuple(int(part) for part in __version__.split(".")[:2])
    if found < MINIMUM:
        logging.warning(
            "xDiT for ComfyUI needs ComfyUI %s or newer, this is %s: update ComfyUI",
            ".".join(map(str, MINIMUM)),
            __version__,
        )
