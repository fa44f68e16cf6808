"""The prompt of a configuration, by the ranks or by stock ComfyUI."""

from __future__ import annotations

from ..prompts import Graph, Node
from ..tiny_models import FLUX_CONTEXT, FLUX_POOLED, SD3_CONTEXT, SD3_POOLED, WAN_CONTEXT, ModelShelf
from .plan import BLOCKS, Configuration

TEXTS = {  # width of the text, of its pooled form, guidance
    "flux": (FLUX_CONTEXT, FLUX_POOLED, 3.5),
    "flux2": (FLUX_CONTEXT, 0, 3.5),
    "sd3": (SD3_CONTEXT, SD3_POOLED, -1.0),
    "sd3.5 medium": (SD3_CONTEXT, SD3_POOLED, -1.0),
    "wan": (WAN_CONTEXT, 0, -1.0),
}
EMPTY = {"flux2": "EmptyFlux2LatentImage", "wan": "EmptyHunyuanLatentVideo"}
PREFIX = "pipelines/latent"


def prompt_of(models: ModelShelf, one: Configuration, stock: bool = False, again: bool = False) -> tuple[dict, str]:
    """A prompt and the id of its SaveLatent. `again`: ask for the same in other words, so that nothing comes from
    ComfyUI's cache.
    """
    words = {"unsupported": "refuse" if again else "run on one device"}
    config = {"patches": one.patches, "warmup_steps": one.warmup, **one.degrees, **words}
    graph = Graph()
    model = _model(graph, models, one, None if stock else config)
    context, pooled, guidance = TEXTS[one.family]
    texts = [
        graph.add(
            "RandomConditioning", seed=seed, tokens=tokens, context_dim=context, pooled_dim=pooled, guidance=guidance
        )
        for seed, tokens in enumerate(one.tokens)
    ]
    width, height = one.size
    frames = {"length": one.frames} if one.family == "wan" else {}
    latent = graph.add(
        EMPTY.get(one.family, "EmptySD3LatentImage"), width=width, height=height, batch_size=one.batch, **frames
    )
    options = {
        "negative": texts[1],
        "seed": one.number,
        "steps": one.steps,
        "cfg": one.cfg,
        "sampler_name": one.sampler,
        "scheduler": one.scheduler,
    }
    return graph.prompt, graph.save(graph.sample("KSampler", model, texts[0], latent, **options), PREFIX).id


def _model(graph: Graph, models: ModelShelf, one: Configuration, config: dict | None) -> Node:
    """`config`: of Parallel Config, None for stock ComfyUI."""
    files = {
        "flux": models.flux,
        "flux2": models.flux2,
        "sd3": models.sd3,
        "sd3.5 medium": lambda: models.sd3(medium=True),
        "wan": lambda: models.wan(layers=BLOCKS["wan"]),
    }
    loras = {"flux": models.flux_lora, "sd3": models.sd3_lora, "wan": lambda: models.wan_lora(layers=BLOCKS["wan"])}
    options = {"unet_name": files[one.family](), "weight_dtype": "default"}
    if config is None:
        model = graph.add("UNETLoader", **options)
    else:
        model = graph.add("XDiTLoader", **options, parallel_config=graph.parallel_config(f"cpu:{one.ranks}", **config))
    if one.lora:
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=loras[one.family](), strength_model=0.8)
    return model
