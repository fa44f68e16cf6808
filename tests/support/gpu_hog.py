"""Another program that has taken most of the GPUs' memory: a process of its own, which tests start and end."""

import json
import select
import subprocess
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).absolute().parents[1]
READY, TAKEN = "ready", "taken"
START_S, TAKE_S, END_S = 60, 20, 20


class GpuHog:
    """A context manager. From its start on it has a context on each of the first `gpus` GPUs; at its end all memory is
    given back. It ends with the process that started it, too.
    """

    def __init__(self, gpus: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.gpu_hog", str(gpus)],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, amounts: list[int]) -> None:
        """So many bytes of each GPU. Once."""
        self._process.stdin.write(f"{json.dumps(amounts)}\n")
        self._process.stdin.flush()
        self._wait_for(TAKEN, TAKE_S)

    def _wait_for(self, word: str, seconds: float) -> None:
        said, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline().strip() if said else f"nothing within {seconds} s"
        assert line == word, f"the process that takes GPU memory was to say {word!r}, and said: {line}"

    def __enter__(self) -> "GpuHog":
        try:
            self._wait_for(READY, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
        self._process.stdout.close()


def main(gpus: int) -> None:
    contexts = [torch.empty(1, device=torch.device("cuda", gpu)) for gpu in range(gpus)]
    print(READY, flush=True)
    amounts = json.loads(sys.stdin.readline())
    taken = [
        torch.empty(size, dtype=torch.uint8, device=one.device) for size, one in zip(amounts, contexts, strict=True)
    ]
    print(TAKEN, flush=True)
    sys.stdin.read()  # until the test closes its end, or is gone
    del taken


if __name__ == "__main__":
    main(int(sys.argv[1]))
