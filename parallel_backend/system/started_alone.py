"""Makes ComfyUI and the pack importable for a command that is started beside ComfyUI, by path or by `python -m`.

The pack's folder need not be a valid module name: the pack is imported as `xdit_comfyui`, as ComfyUI imports it under
its path. ComfyUI is the one around custom_nodes, else the one at COMFYUI_PATH. Commands load this file by its path,
before anything of the pack can be imported.
"""

import importlib
import importlib.util
import os
import sys

# Not resolved: where the pack is a symbolic link in custom_nodes, its ComfyUI is around the link.
PACK_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACK_NAME = "xdit_comfyui"
USAGE_ERROR = 2


def comfyui() -> str | None:
    """ComfyUI's folder, or None."""
    custom_nodes = os.path.dirname(PACK_ROOT)
    around = os.path.dirname(custom_nodes) if os.path.basename(custom_nodes) == "custom_nodes" else None
    for folder in (around, os.environ.get("COMFYUI_PATH")):
        if folder and os.path.isfile(os.path.join(folder, "comfy", "model_management.py")):
            return os.path.abspath(folder)
    return None


def run(room: str, title: str) -> int:
    """`main` of `parallel_backend/<room>/command.py` with the command line's arguments; its exit status."""
    folder = comfyui()
    if folder is None:
        print(
            f"{title} needs ComfyUI, and there is none around {PACK_ROOT} nor at COMFYUI_PATH. Run it from"
            " ComfyUI/custom_nodes, or set COMFYUI_PATH to ComfyUI's folder.",
            file=sys.stderr,
        )
        return USAGE_ERROR
    here = os.path.join(PACK_ROOT, "parallel_backend", room)
    # This script's folder, or the pack's, whose nodes/ would hide ComfyUI's nodes.py.
    sys.path[:] = [folder, *(path for path in sys.path if os.path.abspath(path) not in (here, PACK_ROOT))]
    spec = importlib.util.spec_from_file_location(
        PACK_NAME, os.path.join(PACK_ROOT, "__init__.py"), submodule_search_locations=[PACK_ROOT]
    )
    assert spec is not None and spec.loader is not None  # as for every .py file
    sys.modules[PACK_NAME] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return importlib.import_module(f"{PACK_NAME}.parallel_backend.{room}.command").main(sys.argv[1:])
