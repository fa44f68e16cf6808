"""The process that test ranks are forked from: what takes seconds to import is imported once for all of them.

`rank_origin.py SOCKET module:Side`. Side.prepare() is called here, once; it imports and starts no thread. Every rank
makes a Side() of its own, whose answer(*command) is what the rank gives for a command.
"""

import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
import types
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MOST_RANKS = 16
COLLECTIVE_WITHIN_S = 60


def make_pack_importable() -> None:
    """Let `xdit_comfyui.…` be imported here without running the pack's ComfyUI entry point."""
    if "xdit_comfyui" not in sys.modules:
        package = types.ModuleType("xdit_comfyui")
        package.__path__ = [str(TESTS.parent)]
        sys.modules["xdit_comfyui"] = package


def main(host: socket.socket, side_name: str) -> None:
    make_pack_importable()
    sys.path[:1] = [str(TESTS), str(TESTS / "sharding")]  # not this folder, whose comfy.py is not ComfyUI
    import torch

    torch.set_num_threads(1)
    module, _, name = side_name.partition(":")
    side = getattr(importlib.import_module(module), name)
    side.prepare()
    gc.freeze()  # what is shared with the ranks is not to be looked through there
    while True:
        message, descriptors, _, _ = socket.recv_fds(host, 4096, MOST_RANKS)
        if not message:
            return
        verb, argument = pickle.loads(message)
        if verb == "fork":
            answer = fork(host, [Connection(descriptor) for descriptor in descriptors], argument, side)
        else:
            answer = end(argument)
        host.send(pickle.dumps(answer))


def fork(host: socket.socket, pipes: list[Connection], store: str, side: type) -> list[int]:
    pids = []
    for rank, pipe in enumerate(pipes):
        if (pid := os.fork()) == 0:
            host.close()
            for other in pipes:
                if other is not pipe:
                    other.close()
            serve(rank, len(pipes), store, pipe, side)
            os._exit(0)
        pids.append(pid)
    for pipe in pipes:
        pipe.close()
    return pids


def end(pids: list[int]) -> list[int]:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return pids


def serve(rank: int, size: int, store: str, pipe: Connection, side_type: type) -> None:
    """Until the pipe's other end is closed."""
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=COLLECTIVE_WITHIN_S),
    )
    side = side_type()
    while True:
        try:
            command = pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return
        try:
            with torch.inference_mode():
                answer, error = side.answer(*command), None
        except Exception:
            answer, error = None, traceback.format_exc()
        pipe.send_bytes(pickle.dumps((answer, error)))
        gc.collect()  # a model with hooks is a ring of references


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
