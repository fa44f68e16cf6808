"""ComfyUI inside the test process: importable, on the CPU where there is no GPU."""

import sys
from pathlib import Path

import torch


def import_comfy(tree: Path) -> None:
    """Put a ComfyUI tree at the front of sys.path. Nothing is written into it."""
    sys.dont_write_bytecode = True
    if str(tree) not in sys.path:
        sys.path.insert(0, str(tree))
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
