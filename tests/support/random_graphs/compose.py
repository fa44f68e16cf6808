"""The prompt of a plan, by the ranks or by stock ComfyUI: the same nodes with the same values but for the loader and
the sampler.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..prompts import Graph, Node
from ..tiny_models import ModelShelf
from .catalogue import inputs_of, outputs_of, role_of
from .families import FAMILIES, PREFIX, SOUND_FRAMES, empty_latent, random_text, saved_latents, with_sound
from .plan import LOADER, STOCK, Plan
from .values import plain_value

PLAIN = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
CHANNELS_OF_SOUND = 8
BASIC = {*PLAIN, "CONDITIONING", "LATENT", "IMAGE", "MASK", "SIGMAS"}
NEEDED = {"images"}  # optional by the schema, and missed by the node
OTHER_MODEL = {"model2", "model_negative", "iclora_model"}
PATCHES = {
    "USOStyleReference": "uso",
    "WanUni3CControlnetApply": "uni3c",
    "WanInfiniteTalkToVideo": "multitalk",
}


@dataclass(frozen=True)
class Prompt:
    """`saved`: the ids of the nodes that save its latents; `samples`: the node that samples."""

    prompt: dict[str, dict]
    saved: list[str]
    samples: str


def compose(plan: Plan, object_info: dict[str, Any], models: ModelShelf, ours: bool, disturbed: bool = False) -> Prompt:
    """`disturbed`: with a model whose predictions are a little off, to see how far the graph spreads that."""
    return Composer(plan, object_info, models, ours, disturbed).compose()


class Composer:
    def __init__(self, plan: Plan, object_info: dict[str, Any], models: ModelShelf, ours: bool, disturbed: bool):
        self._plan, self._info, self._models, self._ours = plan, object_info, models, ours
        self._family = FAMILIES[plan.family]
        self._graph = Graph()
        self._config: Node | None = None
        if ours:
            self._config = self._graph.parallel_config(f"cpu:{plan.ranks}", **plan.degrees, **plan.config)
        self._chance = random.Random(plan.number)
        self._model: list = self._loaded(self._family.file(models))
        # Another input for each way to run: no node is cached, whose functions remember the run before.
        self._model = self._graph.add("CopiedModel", model=self._model, number=2 * ours + disturbed)
        if disturbed:
            self._model = self._graph.add("DisturbedModel", model=self._model)
        self._texts = 0
        self._positive, self._negative = (self._text(tokens) for tokens in plan.tokens)
        self._latent: list = empty_latent(self._graph, self._family, plan.shape)
        self._given: dict[str, list] = {}
        self._sampler: list | None = None
        self._sigmas: list | None = None
        self._guider: list | None = None

    def compose(self) -> Prompt:
        plan = self._plan
        later, after = [], []
        for place, name in enumerate(plan.parts):
            role = role_of(self._info[name])
            if role in ("sigmas", "guider", "latent"):
                later.append((place, name))
            elif role == "after":
                after.append((place, name))
            else:
                self._apply(place, name)
        if plan.samples is not None:
            sampled = self._sampled_by_node(plan.samples)
        elif plan.custom:
            self._sigmas = self._graph.add(
                "BasicScheduler", model=self._model, scheduler=plan.scheduler, steps=plan.steps, denoise=1.0
            )
            for place, name in sorted(later, key=lambda part: role_of(self._info[part[1]]) != "sigmas"):
                self._apply(place, name)
            sampled = self._sampled_custom()
        else:
            sampled = self._sampled()
        saved = saved_latents(self._graph, plan.family, sampled)
        for place, name in after:
            self._latent = sampled
            self._apply(place, name)
            saved.append(self._graph.save(self._latent, PREFIX).id)
        return Prompt(self._graph.prompt, saved, sampled[0])

    def _apply(self, place: int, name: str) -> None:
        """Add the node and go on with what it gives."""
        self._chance = random.Random(f"graphs {self._plan.number} {place} {name}")
        info = self._info[name]
        node = self._node(name, **self._plan.values)
        conditionings = [index for index, kind in enumerate(outputs_of(info)) if kind == "CONDITIONING"]
        if len(conditionings) == 1 and "positive" not in inputs_of(info) and self._chance.random() < 0.3:
            self._negative = node.out(conditionings[0])
        elif conditionings:
            self._positive = node.out(conditionings[0])
            if len(conditionings) > 1:
                self._negative = node.out(conditionings[1])
        for index, kind in enumerate(outputs_of(info)):
            link = node.out(index)
            if kind == "MODEL":
                self._model = link
            elif kind == "LATENT" and "IMAGE" not in outputs_of(info):
                self._latent = link
            elif kind == "SAMPLER":
                self._sampler = link
            elif kind == "GUIDER":
                self._guider = link
            elif kind == "SIGMAS" and index == 0:
                self._sigmas = link
            elif kind not in BASIC:
                self._given[kind] = link

    def _node(self, name: str, **given: Any) -> Node:
        inputs: dict[str, Any] = {}
        samples = role_of(self._info[name]) == "samples"
        for key, (kind, options, required) in inputs_of(self._info[name]).items():
            if key in given:
                inputs[key] = given[key]
            elif required or samples or key in NEEDED or self._chance.random() < 0.6:
                inputs.update(self._value(name, key, kind, options, required))
        return self._graph.add(name, **inputs)

    def _value(self, node: str, key: str, kind: Any, options: dict[str, Any], required: bool) -> dict[str, Any]:
        """The inputs that this one gives: one, none where nothing fits an optional one, more for a dynamic one."""
        if kind == "COMFY_DYNAMICCOMBO_V3":
            return {key: options["options"][0]["key"]}
        if kind == "COMFY_AUTOGROW_V3":
            return self._first_of_many(node, key, options["template"]) if required else {}
        if isinstance(kind, str) and kind.replace(":", ",").partition(",")[0] in PLAIN:  # some packs write "INT:seed"
            kind = kind.replace(":", ",").partition(",")[0]
        if isinstance(kind, list) or kind in PLAIN:
            return {key: self._plain(node, key, kind, options)}
        link = self._linked(node, key, kind) or self._given.get(kind) or (self._made(kind) if required else None)
        if link is None and required:
            raise LookupError(f"nothing gives a {kind} for {node}.{key}")
        return {} if link is None else {key: link}

    def _first_of_many(self, node: str, key: str, template: dict[str, Any]) -> dict[str, Any]:
        """The first of the inputs that an input with a growing number of them has."""
        names = template.get("names") or [f"{template['prefix']}0"]
        inner = next(iter((template["input"].get("required") or template["input"]["optional"]).values()))[0]
        return {f"{key}.{names[0]}": self._linked(node, key, inner)}

    def _plain(self, node: str, key: str, kind: Any, options: dict[str, Any]) -> Any:
        plan, shape, family = self._plan, self._plan.shape, self._family
        flow = plan.family != "sdxl"
        exact: dict[str, Callable[[], Any]] = {
            "lora_name": lambda: family.lora(self._models),
            "hypernetwork_name": self._models.hypernetwork,
            "steps": lambda: plan.steps,
            "batch_size": lambda: shape.batch,
            "length": lambda: family.frames(shape.length),
            "video_frames": lambda: shape.batch,
            "sigma_max": lambda: 1.0 if flow else 14.6,
            "seed": lambda: plan.number,
            "noise_seed": lambda: plan.number,
        }
        if f"{node}.{key}" in ("ModelSamplingContinuousEDM.sigma_max", "ModelSamplingContinuousV.sigma_max"):
            return plain_value(node, key, kind, options, self._chance)
        if key in exact:
            return exact[key]()
        if key in ("width", "height") and kind == "INT":
            return max(getattr(shape, key), options.get("min") or 0)
        if key in ("x", "y") and kind == "INT":
            return self._chance.choice((0, 16))
        if node == "SetFirstSigma" and key == "sigma" and self._chance.random() < 0.5:
            return list(self._node("SamplingPercentToSigma"))
        return plain_value(node, key, kind, options, self._chance)

    def _linked(self, node: str, key: str, kind: str) -> list | None:
        """A link to something of that type, None where there is nothing."""
        plan, graph, family = self._plan, self._graph, self._family
        shape = plan.shape
        frames = family.frames(shape.length)
        size = {"width": shape.width, "height": shape.height}
        channels, spatial, _ = family.encoder

        def controlnet() -> list:
            made = graph.add("ControlNetLoader", control_net_name=family.control(self._models))
            if "ForeignControlNet" in self._info and plan.family == "sdxl" and self._chance.random() < 0.3:
                return self._node("ForeignControlNet", control_net=made)
            return made

        def vae() -> list:
            if key == "audio_vae":
                return graph.add("RandomSoundVae")
            if node.startswith("ControlNet"):
                return graph.add("VAELoader", vae_name=self._models.image_vae(channels))
            return graph.add("RandomVae", channels=channels, spatial=spatial, temporal=family.encoder[2])

        def vision_output() -> list:
            tokens, width = (16, 32) if node == "USOStyleReference" else (257, 1280)
            if node.startswith("Hunyuan3D"):
                width = family.context
            return graph.add("RandomClipVisionOutput", seed=2, tokens=tokens, width=width)

        def latent() -> list:
            if node == "ReferenceLatent" or key == "stage_c":
                dims = [1, channels, *([1] if family.video else []), shape.height // spatial, shape.width // spatial]
                return graph.add("LatentOfShape", seed=5, shape=str(dims))
            if node == "ReferenceTimbreAudio":
                return graph.add("LatentOfShape", seed=5, shape=f"[1, {CHANNELS_OF_SOUND}, {SOUND_FRAMES}, 16]")
            return self._latent

        givers: dict[str, Callable[[], list | None]] = {
            "MODEL": lambda: self._second_model() if key in OTHER_MODEL else self._model,
            "CONDITIONING": lambda: self._conditioning(node, key),
            "LATENT": latent,
            "VAE": vae,
            "IMAGE": lambda: graph.add("RandomImage", seed=4, frames=frames if "video" in key else 1, **size),
            "MASK": lambda: graph.add("RandomMask", seed=6, frames=1, **size),
            "CLIP": lambda: graph.add("RandomClip", context=family.context, pooled=family.pooled),
            "CLIP_VISION": lambda: graph.add(
                "RandomClipVision", tokens=16, width=family.context if node != "unCLIPConditioning" else 1280
            ),
            "CLIP_VISION_OUTPUT": vision_output,
            "STYLE_MODEL": lambda: graph.add("RandomStyleModel", tokens=6, context=family.context),
            "CONTROL_NET": controlnet,
            "GLIGEN": lambda: graph.add("RandomGligen"),
            "HOOKS": lambda: graph.add(
                "CreateHookLoraModelOnly", lora_name=family.lora(self._models), strength_model=0.8
            ) if family.lora else None,
            "TIMESTEPS_RANGE": lambda: graph.add(
                "ConditioningTimestepsRange", start_percent=0.0, end_percent=self._chance.choice((0.6, 1.0))
            ),
            "NOISE": lambda: graph.add("RandomNoise", noise_seed=self._plan.number),
            "LATENT_OPERATION": lambda: self._node(
                self._chance.choice(("LatentOperationTonemapReinhard", "LatentOperationSharpen"))
            ),
            "MODEL_PATCH": lambda: graph.add("RandomModelPatch", kind=PATCHES[node], width=family.hidden),
            "AUDIO_ENCODER_OUTPUT": lambda: graph.add(
                "RandomSound", seed=7, frames=50, width=1280 if node == "WanHuMoImageToVideo" else 768,
                layers=13 if node == "WanInfiniteTalkToVideo" else 33,
            ),
            "WAN_CAMERA_EMBEDDING": lambda: graph.add(
                "WanCameraEmbedding", camera_pose="Pan Up", length=frames, speed=1.0, fx=0.5, fy=0.5, cx=0.5, cy=0.5,
                **size,
            ),
            "TRACKS": lambda: self._node("GenerateTracks", num_frames=frames, **size),
            "AUDIO": lambda: graph.add("EmptyAudio", duration=0.1, sample_rate=44100, channels=2),
            "LORA_MODEL": lambda: graph.add("LoraAsObject", lora_name=family.lora(self._models)),
            "IC_LORA_PARAMETERS": lambda: self._node("GetICLoRAParameters"),
            "SIGMAS": lambda: self._sigmas,
            "SAMPLER": lambda: self._sampler or graph.add("KSamplerSelect", sampler_name=plan.sampler),
        }  # fmt: skip
        giver = givers.get(kind)
        return None if giver is None else giver()

    def _made(self, kind: str) -> list | None:
        """By the first node of a pack that gives this type."""
        for name, info in self._info.items():
            if kind in outputs_of(info) and kind not in {
                taken for taken, _, _ in inputs_of(info).values() if isinstance(taken, str)
            }:
                return self._node(name).out(outputs_of(info).index(kind))
        return None

    def _conditioning(self, node: str, key: str) -> list:
        """What the graph has so far, for the first such input of a node; another text for a further one."""
        if key.startswith("negative"):
            return self._negative if key in ("negative", "negative_A", "negative_NEW") else self._text(9)
        if key.startswith("empty"):
            return self._text(5)
        first = next(name for name, (kind, _, _) in inputs_of(self._info[node]).items() if kind == "CONDITIONING")
        return self._positive if key == first else self._text(self._chance.choice((7, 13)))

    def _text(self, tokens: int) -> Node:
        self._texts += 1
        return random_text(self._graph, self._family, self._texts, tokens)

    def _loaded(self, file: str) -> Node:
        options = {"unet_name": file, "weight_dtype": self._family.dtype}
        if self._ours and self._plan.kind == LOADER:
            return self._graph.add("XDiTLoader", **options, parallel_config=self._config)
        return self._graph.add("UNETLoader", **options)

    def _second_model(self) -> Node:
        return self._loaded(self._family.other(self._models))

    def _sampled(self) -> Node:
        plan = self._plan
        ours_stock = self._ours and plan.kind == STOCK
        return self._graph.sample(
            "XDiTSampler" if ours_stock else "KSampler", self._model, self._positive, self._full_latent(),
            negative=self._negative, seed=plan.number, steps=plan.steps, cfg=plan.cfg, sampler_name=plan.sampler,
            scheduler=plan.scheduler, **({"parallel_config": self._config} if ours_stock else {}),
        )  # fmt: skip

    def _sampled_custom(self) -> Node:
        plan, graph = self._plan, self._graph
        ours_stock = self._ours and plan.kind == STOCK
        if self._sampler is None:
            self._sampler = graph.add("KSamplerSelect", sampler_name=plan.sampler)
        options = {"sampler": self._sampler, "sigmas": self._sigmas, "latent_image": self._full_latent()}
        chance = random.Random(f"graphs {plan.number} sampler")
        if self._guider is None and not ours_stock and plan.kind == LOADER and chance.random() < 0.3:
            return graph.add(
                "SamplerCustom", model=self._model, add_noise=True, noise_seed=plan.number, cfg=plan.cfg,
                positive=self._positive, negative=self._negative, **options,
            )  # fmt: skip
        if self._guider is None and plan.cfg == 1.0:
            self._guider = graph.add("BasicGuider", model=self._model, conditioning=self._positive)
        elif self._guider is None:
            self._guider = graph.add(
                "CFGGuider", model=self._model, positive=self._positive, negative=self._negative, cfg=plan.cfg
            )
        noise = graph.add("RandomNoise", noise_seed=plan.number)
        config = {"parallel_config": self._config} if ours_stock else {}
        node = "XDiTSamplerAdvanced" if ours_stock else "SamplerCustomAdvanced"
        return graph.add(node, noise=noise, guider=self._guider, **options, **config)

    def _sampled_by_node(self, name: str) -> Node:
        self._chance = random.Random(f"graphs {self._plan.number} {name}")
        keys = [key for key, (kind, _, _) in inputs_of(self._info[name]).items() if kind == "LATENT"]
        return self._node(name, **{**dict.fromkeys(keys, self._full_latent()), **self._plan.values})

    def _full_latent(self) -> list:
        return with_sound(self._graph, self._plan.family, self._latent, self._plan.shape)
