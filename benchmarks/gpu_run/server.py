"""One headless ComfyUI at a time, and one measured prompt."""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory
from support.comfy_client import ComfyClient, Event, PromptFailed

from .workflow import Workflow

TEST_NODES = {"xdit-test-nodes": PACK_ROOT / "tests" / "support" / "host_nodes"}
SLOWEST_PROMPT_SECONDS = 200


@dataclass(frozen=True)
class Measured:
    """What one prompt gave: its latent in fp32 and its times. `lines`: what ComfyUI logged meanwhile."""

    latent: torch.Tensor
    speed: "Speed"
    lines: list[str]


@dataclass(frozen=True)
class Speed:
    """Of one prompt: milliseconds of each timed step, seconds from start to end, seconds of its sampler node."""

    step_ms: list[float]
    seconds: float
    sampler_seconds: float
    steps: int

    @property
    def ms_per_step(self) -> float:
        """Median of the timed steps. Where there is one only, the sampler node's time per step.

        Stock ComfyUI sends a step's event when it has launched the step's kernels, which can be long before they end.
        One time alone says nothing then; over several it evens out, as the CPU can run ahead by so many kernels only.
        """
        return statistics.median(self.step_ms) if len(self.step_ms) > 1 else self.sampler_ms_per_step

    @property
    def sampler_ms_per_step(self) -> float:
        return self.sampler_seconds * 1e3 / self.steps

    @property
    def overhead_ms(self) -> float:
        return self.seconds * 1e3 - self.steps * self.ms_per_step


class Server:
    """A ComfyUI with `flags`, its client; a context manager. Logs are copied to `log` + name at the end."""

    def __init__(self, host: Host, base: Path, flags: Sequence[str], log: Path):
        make_base_directory(base, TEST_NODES)
        # On CPU ranks (tiny models) more threads than one only get into each other's way.
        self.instance = ComfyInstance(host, base, flags, {"OMP_NUM_THREADS": "1"} if "--cpu" in flags else None)
        self._log = log
        self.client: ComfyClient | None = None

    def __enter__(self) -> "Server":
        self.instance.start()
        self.client = ComfyClient(self.instance.url, self.instance.base / "output")
        return self

    def __exit__(self, *_) -> None:
        self.client.close()
        self.instance.stop()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.instance.log, f"{self._log}-comfyui.log")
        for log in sorted((self.instance.base / "user" / "xdit").glob("rank*.log")):
            shutil.copy(log, f"{self._log}-{log.name}")

    def run(self, workflow: Workflow, skipped_steps: int, timeout: float = SLOWEST_PROMPT_SECONDS) -> Measured:
        """Run a prompt. Its first `skipped_steps` steps are not timed, unless there are no others.

        Raises PromptRefused, PromptFailed, TimeoutError or ConnectionError.
        """
        logged = self.instance.log.stat().st_size
        result = self.client.wait(self.client.queue(workflow.prompt, preview_method=workflow.preview), timeout)
        if result.error or result.interrupted:
            raise PromptFailed(result)
        events = [event for event in result.of_type("progress") if event.data["node"] == workflow.sampler]
        times = step_times(events, skipped_steps)
        speed = Speed(times, result.seconds, result.node_seconds()[workflow.sampler], workflow.steps)
        latent = self.client.latent(result, workflow.saved).float()
        return Measured(latent, speed, self.instance.log_since(logged).splitlines())


def step_times(events: list[Event], skipped_steps: int) -> list[float]:
    """Milliseconds per step between progress events; none where there was one event only.

    ComfyUI leaves out events that follow one within 0.1 s, so there may be several steps between two.
    """
    between = [
        (a.data["value"], (b.time - a.time) * 1e3 / (b.data["value"] - a.data["value"]))
        for a, b in zip(events, events[1:], strict=False)
    ]
    return [ms for step, ms in between if step >= skipped_steps] or [ms for _, ms in between]
