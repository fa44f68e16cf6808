"""The python of a rank: ComfyUI's own, started with ComfyUI's flags, so that both see the same packages."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Attribute of sys.flags → the flag that is given as often as the attribute says. Isolated mode (-I) includes some.
FLAGS = {
    "debug": "d",
    "optimize": "O",
    "dont_write_bytecode": "B",
    "no_user_site": "s",
    "no_site": "S",
    "ignore_environment": "E",
    "safe_path": "P",  # from Python 3.11 on
    "isolated": "I",
    "bytes_warning": "b",
    "verbose": "v",
    "quiet": "q",
}
OF_ISOLATED = ("no_user_site", "ignore_environment", "safe_path")


def python_flags(
    flags: Any = sys.flags,
    options: Mapping[str, str | bool] = sys._xoptions,
    warnings: Sequence[str] = tuple(sys.warnoptions),
) -> list[str]:
    """What comes between python and the script's name, for an interpreter with these sys.flags, -X and -W options.

    Output is unbuffered in any case: under -E no variable says so.
    """
    given = ["-u"]
    isolated = bool(getattr(flags, "isolated", 0))
    for name, letter in FLAGS.items():
        times = int(getattr(flags, name, 0))
        if times and not (isolated and name in OF_ISOLATED):
            given.append(f"-{letter * times}")
    for name, value in options.items():
        given += ["-X", name if value is True else f"{name}={value}"]
    for warning in warnings:
        given += ["-W", warning]
    return given
