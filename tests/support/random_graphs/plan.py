"""A graph for each number: always the same, so that one can be run again alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

from .catalogue import AFTER, COMPILING, FITS, drawn, families_for, role_of
from .families import FAMILIES, MAIN, Shape

SAMPLERS = (
    "euler", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral", "lcm", "uni_pc", "res_multistep",
    "dpm_2_ancestral", "euler_cfg_pp", "er_sde", "sa_solver", "dpmpp_3m_sde",
)  # fmt: skip
SCHEDULERS = ("simple", "normal", "sgm_uniform", "beta")
# Drawn as a graph's first node only: many merge weights, which the MODEL of xDiT Loader has not, and one compiles.
MERGING = {name for name in FITS if name.startswith("ModelMerge")}
FIRST = {*MERGING, *COMPILING}
LOADER, STOCK = "loader", "stock"  # XDiTLoader's MODEL; UNETLoader's, given to an xDiT sampler
CUSTOM_ROLES = {"guider", "sampler", "sigmas"}

# Degrees on so many ranks, how often; {}: auto.
DEGREES: dict[int, tuple[tuple[dict[str, int], float], ...]] = {
    2: (({"ulysses": 2}, 6), ({"ring": 2}, 3), ({"cfg": 2}, 5), ({"batch": 2}, 2), ({"pipefusion": 2}, 1), ({}, 3)),
    3: (({"ulysses": 3}, 1), ({"ring": 3}, 1)),
    4: (
        ({"ulysses": 2, "cfg": 2}, 3),
        ({"ulysses": 2, "ring": 2}, 1),
        ({"cfg": 2, "batch": 2}, 1),
        ({"ulysses": 2, "batch": 2}, 1),
        ({"ulysses": 4}, 1),
        ({}, 1),
    ),
}
RANKS = (2, 2, 2, 2, 2, 2, 2, 3, 4, 4)
FEW_HEADS = {"flux": 2, "flux2": 2, "hunyuan video": 2}


@dataclass(frozen=True)
class Plan:
    """`parts`: node classes between loader and sampler, in this order. `samples`: the node that samples, None for the
    usual ones. `config`: further inputs of Parallel Config. `values`: of inputs of any node in `parts`, by name.
    `given`: a whole graph in ComfyUI's API format, in place of what the others say.
    """

    number: int
    family: str
    kind: str
    ranks: int
    degrees: dict[str, int]
    config: dict[str, Any]
    parts: tuple[str, ...]
    samples: str | None
    custom: bool
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    shape: Shape
    tokens: tuple[int, int]
    values: dict[str, Any] = field(default_factory=dict)
    given: dict[str, dict] = field(default_factory=dict)


def plan(number: int, object_info: dict[str, Any]) -> Plan:
    chance = random.Random(f"graphs {number}")
    names = drawn(object_info)
    first = names[number % len(names)]
    family = _family(first, chance)
    parts = [first] if chance.random() < 0.97 or number < len(names) else []
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3)) if parts else 0):
        parts.append(chance.choice([name for name in names if family in families_for(name) and name not in FIRST]))
    parts = [part for name in parts for part in ((AFTER[name], name) if name in AFTER else (name,))]
    parts = _compatible(parts, object_info)
    roles = {role_of(object_info[name]) for name in parts}
    samples = next((name for name in parts if role_of(object_info[name]) == "samples"), None)
    custom = bool(roles & {*CUSTOM_ROLES, "latent"}) or chance.random() < 0.25
    ranks = chance.choice(RANKS)
    degrees = _degrees(family, ranks, chance)
    cfg = 1.0 if chance.random() < 0.3 and "cfg" not in degrees else chance.choice((2.5, 4.0))
    kind = LOADER if samples else chance.choice((LOADER, STOCK, STOCK) if set(parts) & MERGING else (LOADER, STOCK))
    step, most = FAMILIES[family].size
    return Plan(
        number=number,
        family=family,
        kind=kind,
        ranks=ranks,
        degrees=degrees,
        config=_config(family, degrees, chance),
        parts=tuple(name for name in parts if name != samples),
        samples=samples,
        custom=custom,
        steps=3
        if "OptimalStepsScheduler" in parts
        else chance.choice((2, 3, 4) if FAMILIES[family].tokens else (2, 3)),
        cfg=cfg,
        sampler=chance.choice(SAMPLERS),
        scheduler=chance.choice(SCHEDULERS),
        shape=Shape(
            width=step * chance.randint(max(2, -(-64 // step)), max(most, -(-64 // step))),
            height=step * chance.randint(max(2, -(-64 // step)), max(most, -(-64 // step))),
            length=chance.choice((2, 3)) if FAMILIES[family].video else 1,
            batch=2 if "batch" in degrees else chance.choice((1, 1, 1, 2)),
        ),
        tokens=(chance.randint(4, 24), chance.randint(4, 24)),
    )


def _family(first: str, chance: random.Random) -> str:
    fitting = families_for(first)
    (family,) = chance.choices(fitting, [FAMILIES[name].weight or 1 for name in fitting])
    return family


def _compatible(parts: list[str], object_info: dict[str, Any]) -> list[str]:
    """At most one that samples and one of each source; one that samples leaves no custom sampler, sigmas or guider."""
    kept: list[str] = []
    for name in parts:
        role = role_of(object_info[name])
        roles = {role_of(object_info[other]) for other in kept}
        if role == "samples" and roles & {*CUSTOM_ROLES, "latent", "samples"}:
            continue
        if role in {*CUSTOM_ROLES, "latent"} and (
            "samples" in roles or (role in ("guider", "sampler") and role in roles)
        ):
            continue
        if name not in kept:
            kept.append(name)
    return kept


def _degrees(family: str, ranks: int, chance: random.Random) -> dict[str, int]:
    """Degrees that this family has: others are refused for reasons that other tests show."""
    able = []
    for degrees, weight in DEGREES[ranks]:
        tokens = math.prod(degrees.get(name, 1) for name in ("ulysses", "ring"))
        if tokens > 1 and not FAMILIES[family].tokens:
            continue
        if degrees.get("ulysses", 1) > FEW_HEADS.get(family, 4):
            continue
        if "pipefusion" in degrees and not FAMILIES[family].pipefusion:
            continue
        able.append((degrees, weight))
    if not able:  # a UNet on three ranks
        return {}
    (found,) = chance.choices([degrees for degrees, _ in able], [weight for _, weight in able])
    return dict(found)


def _config(family: str, degrees: dict[str, int], chance: random.Random) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if "pipefusion" in degrees:
        config["warmup_steps"] = 64  # so that every step is exact
    elif chance.random() < 0.1 and FAMILIES[family].tokens:
        config["weights"] = "shard"
    if chance.random() < 0.02 and "pipefusion" not in degrees:
        config["compile"] = "on"
    return config


def by_ranks(numbers: list[int], object_info: dict[str, Any]) -> list[Plan]:
    """In an order in which ranks are started anew as seldom as possible."""
    return sorted((plan(number, object_info) for number in numbers), key=lambda one: (one.ranks, one.number))


assert set(MAIN) <= set(FAMILIES)
