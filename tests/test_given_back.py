"""What ranks hold beside weights is given back: process groups of degrees, memory of blobs; and other models count."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import comfy.controlnet
import comfy.sd
import pytest
import torch
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.rank_set import RankSets
from support.ranks import rank_pids, unload
from support.tiny_models import ModelShelf
from xdit_comfyui.parallel_backend.contract.config import Degrees
from xdit_comfyui.parallel_backend.contract.recipe import Recipe
from xdit_comfyui.parallel_backend.host.describe.companions import companion_bytes
from xdit_comfyui.parallel_backend.host.model.seam import Seam
from xdit_comfyui.parallel_backend.host.model.weightless_model import XDiTModelPatcher
from xdit_comfyui.parallel_backend.host.strategy.weight_fit import Footprint, Room
from xdit_comfyui.parallel_backend.rank.run.mesh import MOST_MESHES
from xdit_comfyui.parallel_backend.transport.blobs import ARENA_BYTES, BlobCache, BlobSender

WAYS = ({"ulysses": 2}, {"ring": 2}, {"cfg": 2}, {"pipefusion": 2}, {"batch": 2})


def latent(client, models, seed, images=1, **config):
    graph = Graph()
    options = {"unet_name": models.flux(), "weight_dtype": "default"}
    if config:
        model = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config("cpu:2", **config))
    else:
        model = graph.add("UNETLoader", **options)
    empty = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=images)
    positive, negative = graph.flux_conditioning(1), graph.flux_conditioning(2, 33)
    saved = graph.save(graph.sample("KSampler", model, positive, empty, negative=negative, cfg=2.0, steps=2, seed=seed))
    return client.latent(client.run(graph.prompt), saved.id)


def sockets(comfy) -> list[int]:
    """How many sockets each rank has open, once that stays as it is: each process group of CPU ranks has some, and
    closes them a moment after it was given back.
    """
    seen = []
    for _ in range(60):
        seen.append(open_sockets(comfy))
        if seen[-6:] == [seen[-1]] * 6:
            return seen[-1]
        time.sleep(0.5)
    raise AssertionError(f"the ranks' sockets come and go: {seen[-6:]}")


def open_sockets(comfy) -> list[int]:
    counts = []
    for pid in sorted(rank_pids(comfy)):
        targets = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        counts.append(sum(target.startswith("socket:") for target in targets))
    return counts


def test_unload_models_gives_back_the_process_groups_of_all_degrees(client, comfy, models):
    latent(client, models, 1, ulysses=2)
    unload(client)
    least = sockets(comfy)
    for seed, way in enumerate(WAYS, start=2):
        latent(client, models, seed, images=2, **way)
    assert all(now > before for now, before in zip(sockets(comfy), least, strict=True))
    unload(client)
    assert all(now <= before for now, before in zip(sockets(comfy), least, strict=True))
    found, stock = latent(client, models, 9, ulysses=2), latent(client, models, 9)
    assert relative_error(found, stock) <= TOLERANCE


def test_the_benchmark_leaves_no_process_group(client, comfy, models):
    latent(client, models, 11, ulysses=2)
    unload(client)
    least = sockets(comfy)
    graph = Graph()
    config = graph.parallel_config("cpu:2")
    model = graph.add("XDiTLoader", unet_name=models.flux(), weight_dtype="default", parallel_config=config)
    graph.add(
        "XDiTBenchmark",
        model=model,
        positive=graph.flux_conditioning(12),
        negative=graph.flux_conditioning(2, 33),
        latent_image=graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        **{"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"},
    )
    client.run(graph.prompt)
    assert all(now <= before for now, before in zip(sockets(comfy), least, strict=True))


def test_degrees_used_long_ago_are_given_back():
    sets = RankSets("sharding.mesh_side:MeshSide")
    try:
        ranks = sets[2]
        used = [Degrees(**way) for way in (*WAYS, {})]
        counts = [ranks.run(("use", degrees)) for degrees in used]
        assert all(first[1] == second[1] for first, second in counts)
        assert [releases for (_, releases), _ in counts] == [0] * MOST_MESHES + [1, 2]
        assert ranks.run(("use", used[-1])) == counts[-1], "the latest is at hand"
        ((_, releases), _) = ranks.run(("use", used[0]))
        assert releases == 3, "the first one is made anew"
        assert [groups for groups, _ in ranks.run(("release",))] == [0, 0]
    finally:
        sets.stop()


def mapped() -> int:
    """Bytes of memory files with blobs that this process maps."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "xdit-arena" in line]
    ends = (re.match(r"(\w+)-(\w+)", line).groups() for line in lines)
    return sum(int(last, 16) - int(first, 16) for first, last in ends)


