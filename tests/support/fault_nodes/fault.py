"""What goes wrong in a rank, and when."""

import gc
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

# At a parameter that is read from its file: module of the pack, class and method that read one.
READING = {
    "while reading weights": ("rank.weights.flat_block", "Unit", "read"),  # divided ones
    "while reading whole weights": ("loading.parameter_source", "Stored", "on"),
}
PLACES = ("before the model call", "inside the model call", "while loading", *READING)
LONG = 3600.0
GO = "go"


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.2)  # a stopped process goes on here, if it ever goes on


def fail() -> None:
    raise RuntimeError("the block of this rank fell over")


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 8.00 GiB of which 1.00 GiB is"
        " free."
    )


def take_most_gpu_memory() -> None:
    """From now on this process may have 64 MiB more of its GPU than it uses: what is larger runs out in earnest."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)


def never_leave() -> None:
    dist.destroy_process_group = lambda *_: time.sleep(LONG)


def wait_for_go(folder: Path) -> None:
    while not (folder / GO).exists():
        time.sleep(0.02)


def answer(how) -> None:
    """From now on `how()` is called when this rank is asked how it is."""
    name = next(name for name in sys.modules if name.endswith(".parallel_backend.rank.process.heartbeat"))
    heartbeat = sys.modules[name]
    heartbeat.memory = lambda device: how()


def babble() -> None:
    (link,) = (one for one in gc.get_objects() if type(one).__name__ == "HostLink")
    link._channel.send(b"no message")


# Called with the folder of the node's input `counter`.
KINDS = {
    "killed": lambda folder: end_by(signal.SIGKILL),
    "stopped": lambda folder: end_by(signal.SIGSTOP),
    "hangs": lambda folder: time.sleep(LONG),
    "slow": lambda folder: time.sleep(3),
    "waits": wait_for_go,
    "raises": lambda folder: fail(),
    "out of memory": lambda folder: run_out_of_memory(),
    "out of the machine's memory": lambda folder: torch.empty(2**50, dtype=torch.uint8),
    "little GPU memory": lambda folder: take_most_gpu_memory(),
    "never leaves": lambda folder: never_leave(),
    "cannot answer": lambda folder: answer(fail),
    "never answers": lambda folder: answer(lambda: time.sleep(LONG)),
    "babbles": lambda folder: babble(),
}


class Ballast:
    """Makes a request larger by so many bytes, and pickling it slow enough for a test to act before it is sent."""

    def __init__(self, size: int):
        self.size = size

    def __reduce__(self):
        time.sleep(1 if self.size else 0)
        return bytearray, (bytes(self.size),)


class Slow:
    """Takes a while to be pickled."""

    def __reduce__(self):
        time.sleep(0.2)
        return Slow, ()


class Fault:
    """A DIFFUSION_MODEL wrapper that strikes once the chosen rank reaches the chosen place."""

    def __init__(self, kind: str, place: str, rank: int, call: int, times: int, counter: str):
        self.kind = kind
        self.place = place
        self.rank = rank
        self.call = call
        self.times = times
        self.counter = counter
        self.calls = 0

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.place == "while loading" and dist.is_initialized():
            self.strike()
        if self.place in READING and dist.is_initialized():
            self.strike_while_reading(*READING[self.place])

    def strike_while_reading(self, path: str, of: str, method: str) -> None:
        """At the chosen parameter that is read from now on."""
        (module,) = (sys.modules[name] for name in sys.modules if name.endswith(f".parallel_backend.{path}"))
        owner = getattr(module, of)
        read = getattr(owner, method)

        def reading(*args):
            self.calls += 1
            if self.calls == self.call:
                setattr(owner, method, read)
                self.strike()
            return read(*args)

        setattr(owner, method, reading)

    def __call__(self, executor, *args, **kwargs):
        self.calls += 1
        if self.calls != self.call or self.place in ("while loading", *READING):
            return executor(*args, **kwargs)
        if self.place == "before the model call":
            self.strike()
            return executor(*args, **kwargs)
        last = [module for module in executor.class_obj.modules() if isinstance(module, torch.nn.ModuleList)][-1][-1]
        hook = last.register_forward_pre_hook(lambda *_: self.strike())
        try:
            return executor(*args, **kwargs)
        finally:
            hook.remove()

    def strike(self) -> None:
        rank = dist.get_rank()
        if self.rank not in (-1, rank):
            return
        struck = Path(self.counter) / f"rank{rank}"
        count = len(struck.read_text()) if struck.exists() else 0
        if count < self.times:
            struck.write_text("x" * (count + 1))
            KINDS[self.kind](Path(self.counter))
