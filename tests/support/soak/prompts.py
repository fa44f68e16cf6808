"""The three tiny models of the soak: a prompt for each, by the ranks or by stock ComfyUI."""

from ..prompts import Graph
from ..tiny_models import SD3_CONTEXT, SD3_POOLED, ModelShelf

DEVICES = "cpu:2"
STEPS = 6
TEXTS = {"sd3": (SD3_CONTEXT, SD3_POOLED), "sdxl": (2048, 1280)}


def soak_prompt(models: ModelShelf, family: str, seed: int, number: int = 0, stock: bool = False) -> tuple[dict, str]:
    """A prompt and the id of its SaveLatent. With another `number` it is not answered from ComfyUI's cache."""
    graph = Graph()
    options = {} if stock else {"parallel_config": graph.parallel_config(DEVICES)}
    name = getattr(models, family)()
    model = graph.add("UNETLoader" if stock else "XDiTLoader", unet_name=name, weight_dtype="default", **options)
    empty = "EmptyLatentImage" if family == "sdxl" else "EmptySD3LatentImage"
    latent = graph.add(empty, width=96, height=64, batch_size=1)
    latent = graph.add("Uncached", samples=latent, number=number)
    sampling = {"seed": seed, "steps": STEPS}
    if family == "flux":
        positive = graph.flux_conditioning(1)
    else:
        positive, negative = (_text(graph, family, number) for number in (1, 2))
        sampling |= {"negative": negative, "cfg": 4.0}
    return graph.prompt, graph.save(graph.sample("KSampler", model, positive, latent, **sampling), "soak/latent").id


def _text(graph: Graph, family: str, seed: int):
    context, pooled = TEXTS[family]
    return graph.add("RandomConditioning", seed=seed, tokens=24, context_dim=context, pooled_dim=pooled, guidance=-1.0)
