"""Two real GPUs: where the weights of models lie, by what fits beside another program that has taken the memory.

`pytest -m gpu tests/test_gpu_weights.py` needs 4 GB of disk.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.sd
import pytest
import torch
from support.comfy_client import ComfyClient
from support.gpu_hog import GpuHog
from support.gpus import DEVICES, GPUS, NEEDED, TOLERANCE, gpu_instance
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import held, unload, weight_reads
from support.sampled import assert_sampled
from support.tiny_models import ModelShelf
from support.waiting import answered_status, wait_until
from xdit_comfyui.parallel_backend.contract.config import REPLICATE, SHARD, Degrees
from xdit_comfyui.parallel_backend.contract.recipe import Recipe
from xdit_comfyui.parallel_backend.host.model.seam import Seam
from xdit_comfyui.parallel_backend.host.model.weightless_model import XDiTModelPatcher
from xdit_comfyui.parallel_backend.host.strategy.weight_fit import Footprint, Room
from xdit_comfyui.parallel_backend.sharding.plans.flux import FLUX

pytestmark = [*NEEDED, pytest.mark.timeout(300)]
SHAPE = (768, 1, 40)  # of a Flux of 1.4 GiB whose blocks are small beside their sum, so that a share is much less
STEPS = 3
SIZE = 128  # pixels
ACTIVATIONS = 2**27  # bytes at most, by ComfyUI's estimate for this size
SLACK = 2**26  # bytes by which free memory may be off
SHARDED = re.compile(r", weights: shard \(.*; weights sharded: 1\.4 GiB do not fit in \d\.\d GiB free\) on ")


@dataclass(frozen=True)
class Work:
    """What a prompt samples. `models`: 0 is the first, 1 the second; each goes on with the latent of the one before."""

    seed: int
    models: tuple[int, ...] = (0,)
    guidance: float = 1.0
    images: int = 1
    areas: bool = False

    def add(self, graph: Graph, loaded: list, wait_for: Path | None = None) -> list:
        """The samplers' LATENTs. `loaded`: the MODELs; `wait_for`: a file without which only the first one samples."""
        latent = graph.add("EmptySD3LatentImage", width=SIZE, height=SIZE, batch_size=self.images)
        positive, negative = graph.flux_conditioning(1), graph.flux_conditioning(2, 33)
        if self.areas:
            part = graph.flux_conditioning(3)
            part = graph.add("ConditioningSetArea", conditioning=part, width=80, height=64, x=16, y=8, strength=1.0)
            positive = graph.add("ConditioningCombine", conditioning_1=positive, conditioning_2=part)
        sampled = []
        for number in self.models:
            model, denoise = loaded[number], 0.7 if sampled else 1.0
            if sampled and wait_for is not None:
                model = graph.add("After", model=model, other=latent, file=str(wait_for))
            latent = graph.sample("KSampler", model, positive, latent, negative=negative, seed=self.seed, steps=STEPS,
                                  cfg=self.guidance, denoise=denoise)  # fmt: skip
            sampled.append(latent)
        return sampled


ROOMY, CROWDED, AGAIN = (Work(seed) for seed in (1, 2, 3))
BY_CONDITIONS = Work(4, guidance=3.0, areas=True)
BY_IMAGES = Work(5, guidance=3.0, images=2)
PRELOADED = Work(6, models=(0, 1))
BOTH_FIT, ONE_FITS = (Work(seed, models=(0, 1, 0)) for seed in (7, 8))
ALL = (ROOMY, CROWDED, AGAIN, BY_CONDITIONS, BY_IMAGES, PRELOADED, BOTH_FIT, ONE_FITS)


