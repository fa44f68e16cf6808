"""One input after another that should fail, on ranks that should not mind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy_host.instance import ComfyInstance

from .comfy_client import ComfyClient, NodeError
from .compare import TOLERANCE
from .parity import relative_error
from .prompts import Graph, Node
from .ranks import rank_pids
from .tiny_models import ModelShelf

DEVICES = "cpu:2"
CHECK_EVERY = 10  # cases between two good prompts
OURS = ".parallel_backend."  # in the type of an error that this pack raises


@dataclass(frozen=True)
class Outcome:
    """What a prompt gave: a latent, or an error."""

    latent: torch.Tensor | None
    error: NodeError | None


class Site:
    """A server whose two ranks take every case. After each their pids, now and then a good prompt, are looked at."""

    def __init__(self, comfy: ComfyInstance, client: ComfyClient, models: ModelShelf):
        self.comfy = comfy
        self.client = client
        self.models = models
        self.flux = models.flux(256, 1, 1)
        self.good = {"diffusion_models": self.flux, "checkpoints": models.flux_checkpoint(256, 1, 1)}
        self.cases = 0
        self._good = self.sampled(self.stock).latent
        assert relative_error(self.sampled(self.ours).latent, self._good) <= TOLERANCE
        self._pids = rank_pids(comfy)
        assert len(self._pids) == 2

    def folder(self, kind: str) -> Path:
        return self.models.models / kind

    def stock(self, graph: Graph, name: str | None = None, kind: str = "diffusion_models") -> Node:
        if kind == "checkpoints":
            return graph.add("CheckpointLoaderSimple", ckpt_name=name)
        return graph.add("UNETLoader", unet_name=name or self.flux, weight_dtype="default")

    def ours(self, graph: Graph, name: str | None = None, kind: str = "diffusion_models", **config) -> Node:
        parallel = graph.parallel_config(DEVICES, **config)
        if kind == "checkpoints":
            return graph.add("XDiTCheckpointLoader", ckpt_name=name, parallel_config=parallel)
        return graph.add("XDiTLoader", unet_name=name or self.flux, weight_dtype="default", parallel_config=parallel)

    def sampled(self, loader: Callable[[Graph], Node], **inputs) -> Outcome:
        """Two steps of 64 × 64 with the MODEL of `loader`; `inputs`: functions of the graph that replace its parts.

        `preview`: ComfyUI's preview method, in place of the server's. `sampler`: another node than KSampler; those with
        a guider take noise that weighs nothing.
        """
        graph = Graph()
        model = loader(graph)
        for patch in inputs.pop("patches", ()):
            model = patch(graph, model)
        parts = {
            "positive": lambda graph: graph.flux_conditioning(1),
            "latent": lambda graph: graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        }
        positive = inputs.pop("positive", parts["positive"])(graph)
        latent = inputs.pop("latent", parts["latent"])(graph)
        preview = inputs.pop("preview", None)
        sampler = inputs.pop("sampler", "KSampler")
        if sampler.endswith("Advanced"):
            noise = graph.add("FlatNoise")
            sampled = graph.sample_custom(sampler, model, positive, latent, steps=2, noise=noise)
        else:
            negative = inputs.pop("negative", parts["positive"])(graph)
            sampled = graph.sample(sampler, model, positive, latent, **{"steps": 2, "negative": negative, **inputs})
        saved = graph.save(sampled)
        return self.run(graph, saved, **({"preview_method": preview} if preview else {}))

    def run(self, graph: Graph, saved: Node, **extra_data) -> Outcome:
        result = self.client.wait(self.client.queue(graph.prompt, **extra_data))
        assert not result.interrupted
        return Outcome(None if result.error else self.client.latent(result, saved.id), result.error)

    def same_as_stock(
        self,
        may_refuse: bool = False,
        name: str | None = None,
        kind: str = "diffusion_models",
        incomplete: bool = False,
        **inputs,
    ) -> Outcome:
        """One case: stock ComfyUI and the ranks give the same latent, or both say what is wrong.

        `name`: of a file of models/`kind`. `may_refuse`: the ranks may refuse by name what stock ComfyUI samples.
        `incomplete`: the file lacks parameters, which stock ComfyUI leaves as memory happens to be: its latent tells
        no more than a shape.
        """
        stock = self.sampled(lambda graph: self.stock(graph, name, kind), **inputs)
        ours = self.sampled(lambda graph: self.ours(graph, name, kind), **inputs)
        self.case_done()
        if stock.error is None and ours.error is None:
            assert ours.latent.shape == stock.latent.shape
            if not incomplete:
                assert_same(ours.latent, stock.latent)
        elif ours.error is None:
            raise AssertionError(f"stock ComfyUI fails, the ranks do not: {stock.error}")
        else:
            assert stock.error is not None or may_refuse, str(ours.error)
            assert_clear(ours.error, None if may_refuse and OURS in ours.error.type else stock.error)
        return ours

    def case_done(self) -> None:
        self.cases += 1
        self._assert_same_ranks()
        if self.cases % CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """A good prompt is right, in the same ranks."""
        good = self.sampled(self.ours, seed=7)
        assert good.error is None, str(good.error)
        assert relative_error(good.latent, self._good) <= TOLERANCE
        self._assert_same_ranks()

    def _assert_same_ranks(self) -> None:
        before, now = self._pids, rank_pids(self.comfy)
        if before != now:
            self.sampled(self.ours)  # for the cases after this one
            self._pids = rank_pids(self.comfy)
        assert before == now, "a rank was lost"


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert torch.equal(found.isnan(), expected.isnan()), "NaN elsewhere than in stock ComfyUI"
    if found.numel() and not found.isnan().all():
        assert relative_error(found.nan_to_num(), expected.nan_to_num()) <= TOLERANCE


def assert_clear(error: NodeError, stock: NodeError | None) -> None:
    """The error says something, and is one of ours or what stock ComfyUI says."""
    assert error.message, error.type
    if OURS in error.type:
        assert stock is None or _gist(stock) in error.message or "RequestRefused" not in error.type, (
            f"stock ComfyUI says {stock.message!r}, the ranks {error.message!r}"
        )
        return
    assert stock is not None and error.type == stock.type, f"{error}\nstock ComfyUI: {stock}"


def _gist(error: NodeError) -> str:
    """The first words of an error's message, without the shapes that differ when tokens are divided."""
    return " ".join(error.message.split()[:4])
