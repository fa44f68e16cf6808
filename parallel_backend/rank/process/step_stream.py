"""Sends the sampler's steps to the host: without making the sampler wait for the GPU, or waiting for its answer."""

from __future__ import annotations

import queue
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ...contract.commands import StepAnswer
from ...contract.random_state import RandomState
from ...contract.reports import Step
from ...transport.packing import pack, unpack
from ..run.steps import Callback, Followers
from .cancel import CancelFlag
from .host_link import HostLink

POLL_SECONDS = 0.05
WAIT_SECONDS = 1.0  # between two words to the ranks that wait for this one


class StepSender:
    """For ComfyUI's own callback, which shows the tensors. On a GPU the latents are copied behind the step's kernels
    and sent from a thread of its own, one step in flight: the CPU may queue the next step meanwhile, and is never
    further ahead.
    """

    def __init__(self, link: HostLink, request: int, rank: int):
        self._link = link
        self._request = request
        self._rank = rank
        self._thread = ThreadPoolExecutor(1, "xdit-steps")
        self._in_flight: Future[None] | None = None

    def callback(self, followers: Followers) -> Callback:
        return self._step

    def _step(self, step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        self._wait()
        if x0.device.type != "cuda":
            self._send(step, x0, x, total, None)
            return
        x0_copy, x_copy = (torch.empty_like(value, device="cpu", pin_memory=True) for value in (x0, x))
        x0_copy.copy_(x0, non_blocking=True)
        x_copy.copy_(x, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self._in_flight = self._thread.submit(self._send, step, x0_copy, x_copy, total, done)

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


class AnsweredSteps:
    """For a callback that may change the tensors it is shown, and draw random numbers: the sampler goes on once the
    host has said what became of them, with its own tensors changed in place. Cancel ends the waiting.
    """

    def __init__(self, link: HostLink, request: int, rank: int, device: torch.device):
        self._link = link
        self._request = request
        self._rank = rank
        self._device = device
        self._number = 0

    def callback(self, followers: Followers) -> Callback:
        def step(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            number, self._number = self._number, self._number + 1
            shown = None if _same(x0, x) else pack(x0)
            state = RandomState.take(self._device)
            self._link.send(Step(self._request, self._rank, step, total, shown, pack(x), number, state))
            answer = self._answer(number, followers)
            if answer is None:
                return
            followers.change(answer.guider)
            answer.random.restore(self._device)
            for tensor, edited in ((x0, answer.x0), (x, answer.x)):
                if edited is not None:
                    tensor.copy_(unpack(edited, tensor.device))

        return step

    def _answer(self, number: int, followers: Followers) -> StepAnswer | None:
        cancelled: CancelFlag = self._link.cancelled(self._request)
        polls = 0
        while not cancelled.is_set():
            try:
                answer = self._link.answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                polls += 1
                if polls % round(WAIT_SECONDS / POLL_SECONDS) == 0:
                    followers.wait()
                continue
            if (answer.request, answer.number) == (self._request, number):
                return answer
        return None

    def finish(self) -> None:
        """Every step was sent as it came."""


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether an edit of one is an edit of the other."""
    return one is other or (
        one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()
    )
