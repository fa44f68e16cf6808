"""A set of real processes over gloo that run cases, kept alive between tests.

`RankSet(4, "module:Side")` starts four, each with its own Side(); `run(command)` sends the same command to all and
returns every rank's answer. Waits are bounded: a set in which a rank failed or hung is killed, and the next `run`
starts it anew.
Run as a program, this file is one rank: rank_set.py RANK SIZE STORE PIPE SIDE.
"""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
import types
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ANSWER_WITHIN_S = 90
COLLECTIVE_WITHIN_S = 20


def make_pack_importable() -> None:
    """Let `xdit_comfyui.…` be imported here without running the pack's ComfyUI entry point."""
    if "xdit_comfyui" not in sys.modules:
        package = types.ModuleType("xdit_comfyui")
        package.__path__ = [str(TESTS.parent)]
        sys.modules["xdit_comfyui"] = package


class RankSet:
    def __init__(self, size: int, side: str, environment: dict[str, str] | None = None):
        self.size = size
        self._side = side
        self._environment = environment or {}
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen] = []
        self._folder: tempfile.TemporaryDirectory | None = None

    def run(self, command: tuple) -> list:
        """Every rank's answer, which is Side().answer(*command). Raises RuntimeError."""
        if not self._processes:
            self._start()
        message = pickle.dumps(command)  # Connection.send would hand tensors over as shared memory
        for pipe in self._pipes:
            pipe.send_bytes(message)
        answers, errors = [], []
        for rank, pipe in enumerate(self._pipes):
            try:
                if not pipe.poll(ANSWER_WITHIN_S):
                    raise TimeoutError(f"no answer within {ANSWER_WITHIN_S} s")
                answer, error = pickle.loads(pipe.recv_bytes())
            except (EOFError, TimeoutError) as broken:
                answer, error = None, repr(broken)
            answers.append(answer)
            if error is not None:
                errors.append(f"rank {rank}: {error}")
                break
        if errors:
            self.stop()
            raise RuntimeError("\n".join(errors))
        return answers

    def stop(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.wait()
        if self._folder is not None:
            self._folder.cleanup()
        self._pipes, self._processes = [], []

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rank-set-")
        store = Path(self._folder.name) / "store"
        env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
        env |= self._environment
        for rank in range(self.size):
            ours, theirs = Pipe()
            arguments = [str(rank), str(self.size), str(store), str(theirs.fileno()), self._side]
            self._processes.append(
                subprocess.Popen([sys.executable, __file__, *arguments], env=env, pass_fds=[theirs.fileno()])
            )
            theirs.close()
            self._pipes.append(ours)


def serve(rank: int, size: int, store: str, pipe: Connection, side_name: str) -> None:
    make_pack_importable()
    sys.path[:1] = [str(TESTS), str(TESTS / "sharding")]  # not this folder, whose comfy.py is not ComfyUI
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=COLLECTIVE_WITHIN_S),
    )
    module, _, name = side_name.partition(":")
    side = getattr(importlib.import_module(module), name)()
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


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Connection(int(sys.argv[4])), sys.argv[5])
