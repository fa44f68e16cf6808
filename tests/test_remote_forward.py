"""Remote forward of models that give several outputs, and what it says."""

import json
from types import SimpleNamespace

import pytest
import torch
from models.cases.ltxv import build_av
from models.cases.minimax import build as build_minimax
from support.compare import TOLERANCE, both
from support.parity import relative_error
from support.prompts import Graph
from support.random_weights import random_weights
from xdit_comfyui.parallel_backend.contract.commands import Discard, Forward, Go, Prepare
from xdit_comfyui.parallel_backend.contract.config import Degrees
from xdit_comfyui.parallel_backend.contract.reports import Failed
from xdit_comfyui.parallel_backend.rank.process import main
from xdit_comfyui.parallel_backend.rank.process.cancel import CancelFlag
from xdit_comfyui.parallel_backend.rank.process.heartbeat import Pulse

REMOTE = "each model call goes to the ranks"
LTX2 = {
    "in_channels": 128, "audio_in_channels": 128, "cross_attention_dim": 256, "audio_cross_attention_dim": 128,
    "attention_head_dim": 64, "audio_attention_head_dim": 32, "num_attention_heads": 4,
    "audio_num_attention_heads": 4, "caption_channels": 64, "num_layers": 2, "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 4, "connector_num_layers": 1, "rope_type": "split",
}  # fmt: skip
MODELS = {
    "ltx-2": (build_av(**LTX2), {"config": json.dumps({"transformer": LTX2})}, 128, "1,128,2,4,6", "1,8,7,16"),
    "minimax h3": (build_minimax, None, 64, "1,24,3,6,8", "1,32,2,7"),
}


def model_file(models, kind):
    import comfy.ops

    build, metadata, *_ = MODELS[kind]
    make = lambda: random_weights(build(device="meta", operations=comfy.ops.disable_weight_init), 31)  # noqa: E731
    return models._file("diffusion_models", f"tiny-{kind.replace(' ', '-')}-outputs.safetensors", make, metadata)


def sampled(graph, model, kind, seed):
    *_, context, video, sound = MODELS[kind]
    conditioning = graph.add("RandomConditioning", seed=1, tokens=17, context_dim=context, pooled_dim=64, guidance=-1.0)
    latent = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=seed),
        guider=graph.add("BasicGuider", model=model, conditioning=conditioning),
        sampler=graph.add("LockedSampler"),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0),
        latent_image=graph.add("NestedLatent", video=video, sound=sound),
    )
    return graph.add("LTXVSeparateAVLatent", av_latent=latent)


@pytest.mark.parametrize(("devices", "config"), [("cpu:2", {}), ("cpu:2", {"ulysses": 2}), ("cpu:1", {})])
@pytest.mark.parametrize("kind", MODELS)
def test_every_output_of_the_model_comes_back(client, comfy, models, kind, devices, config):
    graph, name = Graph(), model_file(models, kind)
    options = {"unet_name": name, "weight_dtype": "default"}
    parallel = graph.parallel_config(devices, **config)
    loaders = (
        graph.add("UNETLoader", **options),
        graph.add("XDiTLoader", **options, parallel_config=parallel),
    )
    separated = [sampled(graph, model, kind, seed=len(config)) for model in loaders]
    saved = [graph.save(node.out(output)) for node in separated for output in (0, 1)]
    start = comfy.log.stat().st_size
    result = client.run(graph.prompt)
    video, sound, found_video, found_sound = (client.latent(result, node.id) for node in saved)
    assert relative_error(found_video, video) <= TOLERANCE
    assert relative_error(found_sound, sound) <= TOLERANCE
    assert REMOTE in comfy.log_since(start)


def guided(graph, model):
    sampler = graph.add("LockedSampler")
    guider = graph.add(
        "CFGGuider", model=model, positive=graph.flux_conditioning(1), negative=graph.flux_conditioning(2, 33), cfg=3.0
    )
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=3),
        guider=guider,
        sampler=sampler,
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0),
        latent_image=graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1),
    )


@pytest.mark.parametrize(("config", "idle"), [({"cfg": 2}, True), ({"ulysses": 2}, False)])
def test_degrees_that_divide_nothing_then_are_said(client, comfy, models, config, idle):
    start = comfy.log.stat().st_size
    stock, found = both(client, models, guided, **config)
    assert relative_error(found, stock) <= TOLERANCE
    (line,) = [line for line in comfy.log_since(start).splitlines() if REMOTE in line]
    assert "lock" in line and "sample_with_global_noise of" in line
    assert ("where nothing is divided by cfg 2" in line) == idle


def test_a_rank_that_cannot_serve_a_request_answers_its_calls_with_the_first_cause(monkeypatch):
    """The stages or the compiler took the rest of the memory: that is what the person has to read."""
    cpu, sent = torch.device("cpu"), []
    link = SimpleNamespace(send=sent.append, cancelled=lambda request: CancelFlag(), done=lambda request: None)
    rank = main.Rank(0, cpu, link, Pulse(cpu))

    def no_room(*_):
        raise torch.OutOfMemoryError("no room for the stages")

    monkeypatch.setattr(main, "ForwardServer", type("Server", (), {"__init__": no_room}))
    message = Prepare(1, "forward", b"", {}, {}, Degrees(), "auto", False)
    monkeypatch.setattr(rank, "_prepared", (message, None))
    monkeypatch.setattr(rank, "_meshes", SimpleNamespace(get=lambda degrees: SimpleNamespace(takes_part=True)))
    rank._handle(Go(1), ())
    for _ in range(2):
        rank._handle(Forward(1, "", b"", {}, []), ())
    assert len(sent) == 2  # one for each call that the host waits for
    for answer in sent:
        assert isinstance(answer, Failed) and answer.error.out_of_memory
        assert answer.error.reason == "OutOfMemoryError: no room for the stages"
    rank._handle(Discard(1), ())
    assert rank._forward is None
