"""Sampling with ranks that fail, seen through the server."""

import json
import os
import signal
from pathlib import Path

import torch
from comfy_host.instance import ComfyInstance

from support.waiting import wait_until

from .comfy_client import ComfyClient, NodeError, PromptFailed
from .compare import TOLERANCE
from .parity import relative_error
from .prompts import Graph
from .ranks import rank_pids
from .sampled import latent_by_ranks, uncached
from .tiny_models import ModelShelf

ERROR_WITHIN_S = 15
FAILING_DEVICES = "failing-devices.json"


class FaultGraph:
    """A tiny Flux on `devices`. `fault` gives the inputs of FaultInRank. `tolerance`: beside stock ComfyUI."""

    def __init__(
        self,
        comfy: ComfyInstance,
        client: ComfyClient,
        models: ModelShelf,
        folder: Path,
        devices: str = "cpu:2",
        tolerance: float = TOLERANCE,
    ):
        self.devices = devices
        self.tolerance = tolerance
        self.comfy = comfy
        self.client = client
        self.name = models.flux()
        self.counter = folder
        self._stock: dict[int, torch.Tensor] = {}

    def graph(
        self, devices=None, seed=7, steps=4, size=64, images=1, fault=None, stock=False, **degrees
    ) -> tuple[dict, str, str]:
        """A prompt, its sampler's id and its SaveLatent's id."""
        graph = Graph()
        if stock:
            model = graph.add("UNETLoader", unet_name=self.name, weight_dtype="default")
        else:
            config = graph.parallel_config(devices or self.devices, **degrees)
            model = graph.add("XDiTLoader", unet_name=self.name, weight_dtype="default", parallel_config=config)
        if fault:
            inputs = {"rank": 1, "call": 2, "times": 1, "counter": str(self.counter), **fault}
            model = graph.add("FaultInRank", model=model, **inputs)
        latent = graph.add("EmptySD3LatentImage", width=size, height=size, batch_size=images)
        if not stock:
            latent = uncached(graph, latent)
        sampled = graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=seed, steps=steps)
        return graph.prompt, sampled.id, graph.save(sampled).id

    def latent(self, **options) -> torch.Tensor:
        """Of a prompt that never comes from ComfyUI's cache, unless it is `stock`: ranks have sampled it."""
        prompt, sampler, saved = self.graph(**options)
        if options.get("stock"):
            return self.client.latent(self.client.run(prompt), saved)
        return latent_by_ranks(self.comfy, self.client, prompt, sampler, saved)[0]

    def assert_right(self, expected: torch.Tensor | None = None, **options) -> None:
        """This run gives stock ComfyUI's latent; `expected`, where nothing may run in between."""
        if expected is None:
            same = {key: value for key, value in options.items() if key in ("seed", "steps", "size", "images")}
            expected = self.latent(stock=True, **same)
        assert relative_error(self.latent(**options), expected) <= self.tolerance

    def error(self, within: float = ERROR_WITHIN_S, **options) -> NodeError:
        """The error of a prompt whose ranks run already; it has to come within so many seconds from its start."""
        prompt, sampler, _ = self.graph(**options)
        try:
            self.client.run(prompt)
        except PromptFailed as failed:
            result = failed.result
        else:
            raise AssertionError("the prompt was expected to fail")
        assert result.error is not None, "interrupted"
        assert result.error.node == sampler
        assert result.seconds <= within, result.error.message
        return result.error

    def log_since(self, start: int) -> str:
        """What ComfyUI's console shows since its log was `start` bytes long."""
        return self.comfy.log_since(start)

    @property
    def log_size(self) -> int:
        return self.comfy.log.stat().st_size

    def break_devices(self, *indices: int, says: str = "this device is broken") -> None:
        """Ranks on these devices end as soon as they are started, with this last line."""
        (self.comfy.base / FAILING_DEVICES).write_text(json.dumps(dict.fromkeys(indices, says)))

    def kill_ranks(self) -> set[int]:
        """SIGKILL to every rank; returns who they were, once they are gone and ComfyUI knows it."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.pids() & pids and self.state() != "idle")
        return pids

    def state(self) -> str:
        """Of the process group, as the sidebar shows it. A dead process's pipes are closed last, so it may lag."""
        return self.client.get("/xdit/status")["state"]

    def pids(self) -> set[int]:
        return rank_pids(self.comfy)
