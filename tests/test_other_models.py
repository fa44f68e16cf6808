"""Sampling with models other than Flux, through the real server: the same latent as stock ComfyUI's."""

import pytest
from support.images import write_random_image
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids, weight_reads
from support.tiny_models import (
    HUNYUAN_VIDEO_CONTEXT,
    HUNYUAN_VIDEO_POOLED,
    SD3_CONTEXT,
    SD3_POOLED,
    SDXL_CONTEXT,
    SDXL_POOLED,
    WAN_CONTEXT,
)

TOLERANCE = 1e-5
WIDTHS = {  # of the text and of its pooled output
    "sd3": (SD3_CONTEXT, SD3_POOLED),
    "sdxl": (SDXL_CONTEXT, SDXL_POOLED),
    "wan": (WAN_CONTEXT, 0),
    "hunyuan_video": (HUNYUAN_VIDEO_CONTEXT, HUNYUAN_VIDEO_POOLED),
}
LATENTS = {
    "sd3": "EmptySD3LatentImage",
    "sdxl": "EmptyLatentImage",
    "wan": "EmptyHunyuanLatentVideo",
    "hunyuan_video": "EmptyHunyuanLatentVideo",
}

DEGREES = {"sd3": {"ulysses": 2}, "sdxl": {"cfg": 2}, "wan": {"ulysses": 2}}  # with a LoRA or a control


def loader(graph, name, config):
    """A MODEL from XDiTLoader with that Parallel Config, or from stock ComfyUI's loader when it is None."""
    if config is None:
        return graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    return graph.add("XDiTLoader", unet_name=name, weight_dtype="default", parallel_config=config)


def text(graph, family, seed, tokens):
    context, pooled = WIDTHS[family]
    guidance = 3.5 if family == "hunyuan_video" else -1.0
    return graph.add(
        "RandomConditioning", seed=seed, tokens=tokens, context_dim=context, pooled_dim=pooled, guidance=guidance
    )


def empty_latent(graph, family, width, height, frames):
    length = {} if family in ("sd3", "sdxl") else {"length": frames}
    return graph.add(LATENTS[family], width=width, height=height, batch_size=1, **length)


def sampled(client, family, name, parallel, lora=None, control=None, size=(128, 96), frames=5, **inputs):
    """The latent of one run; `parallel`: what Parallel Config gets, None for stock ComfyUI.

    `control`: from (graph, positive, negative) to a node whose first outputs are these two, changed.
    """
    graph = Graph()
    model = loader(graph, name, parallel and graph.parallel_config(**parallel))
    if lora:
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=0.8)
    positive, negative = text(graph, family, 1, 33), text(graph, family, 2, 17)
    if control:
        positive = control(graph, positive, negative)
        negative = positive.out(1)
    latent = empty_latent(graph, family, *size, frames)
    saved = graph.save(graph.sample("KSampler", model, positive, latent, negative=negative, steps=3, **inputs))
    return client.latent(client.run(graph.prompt), saved.id)


