"""The pack as an importable package, under a name of its own: its folder may be called anything."""

import importlib.util
import sys
from pathlib import Path

PACK_ROOT = Path(__file__).absolute().parents[2]


def register_pack(name: str = "xdit_comfyui") -> None:
    """Import the repository root as package `name`, once, as ComfyUI does under the folder's path."""
    if name in sys.modules:  # a second package would lack the submodules that the first has imported
        return
    spec = importlib.util.spec_from_file_location(
        name, PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
