"""Sampling with Qwen-Image and Z-Image through the real server. Their width is fixed, so the files are large.

Each with a LoRA and a ControlNet at once, in a full run; XDIT_TEST_WIDE=all: plain, and with one of the two, too (five
minutes):

    XDIT_TEST_ALL=1 XDIT_TEST_WIDE=all python3 scripts/test.py tests/test_wide_models.py
"""

import os

import pytest
from support.images import write_random_image
from support.parity import relative_error
from support.prompts import Graph
from support.scheduling import full_run
from support.wide_models import QWEN_IMAGE_CONTEXT, Z_IMAGE_CONTEXT

TOLERANCE = 1e-5
WIDTH, HEIGHT = 80, 64
CONTEXT = {"qwen_image": QWEN_IMAGE_CONTEXT, "z_image": Z_IMAGE_CONTEXT}


@pytest.fixture
def wide(client, models):
    """The shelf; what it wrote here is taken from memory and disk again."""
    yield models
    client.free()
    models.delete("small-")


def sampled(client, wide, family, parallel, extras):
    """The latent of two steps, on two ranks or (`parallel` false) by stock ComfyUI.

    Each of `extras` changes (graph, MODEL, CONDITIONING) to another (MODEL, CONDITIONING).
    """
    graph = Graph()
    options = {"unet_name": getattr(wide, family)(), "weight_dtype": "fp8_e5m2"}
    if parallel:
        config = graph.parallel_config("cpu:2", ulysses=2, unsupported="refuse")
        model = graph.add("XDiTLoader", **options, parallel_config=config)
    else:
        model = graph.add("UNETLoader", **options)
    text = graph.add("RandomConditioning", seed=1, tokens=9, context_dim=CONTEXT[family], pooled_dim=0, guidance=-1.0)
    for extra in extras:
        model, text = extra(graph, model, text)
    latent = graph.add("EmptySD3LatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    saved = graph.save(graph.sample("KSampler", model, text, latent, steps=2))
    return client.latent(client.run(graph.prompt, timeout=400), saved.id)


def with_lora(wide, family):
    def extra(graph, model, text):
        name = getattr(wide, f"{family}_lora")()
        return graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0), text

    return extra


def with_qwen_controlnet(wide, image):
    def extra(graph, model, text):
        controlled = graph.add(
            "ControlNetApplyAdvanced",
            positive=text,
            negative=text,
            control_net=graph.add("ControlNetLoader", control_net_name=wide.qwen_image_controlnet()),
            vae=graph.add("VAELoader", vae_name=wide.video_vae()),
            image=graph.add("LoadImage", image=image),
            strength=0.8,
            start_percent=0.0,
            end_percent=1.0,
        )
        return model, controlled

    return extra


def with_z_image_control(wide, image):
    def extra(graph, model, text):
        model = graph.add(
            "ZImageFunControlnet",
            model=model,
            model_patch=graph.add("ModelPatchLoader", name=wide.z_image_control()),
            vae=graph.add("VAELoader", vae_name=wide.image_vae()),
            image=graph.add("LoadImage", image=image),
            strength=0.8,
        )
        return model, text

    return extra


CONTROL = {"qwen_image": with_qwen_controlnet, "z_image": with_z_image_control}
ALONE = pytest.mark.skipif(os.environ.get("XDIT_TEST_WIDE") != "all", reason="long: XDIT_TEST_WIDE=all runs it")


@full_run
@pytest.mark.parametrize("family", ["qwen_image", "z_image"])
@pytest.mark.parametrize(
    "what",
    [
        ("lora", "controlnet"),
        pytest.param((), marks=ALONE),
        pytest.param(("lora",), marks=ALONE),
        pytest.param(("controlnet",), marks=ALONE),
    ],
    ids=lambda what: " and ".join(what) or "plain",
)
def test_two_ranks_give_stock_comfyui_s_latent(client, comfy, wide, family, what):
    image = write_random_image(comfy.base / "input" / "wide.png", WIDTH, HEIGHT)
    extras = {"lora": with_lora(wide, family), "controlnet": CONTROL[family](wide, image)}
    wanted = [extras[name] for name in what]
    stock = sampled(client, wide, family, False, wanted)
    client.free()  # the stock model is not needed any more; all together would be too much for a small machine
    begin = len(comfy.log.read_text())
    found = sampled(client, wide, family, True, wanted)
    said = comfy.log.read_text()[begin:]
    assert "ulysses 2" in said
    assert "unsharded" not in said
    assert relative_error(found, stock) <= TOLERANCE
    if len(what) == 1:
        assert relative_error(stock, sampled(client, wide, family, False, [])) > 0.01
