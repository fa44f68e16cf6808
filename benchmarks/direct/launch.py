"""A script as one process for each GPU."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from .pack import ROOT


def one_rank_per_gpu(script: str, size: int) -> int:
    """Run `script` again `size` times with the same arguments, `--rank` and `--store`; the worst exit code."""
    with tempfile.TemporaryDirectory() as folder:
        return _ranks([sys.executable, script, *sys.argv[1:], "--store", f"{folder}/store"], size)


def with_roles(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of a script for `run_roles`: `role` is "files", "rank" (with `rank` and `store`) or None.

    With a role, what ComfyUI and the pack are imported from is on sys.path. The parser has --comfyui, --work, --tiny.
    """
    parser.add_argument("--role", choices=("files", "rank"), help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        sys.path[1:1] = [options.comfyui, str(ROOT / "tests"), str(ROOT / "scripts")]
        sys.argv = sys.argv[:1]
    if options.role == "rank":
        from comfy.cli_args import args

        args.cpu = options.tiny
    return options


def run_roles(
    script: str,
    options: argparse.Namespace,
    make_files: Callable[[argparse.Namespace], None],
    serve: Callable[[int, int, str, argparse.Namespace], None],
    made: Callable[[Path], bool],
) -> int:
    """`make_files(options)` unless `made(work)`, then `serve(rank, size, store, options)` for each GPU, each in a
    process of its own that runs `script` again; the worst exit code.
    """
    size = 2 if options.tiny else torch.cuda.device_count()
    if options.role == "files":
        make_files(options)
    elif options.role == "rank":
        with torch.inference_mode():
            serve(options.rank, size, options.store, options)
    else:
        return _files_then_ranks(script, size, options.work, made)
    return 0


def _files_then_ranks(script: str, size: int, work: Path | None, made: Callable[[Path], bool]) -> int:
    """Files lie in `work`; without it in memory where that is possible, while this lasts."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        work = work or Path(folder)
        shared = [sys.executable, script, *sys.argv[1:], "--work", str(work)]
        if not made(work):
            subprocess.run([*shared, "--role", "files"], check=True)
        return _ranks([*shared, "--role", "rank", "--store", f"{folder}/store"], size)


def _ranks(command: list[str], size: int) -> int:
    ranks = [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(size)]
    return max(abs(rank.wait()) for rank in ranks)