@pytest.mark.parametrize(
    ("family", "variant", "parallel", "options"),
    [
        ("sd3", {}, {}, {}),
        ("sd3", {}, {}, {"cfg": 4.0}),
        ("sd3", {"medium": True}, {"ulysses": 2}, {"cfg": 4.0, "size": (120, 88)}),
        ("wan", {}, {}, {}),
        ("wan", {}, {}, {"cfg": 4.0, "sampler_name": "uni_pc"}),
        ("wan", {}, {"ulysses": 2}, {"cfg": 4.0, "size": (112, 80), "frames": 9}),
        ("hunyuan_video", {}, {}, {}),
        ("hunyuan_video", {}, {}, {"cfg": 4.0}),
        ("hunyuan_video", {}, {"ulysses": 2}, {"cfg": 4.0, "size": (112, 80), "frames": 9}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(f"{key} {item}" for key, item in value.items()),
)
def test_two_ranks_give_stock_comfyui_s_latent(client, models, family, variant, parallel, options):
    name = getattr(models, family)(**variant)
    stock = sampled(client, family, name, None, **options)
    found = sampled(client, family, name, {"devices": "cpu:2", "unsupported": "refuse", **parallel}, **options)
    assert relative_error(found, stock) <= TOLERANCE


@pytest.mark.parametrize("family", ["sd3", "sdxl", "wan"])
def test_a_lora(client, models, family):
    name, lora = getattr(models, family)(), getattr(models, f"{family}_lora")()
    plain = sampled(client, family, name, None, cfg=4.0)
    stock = sampled(client, family, name, None, lora, cfg=4.0)
    assert relative_error(stock, plain) > 100 * TOLERANCE
    found = sampled(client, family, name, {"devices": "cpu:2", **DEGREES[family]}, lora, cfg=4.0)
    assert relative_error(found, stock) <= TOLERANCE


def with_controlnet(control_net, image, vae=None):
    def control(graph, positive, negative):
        return graph.add(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=negative,
            control_net=graph.add("ControlNetLoader", control_net_name=control_net),
            image=graph.add("LoadImage", image=image),
            strength=0.7,
            start_percent=0.0,
            end_percent=0.9,
            **({"vae": graph.add("VAELoader", vae_name=vae)} if vae else {}),
        )

    return control


def with_vace(vae, image):
    def control(graph, positive, negative):
        return graph.add(
            "WanVaceToVideo",
            positive=positive,
            negative=negative,
            vae=graph.add("VAELoader", vae_name=vae),
            control_video=graph.add("LoadImage", image=image),
            width=128,
            height=96,
            length=5,
            batch_size=1,
            strength=0.8,
        )

    return control


@pytest.mark.parametrize("family", ["sd3", "sdxl", "wan"])
def test_control(client, comfy, models, family):
    image = write_random_image(comfy.base / "input" / "control.png", 128, 96)
    name, control, without = {
        "sd3": lambda: (models.sd3(), with_controlnet(models.sd3_controlnet(), image, models.image_vae()), None),
        "sdxl": lambda: (models.sdxl(), with_controlnet(models.sdxl_controlnet(), image), None),
        "wan": lambda: (
            models.wan_vace(),
            with_vace(models.video_vae(), image),
            with_vace(models.video_vae(), write_random_image(comfy.base / "input" / "other.png", 128, 96, seed=1)),
        ),
    }[family]()
    plain = sampled(client, family, name, None, control=without, cfg=4.0)
    stock = sampled(client, family, name, None, control=control, cfg=4.0)
    assert relative_error(stock, plain) > 100 * TOLERANCE
    found = sampled(client, family, name, {"devices": "cpu:2", **DEGREES[family]}, control=control, cfg=4.0)
    assert relative_error(found, stock) <= TOLERANCE


def high_and_low(client, names, parallel, seed):
    """Wan 2.2's graph: one model makes the first steps, the other goes on from its noisy latent."""
    graph = Graph()
    config = parallel and graph.parallel_config(**parallel)
    positive, negative = text(graph, "wan", 1, 33), text(graph, "wan", 2, 17)
    latent = empty_latent(graph, "wan", 128, 96, 5)
    for place, name in enumerate(names):
        first = place == 0
        latent = graph.add(
            "KSamplerAdvanced",
            model=loader(graph, name, config),
            add_noise="enable" if first else "disable",
            noise_seed=seed,
            steps=4,
            cfg=3.5,
            sampler_name="euler",
            scheduler="simple",
            positive=positive,
            negative=negative,
            latent_image=latent,
            start_at_step=0 if first else 2,
            end_at_step=2 if first else 10000,
            return_with_leftover_noise="enable" if first else "disable",
        )
    saved = graph.save(latent)
    return client.latent(client.run(graph.prompt), saved.id)


def test_wan_s_high_and_low_models_share_the_ranks(client, comfy, models):
    names = [models.wan(seed=21), models.wan(seed=22)]
    parallel = {"devices": "cpu:2", "unsupported": "refuse"}
    stock = [high_and_low(client, names, None, seed) for seed in (7, 8)]
    found = [high_and_low(client, names, parallel, 7)]
    ranks = rank_pids(comfy)
    assert len(ranks) == 2
    found.append(high_and_low(client, names, parallel, 8))
    assert rank_pids(comfy) == ranks
    assert relative_error(stock[0], stock[1]) > 0.1
    for mine, theirs in zip(found, stock, strict=True):
        assert relative_error(mine, theirs) <= TOLERANCE
    for rank in range(2):
        reads = weight_reads(comfy, rank)
        assert [sum(name in read for read in reads) for name in names] == [1, 1]
