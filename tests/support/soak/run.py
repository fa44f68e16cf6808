"""Runs steps of a plan on a server and writes down what came of each."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from comfy_host.instance import ComfyInstance

from ..comfy_client import ComfyClient, PromptResult
from ..compare import TOLERANCE
from ..parity import relative_error
from ..ranks import rank_pids
from ..tiny_models import ModelShelf
from .plan import FAMILIES, SEEDS, Step
from .prompts import soak_prompt
from .resources import Resources

END_WITHIN_S = 120
ERROR_WITHIN_S = 15


@dataclass(frozen=True)
class Outcome:
    """`end`: "right", "cancelled", "error" (of a killed rank, named in it), or what was wrong. `seconds`: in the
    ComfyUI's executor; `after_kill`: from the kill to the error, 0 where there was none.
    """

    number: int
    end: str
    seconds: float
    after_kill: float
    resources: Resources | None

    @property
    def good(self) -> bool:
        return self.end in ("right", "cancelled", "error")


class Soak:
    def __init__(self, comfy: ComfyInstance, client: ComfyClient):
        self._comfy = comfy
        self._client = client
        self._models = ModelShelf(comfy.base / "models")
        self._expected: dict[tuple[str, int], torch.Tensor] = {}

    def prepare(self) -> None:
        """Every latent by stock ComfyUI on one device, and every model once by the ranks."""
        for family in FAMILIES:
            for seed in SEEDS:
                prompt, saved = soak_prompt(self._models, family, seed, stock=True)
                self._expected[family, seed] = self._client.latent(self._client.run(prompt), saved)
        self._client.free()
        for family in FAMILIES:
            self._client.run(soak_prompt(self._models, family, SEEDS[0])[0])

    def run(self, steps: list[Step], on_outcome: Callable[[Outcome], None], until: float = float("inf")) -> None:
        """Run `steps` in order; none is begun after `until` (time.monotonic())."""
        for step in steps:
            if time.monotonic() > until:
                return
            on_outcome(self._step(step))

    def _step(self, step: Step) -> Outcome:
        prompt, saved = soak_prompt(self._models, step.family, step.seed, step.number + 1)
        prompt_id = self._client.queue(prompt)
        killed_at = 0.0
        if step.action:
            time.sleep(step.after)
        if step.action == "cancel":
            self._client.interrupt(prompt_id)
        elif step.action == "kill" and (ranks := sorted(rank_pids(self._comfy))):
            killed_at = time.monotonic()
            os.kill(ranks[step.victim % len(ranks)], signal.SIGKILL)
        result = self._client.wait(prompt_id, END_WITHIN_S)
        after_kill = result.events[-1].time - killed_at if result.error and killed_at else 0.0
        end = self._end(step, result, saved, after_kill)
        resources = Resources.of(self._comfy) if len(rank_pids(self._comfy)) == 2 else None
        return Outcome(step.number, end, result.seconds, after_kill, resources)

    def _end(self, step: Step, result: PromptResult, saved: str, after_kill: float) -> str:
        if result.interrupted:
            return "cancelled" if step.action == "cancel" else "interrupted without a cancel"
        if result.error is not None:
            named = step.action == "kill" and "was ended by SIGKILL" in result.error.message
            if not named or after_kill > ERROR_WITHIN_S:
                return f"after {after_kill:.1f} s: {result.error.message.splitlines()[0]}"
            return "error"
        if not result.progress():
            return "answered from ComfyUI's cache"
        error = relative_error(self._client.latent(result, saved), self._expected[step.family, step.seed])
        return "right" if error <= TOLERANCE else f"relative error {error:.1e}"
