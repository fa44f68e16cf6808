"""Sets of real processes over gloo that run cases, kept alive between tests.

`RankSets("module:Side")[4]` is a set of four, each with its own Side(); its `run(command)` sends the same command to
all and returns every rank's answer. Waits are bounded: a set in which a rank failed or hung is killed, and the next
`run` starts it anew. All sets are forked from one process, see rank_origin.py.
"""

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

ORIGIN = Path(__file__).with_name("rank_origin.py")
ANSWER_WITHIN_S = 240


class RankSets:
    """Number of ranks → RankSet. `side`: a class, "module:name", as rank_origin.py describes it. `most`: ranks that
    live at a time in all sets, where one set alone does not have more.
    """

    def __init__(self, side: str, environment: dict[str, str] | None = None, most: int | None = None):
        self._most = most
        self._origin = Origin(side, environment or {})
        self._sets: dict[int, RankSet] = {}

    def __getitem__(self, size: int) -> "RankSet":
        ranks = self._sets[size] = self._sets.pop(size, None) or RankSet(size, self._origin)
        others = [other for other in self._sets.values() if other is not ranks and other.lives]
        while self._most is not None and others and size + sum(other.size for other in others) > self._most:
            others.pop(0).stop()  # the one that was asked for longest ago
        return ranks

    def end_ranks(self) -> None:
        """The next `run` of a set starts its ranks anew."""
        for ranks in self._sets.values():
            ranks.stop()

    def stop(self) -> None:
        self.end_ranks()
        self._origin.stop()


class RankSet:
    def __init__(self, size: int, origin: "Origin"):
        self.size = size
        self._origin = origin
        self._pipes: list[Connection] = []
        self._pids: list[int] = []
        self._folder: tempfile.TemporaryDirectory | None = None

    @property
    def lives(self) -> bool:
        return bool(self._pipes)

    def run(self, command: tuple) -> list:
        """Every rank's answer, which is Side().answer(*command). Raises RuntimeError."""
        if not self._pipes:
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
        if not self._pipes:
            return
        self._origin.end(self._pids)
        for pipe in self._pipes:
            pipe.close()
        self._folder.cleanup()
        self._pipes, self._pids = [], []

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rank-set-")
        ours, theirs = zip(*(Pipe() for _ in range(self.size)), strict=True)
        self._pids = self._origin.fork(str(Path(self._folder.name) / "store"), theirs)
        self._pipes = list(ours)
        for pipe in theirs:
            pipe.close()


class Origin:
    """The process that ranks are forked from; started when the first are wanted."""

    def __init__(self, side: str, environment: dict[str, str]):
        self._side = side
        self._environment = environment
        self._process: subprocess.Popen | None = None

    def fork(self, store: str, pipes: tuple[Connection, ...]) -> list[int]:
        """The process ids of new ranks, one for each of `pipes`."""
        if self._process is None:
            self._start()
        socket.send_fds(self._socket, [pickle.dumps(("fork", store))], [pipe.fileno() for pipe in pipes])
        return self._answer()

    def end(self, pids: list[int]) -> None:
        self._socket.send(pickle.dumps(("end", pids)))
        self._answer()

    def stop(self) -> None:
        if self._process is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(ANSWER_WITHIN_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(ORIGIN), str(theirs.fileno()), self._side],
                env=env | self._environment,
                pass_fds=[theirs.fileno()],
            )

    def _answer(self) -> list[int]:
        answer = self._socket.recv(4096)
        if not answer:
            code = self._process.wait()
            self.stop()
            raise RuntimeError(f"the process that ranks are forked from ended with code {code}")
        return pickle.loads(answer)
