"""Writes prompts in ComfyUI's API format."""

from .tiny_models import FLUX_CONTEXT, FLUX_POOLED

DEGREES = ("ulysses", "ring", "cfg", "batch", "pipefusion")


def parallel_config_inputs(devices: str, **inputs) -> dict:
    """The inputs of Parallel Config as ComfyUI's page names them; see Graph.parallel_config."""
    named = {"strategy": "manual" if any(name in inputs for name in DEGREES) else "auto", **inputs}
    if named["strategy"] == "manual":
        named = {**dict.fromkeys(DEGREES, 1), **named}
        named["pipefusion"] = str(named["pipefusion"])  # a menu, which brings patches and warmup_steps
    prefixes = dict.fromkeys(DEGREES, "strategy.")
    prefixes |= dict.fromkeys(("patches", "warmup_steps"), "strategy.pipefusion.")
    others = {"devices": devices, "attention": "auto", "unsupported": "run on one device"}
    return others | {prefixes.get(name, "") + name: value for name, value in named.items()}


class Node(list):
    """A node in a Graph; used as an input value it is a link to the node's first output."""

    def out(self, index: int) -> list:
        """A link to output `index`."""
        return [self[0], index]

    @property
    def id(self) -> str:
        return self[0]


class Graph:
    """Nodes and links: graph.add("KSampler", model=loader, seed=1, …); `graph.prompt` is what the server takes."""

    def __init__(self):
        self.prompt: dict[str, dict] = {}

    def add(self, class_type: str, /, **inputs) -> Node:
        node = Node([str(len(self.prompt) + 1), 0])
        links = {name: list(value) if isinstance(value, list) else value for name, value in inputs.items()}
        self.prompt[node.id] = {"class_type": class_type, "inputs": links}
        return node

    def flux_conditioning(self, seed: int, tokens: int = 16, guidance: float = 3.5) -> Node:
        """Random conditioning of the tiny Flux's widths."""
        return self.add(
            "RandomConditioning",
            seed=seed,
            tokens=tokens,
            context_dim=FLUX_CONTEXT,
            pooled_dim=FLUX_POOLED,
            guidance=guidance,
        )

    def sample(self, sampler: str, model: list, positive: list, latent: list, **inputs) -> Node:
        """KSampler or a node with its inputs; 4 Euler steps of seed 7, cfg 1, `negative` the positive unless given."""
        defaults = {
            "seed": 7,
            "steps": 4,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
            "negative": positive,
        }
        return self.add(sampler, model=model, positive=positive, latent_image=latent, **{**defaults, **inputs})

    def sample_custom(self, sampler: str, model: list, positive: list, latent: list, **inputs) -> Node:
        """SamplerCustomAdvanced or a node with its inputs: basic guider; `seed`, `steps`, `sampler_name` as above.

        `noise`: in place of the seed's.
        """
        options = {"seed": 7, "steps": 4, "sampler_name": "euler", **inputs}
        seed = options.pop("seed")
        return self.add(
            sampler,
            noise=options.pop("noise", None) or self.add("RandomNoise", noise_seed=seed),
            guider=self.add("BasicGuider", model=model, conditioning=positive),
            sampler=self.add("KSamplerSelect", sampler_name=options.pop("sampler_name")),
            sigmas=self.add("BasicScheduler", model=model, scheduler="simple", steps=options.pop("steps"), denoise=1.0),
            latent_image=latent,
            **options,
        )

    def parallel_config(self, devices: str, **inputs) -> Node:
        """Parallel Config on `devices`; strategy manual as soon as a degree is given, the other degrees 1."""
        return self.add("XDiTParallelConfig", **parallel_config_inputs(devices, **inputs))

    def save(self, latent: list, prefix: str = "test/latent") -> Node:
        return self.add("SaveLatent", samples=latent, filename_prefix=prefix)
