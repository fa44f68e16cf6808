"""Sends the sampler's steps to the host without making the sampler wait for the GPU."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ..protocol import Step
from ..transport.packing import pack
from .link import HostLink


class StepSender:
    """A sampler callback. On a GPU the latents are copied behind the step's kernels and sent from a thread of its own,
    one step in flight: the CPU may queue the next step meanwhile, and is never further ahead.

    `finish` waits for the last step to be sent; nothing may be sent for the request before.
    """

    def __init__(self, link: HostLink, request: int, rank: int):
        self._link = link
        self._request = request
        self._rank = rank
        self._thread = ThreadPoolExecutor(1, "xdit-steps")
        self._in_flight: Future[None] | None = None

    def __call__(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        self._wait()
        if x0.device.type != "cuda":
            self._send(step, x0, x, total, None)
            return
        copies = [torch.empty_like(value, device="cpu", pin_memory=True) for value in (x0, x)]
        for copy, value in zip(copies, (x0, x), strict=True):
            copy.copy_(value, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self._in_flight = self._thread.submit(self._send, step, *copies, total, done)

    @torch.inference_mode()
    def _send(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int, done: torch.cuda.Event | None) -> None:
        if done is not None:
            done.synchronize()
        self._link.send(Step(self._request, self._rank, step, total, pack(x0), pack(x)))

    def _wait(self) -> None:
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            in_flight.result()

    def finish(self) -> None:
        self._wait()
        self._thread.shutdown()
