"""One headless ComfyUI at a time, and one measured prompt."""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_host import PACK_ROOT, Host
from comfy_host.instance import ComfyInstance, make_base_directory
from support.comfy_client import ComfyClient, Event, PromptFailed, PromptResult

from .cases import Case, Scale, workflow
from .model_files import ModelFiles

TEST_NODES = {"xdit-test-nodes": PACK_ROOT / "tests" / "support" / "host_nodes"}
SLOWEST_PROMPT_SECONDS = 150
SKIPPED_STEPS = 2  # the first steps of a run are not timed


@dataclass(frozen=True)
class Speed:
    """Of one prompt: milliseconds of each timed step, seconds from start to end, seconds of its sampler node."""

    step_ms: list[float]
    seconds: float
    sampler_seconds: float
    steps: int

    @property
    def ms_per_step(self) -> float:
        return statistics.median(self.step_ms)

    @property
    def overhead_ms(self) -> float:
        return self.seconds * 1e3 - self.steps * self.ms_per_step


class Server:
    """A ComfyUI with `flags`, its client; a context manager. Logs are copied to `log` + name at the end."""

    def __init__(self, host: Host, base: Path, flags: Sequence[str], scale: Scale, files: ModelFiles, log: Path):
        make_base_directory(base, TEST_NODES)
        self.instance = ComfyInstance(host, base, flags)
        self.scale, self.files = scale, files
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

    def latent(self, case: Case, seed: int) -> torch.Tensor:
        """The latent of a case: 1,16,H,W in fp32."""
        result, _, saved = self._run(case, seed)
        return self.client.latent(result, saved).float()

    def speed(self, case: Case, seed: int) -> Speed:
        """Run a case whose models are loaded and kernels warm."""
        result, sampler, _ = self._run(case, seed)
        events = [event for event in result.of_type("progress") if event.data["node"] == sampler]
        return Speed(step_times(events), result.seconds, result.node_seconds()[sampler], case.steps)

    def _run(self, case: Case, seed: int) -> tuple[PromptResult, str, str]:
        """Raises PromptRefused, PromptFailed, TimeoutError or ConnectionError."""
        prompt, sampler, saved = workflow(case, self.files, self.scale, seed)
        number = self.client.queue(prompt, preview_method=case.preview)
        result = self.client.wait(number, SLOWEST_PROMPT_SECONDS)
        if result.error or result.interrupted:
            raise PromptFailed(result)
        return result, sampler.id, saved.id


def step_times(events: list[Event]) -> list[float]:
    """Milliseconds per step between progress events. ComfyUI leaves out events that follow one within 0.1 s, so there
    may be several steps between two. The first steps do not count, unless there is nothing else.
    """
    between = [
        (a.data["value"], (b.time - a.time) * 1e3 / (b.data["value"] - a.data["value"]))
        for a, b in zip(events, events[1:], strict=False)
    ]
    return [ms for step, ms in between if step >= SKIPPED_STEPS] or [ms for _, ms in between]
