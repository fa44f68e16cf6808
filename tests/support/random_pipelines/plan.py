"""A configuration of PipeFusion for each number: always the same, so that one can be run again alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

SAMPLERS = {
    "first order": ("euler", "lcm", "ddim", "ddpm", "ipndm"),
    "multistep": ("lms", "dpmpp_2m", "deis", "res_multistep", "gradient_estimation", "uni_pc", "uni_pc_bh2"),
    "second order": ("heun", "heunpp2", "dpm_2", "exp_heun_2_x0", "dpm_fast", "sa_solver_pece"),
    "ancestral": ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "res_multistep_ancestral"),
    "SDE": ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "seeds_2", "seeds_3", "sa_solver"),
    "CFG++": ("euler_cfg_pp", "dpmpp_2m_cfg_pp", "euler_ancestral_cfg_pp"),
}
KIND_OF = {sampler: kind for kind, samplers in SAMPLERS.items() for sampler in samplers}
SCHEDULERS = ("simple", "normal", "karras", "sgm_uniform")
BLOCKS = {"flux": 5, "flux2": 4, "sd3": 4, "sd3.5 medium": 4, "wan": 3}
WITH_LORA = ("flux", "sd3", "wan")
# Degrees on so many ranks; the last, of 4 ranks, cannot be had and is rare.
DEGREES = {
    2: ({"pipefusion": 2},),
    3: ({"pipefusion": 3},),
    4: (
        {"pipefusion": 4},
        {"pipefusion": 2, "ulysses": 2},
        {"pipefusion": 2, "cfg": 2},
        {"pipefusion": 2, "batch": 2},
        {"pipefusion": 2, "ring": 2},
    ),
}
WEIGHTS_OF_DEGREES = (4, 6, 5, 3, 1)
STEPS_TO_CANCEL = 24


@dataclass(frozen=True)
class Configuration:
    """One prompt. `cancel_at`: the step after which it is cancelled, 0 for before the first, None for never;
    `cancel_after`: seconds to wait then. `repeat`: whether it is run twice. Sizes in pixels.
    """

    number: int
    family: str
    degrees: dict[str, int]
    patches: int
    warmup: int
    steps: int
    sampler: str
    scheduler: str
    cfg: float
    size: tuple[int, int]
    frames: int
    batch: int
    tokens: tuple[int, int]
    lora: bool
    cancel_at: int | None
    cancel_after: float
    repeat: bool

    @property
    def ranks(self) -> int:
        return math.prod(self.degrees.values())

    @property
    def refusal(self) -> str:
        """A pattern of the error that this configuration must give, or ""."""
        stages, blocks = self.degrees["pipefusion"], BLOCKS[self.family]
        if "ring" in self.degrees:
            return "PipeFusion keeps the keys of the whole sequence on a device, which a ring divides"
        if stages > blocks:
            return f"pipefusion {stages} needs {stages} blocks, .* has {blocks}; set pipefusion to {blocks} at most"
        if self.degrees.get("batch", 1) > self.batch:
            return "batch degree 2, but the latent holds 1 image; set batch to 1 at most"
        if "cfg" in self.degrees and self.cfg == 1.0:
            return r"cfg degree 2, but this sampler evaluates 1 condition\(s\) per step; set cfg to 1 at most"
        return ""

    @property
    def exact(self) -> bool:
        """Whether the latent must be that of one device: everything is warm-up, or nothing is divided into patches."""
        return self.warmup >= self.steps or self.patches == 1 or (self.steps == 1 and KIND_OF[self.sampler] in FIRST)


FIRST = ("first order", "multistep")  # one evaluation in a run of one step


def configuration(number: int) -> Configuration:
    chance = random.Random(f"pipelines {number}")
    ranks = chance.choice((2, 3, 4, 4))
    degrees = DEGREES[ranks]
    (chosen,) = chance.choices(degrees, WEIGHTS_OF_DEGREES[: len(degrees)])
    family = chance.choice(tuple(BLOCKS))
    cancel_at = chance.choice((0, *range(1, STEPS_TO_CANCEL // 2))) if chance.random() < 0.2 else None
    steps = STEPS_TO_CANCEL if cancel_at is not None else chance.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    return Configuration(
        number=number,
        family=family,
        degrees=chosen,
        patches=chance.randint(0, 16),
        warmup=chance.randint(0, min(steps, 6)),
        steps=steps,
        sampler=chance.choice(SAMPLERS[chance.choice(tuple(SAMPLERS))]),
        scheduler=chance.choice(SCHEDULERS),
        cfg=chance.choice((1.0, 3.0, 3.0)),
        size=(chance.randint(4, 14) * 8, chance.randint(4, 14) * 8),
        frames=chance.choice((1, 5, 9)) if family == "wan" else 1,
        batch=chance.choice((1, 1, 2)),
        tokens=(chance.randint(1, 40), chance.randint(1, 40)),
        lora=family in WITH_LORA and chance.random() < 0.3,
        cancel_at=cancel_at,
        cancel_after=chance.uniform(0, 0.5) if cancel_at == 0 else chance.uniform(0, 0.05),
        repeat=cancel_at is None and chance.random() < 0.2,
    )


def by_ranks(count: int) -> list[Configuration]:
    """The configurations from 0 on, in an order in which ranks are started anew as seldom as possible."""
    return sorted((configuration(number) for number in range(count)), key=lambda one: (one.ranks, one.number))
