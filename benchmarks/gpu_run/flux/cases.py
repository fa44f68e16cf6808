"""What is measured: what is sampled and how; and the workflow of each case. Flux is divided by Ulysses alone."""

from dataclasses import dataclass

from support.prompts import Graph

from ..engines import Engine
from ..workflow import Workflow
from .model_files import FLUX_DEV, TINY, FluxShape, ModelFiles

VARIANTS = ("plain", "lora", "controlnet", "gpu conditioning")
HINT = "hint.png"
CONDITIONING_SEED, GUIDANCE = 1, 3.5
# The LoRA file has no alpha: at this strength it changes each weight by a quarter of its size.
LORA_STRENGTH, CONTROLNET_STRENGTH = 0.25, 0.7


@dataclass(frozen=True)
class Case:
    """One workflow. `size`: width and height in pixels; `attention` is the pack's setting, no matter for stock."""

    engine: Engine
    size: int
    steps: int
    variant: str = "plain"
    attention: str = "auto"
    preview: str = "none"

    def __str__(self) -> str:
        parts = [self.engine.name, f"{self.size}²", f"{self.steps} steps", self.variant]
        parts += [f"attention {self.attention}"] if self.engine.devices else []
        return ", ".join(parts + ([f"preview {self.preview}"] if self.preview != "none" else []))


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    shape: FluxShape
    tokens: int
    sizes: tuple[int, ...]
    steps: int
    short_steps: int
    error_size: int
    error_steps: int


FULL_SCALE = Scale(FLUX_DEV, 512, (1024, 2048), steps=28, short_steps=8, error_size=1024, error_steps=4)
TINY_SCALE = Scale(TINY, 16, (128, 192), steps=6, short_steps=4, error_size=128, error_steps=4)


def speed_cases(engine: Engine, scale: Scale) -> list[Case]:
    """Whole prompts with the default kernel, shorter ones with the others, and one with live previews."""
    cases = [Case(engine, size, scale.steps) for size in scale.sizes]
    cases.append(Case(engine, scale.sizes[0], scale.steps, preview="latent2rgb"))
    if engine.devices:
        cases += [
            Case(engine, size, scale.short_steps, attention=kernel)
            for kernel in ("comfyui", "cudnn")
            for size in scale.sizes
        ]
    return cases


def error_cases(engine: Engine, scale: Scale) -> list[Case]:
    """Every variant, and for the pack stock ComfyUI's own kernel as well."""
    cases = [Case(engine, scale.error_size, scale.error_steps, variant) for variant in VARIANTS]
    if engine.devices:
        cases.append(Case(engine, scale.error_size, scale.error_steps, attention="comfyui"))
    return cases


def workflow(case: Case, files: ModelFiles, scale: Scale, seed: int) -> Workflow:
    graph = Graph()
    if case.engine.devices is None:
        model = graph.add("UNETLoader", unet_name=files.unet, weight_dtype="default")
    else:
        config = graph.parallel_config(case.engine.devices, ulysses=case.engine.ranks, attention=case.attention)
        model = graph.add("XDiTLoader", unet_name=files.unet, weight_dtype="default", parallel_config=config)
    if case.variant == "lora":
        model = graph.add("LoraLoaderModelOnly", model=model, lora_name=files.lora, strength_model=LORA_STRENGTH)
    conditioning = graph.add(
        "RandomConditioning",
        seed=CONDITIONING_SEED,
        tokens=scale.tokens,
        context_dim=scale.shape.context,
        pooled_dim=scale.shape.pooled,
        guidance=GUIDANCE,
        device="gpu" if case.variant == "gpu conditioning" else "cpu",
    )
    if case.variant == "controlnet":
        conditioning = graph.add(
            "ControlNetApplyAdvanced",
            positive=conditioning,
            negative=conditioning,
            control_net=graph.add("ControlNetLoader", control_net_name=files.controlnet),
            image=graph.add("LoadImage", image=HINT),
            strength=CONTROLNET_STRENGTH,
            start_percent=0.0,
            end_percent=1.0,
        )
    latent = graph.add("EmptySD3LatentImage", width=case.size, height=case.size, batch_size=1)
    node = "XDiTSampler" if case.engine.devices else "KSampler"
    sampled = graph.sample(node, model, conditioning, latent, steps=case.steps, seed=seed)
    saved = graph.save(sampled, "benchmark/latent")
    return Workflow(graph.prompt, sampled.id, saved.id, case.steps, case.preview)