def test_a_small_blob_keeps_no_large_one_in_memory():
    sender, cache = BlobSender(), BlobCache()
    small = torch.arange(50_000, dtype=torch.float32)
    large = [torch.full((16 * 2**20,), index, dtype=torch.uint8) for index in range(12)]  # 192 MiB
    batch = sender.batch()
    digests = [batch.add(tensor, stable=True) for tensor in (*large, small)]
    for arena in batch.arenas():
        cache.add_arena(arena.descriptor, arena.size, arena.spans)
    assert all(
        torch.equal(cache.get(digest), tensor.view(torch.uint8))
        for digest, tensor in zip(digests, (*large, small), strict=True)
    )
    assert mapped() >= 192 * 2**20
    cache.forget(digests[:-1])
    assert torch.equal(cache.get(digests[-1]), small.view(torch.uint8))
    assert mapped() <= ARENA_BYTES + 2**20
    cache.forget(digests[-1:])
    assert mapped() == 0


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return ModelShelf(tmp_path_factory.mktemp("given-back"))


def weightless(shelf, seed=0) -> XDiTModelPatcher:
    path = str(shelf.models / "diffusion_models" / shelf.flux(seed=seed))
    return XDiTModelPatcher.from_recipe(Recipe(comfy.sd.load_diffusion_model, (path,)), None, Seam(pytest.fail))


def test_controlnets_and_second_models_count_in_the_memory_that_a_run_needs(shelf):
    model, second = weightless(shelf), weightless(shelf, seed=1)
    control = comfy.controlnet.load_controlnet(str(shelf.models / "controlnet" / shelf.flux_controlnet()))
    chained = comfy.controlnet.load_controlnet(str(shelf.models / "controlnet" / shelf.flux_controlnet(seed=3)))
    chained.set_previous_controlnet(control)

    def needed(conds, **others):
        guider = SimpleNamespace(model_patcher=model, model_options={}, conds=conds, **others)
        return companion_bytes(guider)

    of_control = sum(p.numel() * p.element_size() for p in control.control_model.parameters())
    of_model = Footprint.of(second.model, None).whole
    assert of_control > 2**20 and of_model > 2**20
    assert needed({"positive": [{}]}) == 0
    one = {"positive": [{"control": control}], "negative": [{"control": control}]}
    assert needed(one) == pytest.approx(of_control, rel=0.01)
    assert needed({"positive": [{"control": chained}]}) == pytest.approx(2 * of_control, rel=0.01)
    assert needed({}, model_negative=second, model_again=model) == of_model
    with_models = model.clone()
    with_models.set_additional_models("patch", control.get_models())
    with_models.set_additional_models("multigpu", [second])
    guider = SimpleNamespace(model_patcher=with_models, model_options={}, conds={})
    assert companion_bytes(guider) == pytest.approx(of_control, rel=0.01)


def test_what_a_run_brings_takes_room_from_its_model():
    gib = 2**30
    footprint = Footprint(blocks=22 * gib, largest=gib // 2, rest=gib)
    alone, beside = (Room(footprint, 30 * gib, 2 * gib, gib, companions=size * gib) for size in (0, 10))
    assert alone.fits("replicate", Degrees()) and not beside.fits("replicate", Degrees())
    assert "10.0 GiB of other models" in str(beside)