class Site:
    """A ComfyUI with two GPUs and two models of the same shapes, `names`. `expected`: stock ComfyUI's latents."""

    def __init__(self, comfy, client: ComfyClient):
        self.comfy = comfy
        self.client = client
        shelf = ModelShelf(comfy.base / "models")
        self.names = [shelf.flux(*SHAPE, seed=seed) for seed in (0, 1)]
        self.footprint = self._footprint()
        self.expected = self._stock()

    def _footprint(self) -> Footprint:
        path = self.comfy.base / "models" / "diffusion_models" / self.names[0]
        recipe = Recipe(comfy.sd.load_diffusion_model, (str(path), {"dtype": torch.float32}))
        return Footprint.of(XDiTModelPatcher.from_recipe(recipe, None, Seam(pytest.fail)).model, FLUX)

    def _stock(self) -> dict[Work, torch.Tensor]:
        """Of all in one prompt, after which ComfyUI gives the memory back. The ranks start meanwhile."""
        graph = Graph()
        graph.add("PreviewAny", source=self.load(graph)[0])
        loaded = [graph.add("UNETLoader", unet_name=name, weight_dtype="default") for name in self.names]
        saved = {work: graph.save(work.add(graph, loaded)[-1]) for work in ALL}
        result = self.client.run(graph.prompt)
        self.client.free()
        wait_until(lambda: answered_status(self.client)["state"] == "idle", seconds=120)
        return {work: self.client.latent(result, node.id) for work, node in saved.items()}

    def load(self, graph: Graph, preload: bool = False, **parallel) -> list:
        config = graph.parallel_config(DEVICES, compile="off", **parallel)
        options = {"weight_dtype": "default", "parallel_config": config, "preload": preload}
        return [graph.add("XDiTLoader", unet_name=name, **options) for name in self.names]

    def assert_right(self, work: Work, **parallel) -> str:
        """It gives stock ComfyUI's latent; what the console said meanwhile."""
        graph, start = Graph(), self.log_size
        sampled = work.add(graph, self.load(graph, **parallel))
        saved = graph.save(sampled[-1])
        result = self.client.run(graph.prompt)
        said = self.comfy.log_since(start)
        for node in sampled:
            assert_sampled(result, node.id, said)
        latent = self.client.latent(result, saved.id)
        assert relative_error(latent, self.expected[work]) <= TOLERANCE, said
        assert "out of memory" not in said
        return said

    @property
    def log_size(self) -> int:
        return self.comfy.log.stat().st_size

    def reads(self) -> list[list[str]]:
        """The files whose weights each rank read."""
        return [weight_reads(self.comfy, rank) for rank in range(GPUS)]

    def whole(self, *numbers: int) -> list[dict[str, int]]:
        """What `held` says where every rank holds these models whole."""
        return [{self.names[number]: self.footprint.whole for number in numbers}] * GPUS

    def needed(self, weights: str) -> int:
        """Of a device, for the first model on two that share a sequence."""
        least = int(comfy.model_management.minimum_inference_memory())
        return Room(self.footprint, 0, ACTIVATIONS, least).needed(weights, Degrees(ulysses=GPUS))

    def room(self) -> list[int]:
        """Of each device, as `auto` counts it: what is free, and what weights that lie there give back."""
        ranks = answered_status(self.client)["ranks"]
        return [rank["memory"]["free"] + rank["memory"]["weights"] for rank in ranks]

    @contextlib.contextmanager
    def crowded(self, room: int):
        """Another program leaves so many bytes on each device, by `room`. The ranks have what they need only once: a
        prompt like those inside ran before.
        """
        with GpuHog(GPUS) as hog:
            taken = [one - room for one in self.room()]
            hog.take(taken)
            assert all(abs(one - room) <= SLACK for one in self.room()), self.room()
            yield
        wait_until(lambda: all(one > room + size // 2 for one, size in zip(self.room(), taken, strict=True)))


@pytest.fixture(scope="module")
def site(host, tmp_path_factory):
    with gpu_instance(host, tmp_path_factory.mktemp("gpu-weights")) as instance:
        with ComfyClient(instance.url, instance.base / "output") as client:
            yield Site(instance, client)
        ModelShelf(instance.base / "models").delete("tiny-flux-")


def assert_divided(site):
    """Each rank holds its share of the blocks of the first model, and two whole ones."""
    share = site.footprint.on_a_rank(SHARD, Degrees(ulysses=GPUS))
    assert share < 0.65 * site.footprint.whole
    assert held(site.client) == [{site.names[0]: pytest.approx(share, rel=0.01)}] * GPUS


def test_auto_divides_what_does_not_fit(site):
    said = site.assert_right(ROOMY)
    assert f" on GPU {DEVICES}" in said and "weights:" not in said
    assert held(site.client) == site.whole(0)
    with site.crowded((site.needed(SHARD) + site.needed(REPLICATE)) // 2):
        assert SHARDED.search(site.assert_right(CROWDED))
        assert_divided(site)
    assert "weights:" not in site.assert_right(AGAIN, weights=REPLICATE)
    assert held(site.client) == site.whole(0)


@pytest.mark.parametrize(
    ("work", "degrees"), [(BY_CONDITIONS, {"cfg": 2}), (BY_IMAGES, {"batch": 2})], ids=["cfg", "batch"]
)
def test_divided_over_conditions_and_images(site, work, degrees):
    """With areas, a device evaluates more than the other one, which helps to put blocks together meanwhile."""
    said = site.assert_right(work, weights=SHARD, **degrees)
    assert ", weights: shard (as configured) on " in said
    assert_divided(site)


def test_a_second_model_is_preloaded_beside_the_first_while_nothing_samples(site, tmp_path):
    unload(site.client)
    gate, graph, start = tmp_path / "gate", Graph(), site.log_size
    _, second = PRELOADED.add(graph, site.load(graph, preload=True), wait_for=gate)
    saved = graph.save(second)
    (waiting,) = (node for node, about in graph.prompt.items() if about["class_type"] == "After")
    try:
        prompt_id = site.client.queue(graph.prompt)
        site.client.wait_for(prompt_id, lambda event: event.type == "executing" and event.data["node"] == waiting)
        wait_until(lambda: held(site.client) == site.whole(0, 1))
        wait_until(lambda: answered_status(site.client)["state"] == "idle")
        assert f"xDiT: preloaded {site.names[1]}: read 1." in site.comfy.log_since(start)
        read, at_gate = site.reads(), site.log_size
    finally:
        gate.touch()
    result = site.client.wait(prompt_id)
    assert result.error is None
    assert relative_error(site.client.latent(result, saved.id), site.expected[PRELOADED]) <= TOLERANCE
    assert site.reads() == read and "xDiT: read " not in site.comfy.log_since(at_gate)
    assert {most for _, most in result.progress(second.id)} == {STEPS}, "no bar that stands for reading"
    assert held(site.client) == site.whole(0, 1)


def test_two_models_of_which_one_fits_take_turns(site):
    unload(site.client)
    assert sampled_in_turn(site, BOTH_FIT) == site.names, "once each"
    assert held(site.client) == site.whole(0, 1)
    unload(site.client)
    with site.crowded(2 * site.footprint.whole):  # nothing is left for activations beside both
        first, second = site.names
        assert sampled_in_turn(site, ONE_FITS) == [first, second, first]
        assert held(site.client) == site.whole(0)


def sampled_in_turn(site, work) -> list[str]:
    """The files that each rank read for it."""
    before = site.reads()
    assert "weights:" not in site.assert_right(work)
    new = [after[len(old) :] for old, after in zip(before, site.reads(), strict=True)]
    assert new[0] == new[1]
    return new[0]
