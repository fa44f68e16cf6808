"""Runs graphs on a server, by stock ComfyUI and by the ranks, and says what came of each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy_host.instance import ComfyInstance

from ..comfy_client import ComfyClient, NodeError, PromptRefused
from ..compare import TOLERANCE
from ..parity import relative_error
from ..prompts import Graph
from ..ranks import rank_pids
from ..tiny_models import ModelShelf
from .catalogue import COMPILING, LEAVES_TRACES, UNDO, WITHOUT_RANKS
from .compose import Prompt, compose
from .given import by_the_ranks, filled, saved_in
from .notes import notes_in, without_folders
from .plan import Plan

RIGHT, REFUSED, STOCK_FAILS, WRONG, HANGS, CRASHES = "right", "refused", "stock fails", "WRONG", "HANGS", "CRASHES"
GOOD = (RIGHT, REFUSED, STOCK_FAILS)
BAD = (WRONG, HANGS, CRASHES)

END_WITHIN_S = 60
SLOW_WITHIN_S = 280  # a compiler, or a model of 400 million parameters
SPREAD = 20.0  # times what a graph makes of an error in the last digit of each prediction
REFUSALS = ("ConfigError", "RequestRefused", "CannotTravel", "WeightlessModelError", "NoRecipe")
RANKS = " rank(s)"  # in the line that says how a run is divided
STOCK_DOES_NOT_END = "stock ComfyUI does not end"
PLAIN_SEEDS = (11, 12, 13)


class ServerLost(RuntimeError):
    """The server does not answer any more as it should; go on with another one."""


@dataclass(frozen=True)
class Outcome:
    """`error`: relative, of the worst latent. `text`: what was refused, or what is wrong. `notes`: what the console
    said about this run. `spread`: what the graph makes of an error in the last digit, where that was asked.
    `plain_after`: a plain prompt came out right right after it.
    """

    number: int
    family: str
    kind: str
    degrees: dict[str, int]
    config: dict[str, Any]
    parts: list[str]
    samples: str
    verdict: str
    text: str = ""
    error: float | None = None
    spread: float | None = None
    seconds: float = 0.0
    plain_after: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        """Whether the server that it ran on still does something."""
        return self.verdict == HANGS or self.text == STOCK_DOES_NOT_END


@dataclass(frozen=True)
class Ended:
    """`latents`: None where it failed with `failed`; `sampled`: whether its sampler ran, and was not cached."""

    latents: list[torch.Tensor] | None
    failed: str = ""
    refused: bool = False
    seconds: float = 0.0


class Runner:
    def __init__(self, comfy: ComfyInstance, client: ComfyClient):
        self._comfy, self._client = comfy, client
        self._models = ModelShelf(comfy.base / "models")
        self._info = client.object_info()
        self._ranks: set[int] = set()
        self._devices = 0
        self._plain: dict[int, torch.Tensor] = {}
        self._plain_runs = 0
        self._last: tuple[dict[str, dict], Ended] | None = None

    @property
    def object_info(self) -> dict[str, Any]:
        return self._info

    def run(self, plans: Iterable[Plan], on_outcome: Callable[[Outcome], None], until: float = float("inf")) -> None:
        """None is begun after `until` (time.monotonic()). Raises ServerLost after one that hangs."""
        for plan in plans:
            if time.monotonic() > until:
                return
            outcome = self.judged(plan)
            on_outcome(outcome)
            if outcome.lost:
                raise ServerLost(f"graph {plan.number}: {outcome.text}")

    def judged(self, plan: Plan) -> Outcome:
        if plan.ranks != self._devices:
            self._start(plan.ranks)
        outcome = self._judged(plan)
        if outcome.lost:
            return outcome
        traces = set(LEAVES_TRACES) & set(plan.parts)
        if traces:
            self._clean()
        if traces or outcome.verdict == CRASHES or (outcome.verdict == REFUSED and plan.number % 3 == 0):
            if wrong := self._plain_prompt(plan.ranks):
                text = f"{outcome.text}; after it {wrong}" if outcome.verdict in BAD else f"after it {wrong}"
                return replace(outcome, verdict=CRASHES, text=text)
            outcome = replace(outcome, plain_after=True)
            self._ranks = rank_pids(self._comfy)
        return outcome

    def _judged(self, plan: Plan) -> Outcome:
        def composed(ours: bool, disturbed: bool = False) -> Prompt:
            if plan.given:
                graph = filled(plan.given, self._models)
                prompt = by_the_ranks(graph, plan.kind, plan.degrees) if ours else graph
                return Prompt(prompt, saved_in(graph), "")
            return compose(plan, self._info, self._models, ours, disturbed)

        def outcome(verdict: str, text: str = "", **found: Any) -> Outcome:
            return Outcome(
                plan.number, plan.family, plan.kind, plan.degrees, plan.config, list(plan.parts), plan.samples or "",
                verdict, text, **found,
            )  # fmt: skip

        within = SLOW_WITHIN_S if _slow(plan) else END_WITHIN_S
        try:
            stock = self._stock(composed(ours=False), within)
        except TimeoutError:
            return outcome(STOCK_FAILS, STOCK_DOES_NOT_END)
        if set(LEAVES_TRACES) & set(plan.parts):
            self._clean()
        mark = self._comfy.log.stat().st_size
        try:
            ours = self._ended(composed(ours=True), within)
        except TimeoutError:
            return outcome(HANGS, f"not within {within} s", notes=notes_in(self._comfy.log_since(mark)))
        log = self._comfy.log_since(mark)
        found = {"seconds": round(ours.seconds, 2), "notes": notes_in(log)}
        if rank_pids(self._comfy) != self._ranks:
            return outcome(CRASHES, f"the ranks were replaced; {ours.failed}", **found)
        if stock.latents is None:
            return outcome(STOCK_FAILS, stock.failed, **found)
        if ours.latents is None:
            return outcome(REFUSED if ours.refused else CRASHES, ours.failed, **found)
        if not any(RANKS in note for note in found["notes"]) and plan.samples not in WITHOUT_RANKS:
            return outcome(WRONG, "sampled without the ranks", **found)
        if "Traceback (most recent call last)" in log:
            return outcome(CRASHES, "a traceback in the console", **found)
        errors = [relative_error(*pair) for pair in zip(ours.latents, stock.latents, strict=True)]
        if not all(latent.isfinite().all() and latent.norm() for latent in stock.latents):
            return outcome(STOCK_FAILS, "stock ComfyUI's latent is not finite", **found)
        error = max(errors) if all(error == error for error in errors) else float("inf")
        if error <= TOLERANCE:
            return outcome(RIGHT, error=error, **found)
        spread = 0.0 if plan.given else self._spread(composed(ours=False, disturbed=True), stock.latents, within)
        if error <= max(spread * SPREAD, TOLERANCE):
            return outcome(RIGHT, error=error, spread=spread, **found)
        return outcome(WRONG, f"relative error {error:.1e}", error=error, spread=spread, **found)

    def _stock(self, prompt: Prompt, within: float) -> Ended:
        """The same prompt as the one before is not run again."""
        if self._last is None or self._last[0] != prompt.prompt:
            self._last = prompt.prompt, self._ended(prompt, within)
        return self._last[1]

    def _spread(self, disturbed: Prompt, stock: list[torch.Tensor], within: float) -> float:
        ended = self._ended(disturbed, within)
        if ended.latents is None:
            return 0.0
        return max(relative_error(*pair) for pair in zip(ended.latents, stock, strict=True))

    def _ended(self, prompt: Prompt, within: float) -> Ended:
        """Raises TimeoutError."""
        try:
            prompt_id = self._client.queue(prompt.prompt)
        except PromptRefused as error:
            return Ended(None, f"validation: {error}", refused=True)
        result = self._client.wait(prompt_id, within)
        if result.error is not None:
            return Ended(None, _said(result.error), _is_refusal(result.error), result.seconds)
        if result.interrupted:
            return Ended(None, "interrupted", seconds=result.seconds)
        return Ended([self._client.latent(result, saved) for saved in prompt.saved], seconds=result.seconds)

    def _start(self, ranks: int) -> None:
        if wrong := self._plain_prompt(ranks):
            raise ServerLost(f"{ranks} ranks: {wrong}")
        self._devices, self._ranks = ranks, rank_pids(self._comfy)

    def _plain_prompt(self, ranks: int) -> str:
        """What is wrong with a plain prompt on so many ranks; "" if nothing is."""
        seed = PLAIN_SEEDS[self._plain_runs % len(PLAIN_SEEDS)]
        self._plain_runs += 1
        if seed not in self._plain:
            prompt, saved = self._plain_graph(seed, 0)
            self._plain[seed] = self._client.latent(self._client.run(prompt), saved)
        prompt, saved = self._plain_graph(seed, ranks)
        try:
            result = self._client.wait(self._client.queue(prompt), SLOW_WITHIN_S)
        except TimeoutError as error:
            raise ServerLost(f"a plain prompt does not end: {error}") from error
        if result.error is not None:
            return f"a plain prompt failed: {_said(result.error)}"
        if not result.progress():
            return "a plain prompt was answered from the cache"
        error = relative_error(self._client.latent(result, saved), self._plain[seed])
        return "" if error <= TOLERANCE else f"a plain prompt was off by {error:.1e}"

    def _plain_graph(self, seed: int, ranks: int, clean: bool = False) -> tuple[dict[str, dict], str]:
        graph = Graph()
        options = {"unet_name": self._models.flux(), "weight_dtype": "default"}
        if ranks:
            model = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config(f"cpu:{ranks}"))
        else:
            model = graph.add("UNETLoader", **options)
        for name in UNDO if clean else ():
            if name in self._info:
                model = graph.add(name, model=model)
        latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
        sampled = graph.sample("KSampler", model, graph.flux_conditioning(1), latent, seed=seed, steps=2)
        return graph.prompt, graph.save(sampled, "graphs/plain").id

    def _clean(self) -> None:
        """Undo what a node left in ComfyUI's process, and forget the models that it changed."""
        prompt, _ = self._plain_graph(1, 0, clean=True)
        self._client.run(prompt, SLOW_WITHIN_S)
        self._client.free()


def _slow(plan: Plan) -> bool:
    return plan.family == "lumina 2" or "compile" in plan.config or bool(COMPILING & set(plan.parts))


def _said(error: NodeError) -> str:
    text = without_folders(f"{error.node_type}: {error.type.rpartition('.')[2]}: {error.message}")
    return text if len(text) <= 1800 else f"{text[:600]} … {text[-1200:]}"


def _is_refusal(error: NodeError) -> bool:
    """Also a rank's, in its own words: what cannot be divided, and what to set. A traceback follows it."""
    if error.type.rpartition(".")[2] not in REFUSALS:
        return False
    first = error.message.partition("\n")[0]
    return "Traceback (most recent call last)" not in error.message or bool(
        re.search(r"ShardingError: .*: set ", first)
    )
