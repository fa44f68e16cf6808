"""Runs configurations on a server and says what came of each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from comfy_host.instance import ComfyInstance

from ..comfy_client import ComfyClient, PromptRefused, PromptResult
from ..compare import TOLERANCE
from ..parity import relative_error
from ..ranks import rank_pids
from ..tiny_models import ModelShelf
from .plan import Configuration, configuration
from .prompts import prompt_of

END_WITHIN_S = 60
CANCELLED_WITHIN_S = 10
FAR = 1.0  # relative error from which on a latent has nothing to do with the one of stock ComfyUI
GOOD_ENDS = ("exact", "approximate", "cancelled", "refused")


@dataclass(frozen=True)
class Outcome:
    """`end`: one of GOOD_ENDS, or what was wrong. `deviation`: from stock ComfyUI, None without a latent. `seconds`:
    of the prompt; `to_cancel`: from the cancel to its end, 0 where none came in time. `repeated`: a second run gave the
    same bits. `good_after`: a prompt that is exact came out right after it.
    """

    number: int
    end: str
    seconds: float
    deviation: float | None = None
    to_cancel: float = 0.0
    repeated: bool = False
    good_after: bool = False

    @property
    def good(self) -> bool:
        return self.end in GOOD_ENDS


class Runner:
    def __init__(self, comfy: ComfyInstance, client: ComfyClient):
        self._comfy = comfy
        self._client = client
        self._models = ModelShelf(comfy.base / "models")
        self._ranks: set[int] = set()
        self._good: dict[int, torch.Tensor] = {}

    def run(
        self,
        configurations: Iterable[Configuration],
        on_outcome: Callable[[Outcome], None],
        until: float = float("inf"),
    ) -> None:
        """None is begun after `until` (time.monotonic()). After a prompt that did not end in time no more are run."""
        ranks = 0
        for one in configurations:
            if time.monotonic() > until:
                return
            if one.ranks != ranks:
                ranks = one.ranks
                if wrong := self._start(one):
                    on_outcome(Outcome(one.number, f"the ranks did not start: {wrong}", 0.0))
                    return
            outcome = self._judged(one)
            on_outcome(outcome)
            if "did not end" in outcome.end:
                return

    def _start(self, one: Configuration) -> str:
        wrong = self._good_prompt(one)
        self._ranks = rank_pids(self._comfy)
        return wrong if wrong or len(self._ranks) == one.ranks else f"{len(self._ranks)} ranks"

    def _judged(self, one: Configuration) -> Outcome:
        began = time.monotonic()
        try:
            outcome = self._outcome(one)
            if outcome.end in ("cancelled", "refused"):
                wrong = self._good_prompt(one)
                outcome = replace(
                    outcome, end=f"{wrong} after {outcome.end}" if wrong else outcome.end, good_after=True
                )
        except TimeoutError as error:
            return Outcome(one.number, str(error), time.monotonic() - began)
        if outcome.good and rank_pids(self._comfy) != self._ranks:
            return replace(outcome, end=f"{outcome.end}, but the ranks were replaced")
        return outcome

    def _outcome(self, one: Configuration) -> Outcome:
        prompt, saved = prompt_of(self._models, one)
        try:
            prompt_id = self._client.queue(prompt)
        except PromptRefused as error:
            return Outcome(one.number, _refused(one, str(error)), 0.0)
        cancelled = self._cancel(one, prompt_id)
        result = self._client.wait(prompt_id, END_WITHIN_S)
        if result.error is not None:
            return Outcome(one.number, _refused(one, result.error.message), result.seconds)
        if result.interrupted:
            took = result.events[-1].time - cancelled
            end = "cancelled" if cancelled and took <= CANCELLED_WITHIN_S else f"interrupted after {took:.1f} s"
            return Outcome(one.number, end, result.seconds, to_cancel=took)
        if one.refusal:
            return Outcome(one.number, "not refused", result.seconds)
        return self._compared(one, result, saved)

    def _cancel(self, one: Configuration, prompt_id: str) -> float:
        """When it was cancelled, by time.monotonic(); 0 where it was not, or had ended before."""
        if one.cancel_at is None:
            return 0.0
        try:
            if one.cancel_at:
                self._client.wait_for_step(prompt_id, one.cancel_at, END_WITHIN_S)
        except TimeoutError:  # it ended, or does not: what waits for its end says which
            return 0.0
        time.sleep(one.cancel_after)
        now = time.monotonic()
        self._client.interrupt(prompt_id)
        return now

    def _compared(self, one: Configuration, result: PromptResult, saved: str) -> Outcome:
        latent = self._client.latent(result, saved)
        stock, stock_saved = prompt_of(self._models, one, stock=True)
        expected = self._client.latent(self._client.run(stock, END_WITHIN_S), stock_saved)
        deviation = relative_error(latent, expected)
        end = "exact" if one.exact else "approximate"
        if not latent.isfinite().all():
            end = "not finite"
        elif not deviation <= (TOLERANCE if one.exact else FAR):
            end = f"relative error {deviation:.1e}"
        if one.repeat:
            again, again_saved = prompt_of(self._models, one, again=True)
            if not torch.equal(self._client.latent(self._client.run(again, END_WITHIN_S), again_saved), latent):
                end = "a second run gave another latent"
        return Outcome(one.number, end, result.seconds, deviation, repeated=one.repeat)

    def _good_prompt(self, one: Configuration) -> str:
        """Runs a prompt that must be right, on as many ranks as those of `one`; what was wrong with it."""
        # More steps of warm-up than there are, and each time another number of them: nothing comes from a cache.
        good = replace(
            GOOD,
            degrees={"pipefusion": min(one.ranks, 3)} if one.ranks < 4 else {"pipefusion": 2, "ulysses": 2},
            warmup=GOOD.steps + one.number,
        )
        prompt, saved = prompt_of(self._models, good)
        result = self._client.wait(self._client.queue(prompt), END_WITHIN_S)
        if result.error or result.interrupted:
            return f"a good prompt failed ({result.error or 'interrupted'})"
        if good.ranks not in self._good:
            stock, stock_saved = prompt_of(self._models, good, stock=True)
            self._good[good.ranks] = self._client.latent(self._client.run(stock, END_WITHIN_S), stock_saved)
        error = relative_error(self._client.latent(result, saved), self._good[good.ranks])
        return "" if error <= TOLERANCE else f"a good prompt was off by {error:.1e}"


GOOD = replace(
    configuration(0),
    family="flux",
    patches=0,
    steps=2,
    sampler="euler",
    scheduler="simple",
    cfg=1.0,
    size=(96, 64),
    batch=1,
    tokens=(16, 16),
    lora=False,
    cancel_at=None,
    repeat=False,
)


def _refused(one: Configuration, message: str) -> str:
    return "refused" if one.refusal and re.search(one.refusal, message) else f"error: {message.splitlines()[0]}"
