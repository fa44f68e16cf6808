"""Prometheus metrics of sampling runs and process groups, gathered from the host's events."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import psutil
import torch
from comfy.model_management import InterruptProcessingException
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from ..base import events, nvidia_smi
from ..base.devices import DeviceSet, visible_gpus

STEP_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
PROMPT_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


@dataclass
class _Prompt:
    """A ComfyUI prompt that sampled; it may do so several times."""

    id: str | None
    outcome: str = "done"
    gpu_seconds: float = 0.0


class Metrics:
    """Counts from the moment it is made. A prompt is counted once ComfyUI has ended it (see `text`)."""

    def __init__(self):
        self._registry = CollectorRegistry()
        self._prompts = self._counter("prompts", "Prompts that sampled, by how sampling ended.", ["outcome"])
        self._runs = self._counter("runs", "Sampling runs; a prompt with two samplers has two.")
        self._steps = self._counter("steps", "Sampling steps.")
        self._failures = self._counter("failures", "Sampling runs that failed, by the class of the error.", ["kind"])
        self._restarts = self._counter("group_restarts", "Process groups started again on the same devices.")
        self._starts = self._counter("group_starts", "Process groups started.")
        self._seconds = self._counter("gpu_seconds", "Devices in use × seconds, loading included.")
        self._step_time = Histogram(
            "xdit_step_seconds", "Seconds per sampling step.", buckets=STEP_BUCKETS, registry=self._registry
        )
        self._prompt_cost = Histogram(
            "xdit_prompt_gpu_seconds",
            "Devices in use × seconds of one prompt: what it cost.",
            buckets=PROMPT_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Memory(self))
        self._lock = threading.Lock()
        self._open: _Prompt | None = None
        self._run: events.RunStarted | None = None
        self._last_step: float | None = None
        self._last_group: DeviceSet | None = None
        self.ranks: tuple[int, ...] = ()  # process ids

    def _counter(self, name: str, about: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"xdit_{name}", about, labels or (), registry=self._registry)

    def on_event(self, event: events.Event) -> None:
        """Take one event of the host; for `events.subscribe`."""
        with self._lock:
            match event:
                case events.GroupStarted():
                    self._starts.inc()
                    if event.devices == self._last_group:
                        self._restarts.inc()
                    self._last_group = event.devices
                    self.ranks = event.pids
                case events.GroupEnded():
                    if event.pids == self.ranks:
                        self.ranks = ()
                case events.RunStarted():
                    self._run = self._run or event  # a run that is tried again costs both times
                case events.StepsStarted():
                    self._last_step = event.time
                case events.StepDone():
                    self._steps.inc()
                    if self._last_step is not None:
                        self._step_time.observe(event.time - self._last_step)
                    self._last_step = event.time
                case events.RunEnded():
                    self._end_run(event)

    def _end_run(self, event: events.RunEnded) -> None:
        if self._open is not None and self._open.id != event.prompt:
            self._close_prompt(self._open)
        prompt = self._open = self._open or _Prompt(event.prompt)
        self._runs.inc()
        if self._run is not None:
            spent = self._run.devices.size * (event.time - self._run.time)
            self._seconds.inc(spent)
            prompt.gpu_seconds += spent
        self._run = self._last_step = None
        if isinstance(event.error, InterruptProcessingException):
            prompt.outcome = "cancelled"
        elif event.error is not None:
            prompt.outcome = "failed"
            self._failures.labels(type(event.error).__name__).inc()

    def _close_prompt(self, prompt: _Prompt) -> None:
        self._prompts.labels(prompt.outcome).inc()
        self._prompt_cost.observe(prompt.gpu_seconds)
        self._open = None

    def text(self, executing: set[str]) -> bytes:
        """The metrics in Prometheus' text format. `executing`: the prompts that ComfyUI executes now."""
        with self._lock:
            if self._open is not None and self._open.id not in executing:
                self._close_prompt(self._open)
        return generate_latest(self._registry)


class _Memory:
    """Read when asked: memory of the ranks in RAM, and of every GPU as nvidia-smi shows it."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._warned = False

    def describe(self):
        return []  # else registering would collect

    def collect(self):
        ram = GaugeMetricFamily("xdit_rank_memory_bytes", "Resident memory of a rank in RAM.", labels=["rank"])
        for rank, pid in enumerate(self._metrics.ranks):
            try:
                ram.add_metric([str(rank)], psutil.Process(pid).memory_info().rss)
            except psutil.NoSuchProcess:
                continue  # ended since
        yield ram
        try:
            yield _gpu_memory()
        except nvidia_smi.NvidiaSmiError as error:
            if not self._warned:
                logging.warning("xDiT: GPU memory is missing from the metrics: %s", error)
            self._warned = True


def _gpu_memory() -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "xdit_gpu_memory_bytes", "Memory of a GPU, of all its processes.", labels=["device", "state"]
    )
    devices = {str(torch.cuda.get_device_properties(index).uuid): index for index in range(visible_gpus())}
    for row in nvidia_smi.gpus() if devices else ():
        index = devices.get(row.uuid.removeprefix("GPU-"))
        for state, value in (("used", row.memory_used), ("free", row.memory_free)):
            if index is not None and value is not None:
                family.add_metric([str(index), state], value)
    return family
