"""The pack as ranks import it: under its name, without its ComfyUI entry point."""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def import_pack() -> None:
    """Let `xdit_comfyui.…` be imported in this process."""
    if "xdit_comfyui" not in sys.modules:
        package = types.ModuleType("xdit_comfyui")
        package.__path__ = [str(ROOT)]
        sys.modules["xdit_comfyui"] = package
