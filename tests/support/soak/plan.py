"""What the soak does, prompt by prompt: made from a seed, so that a part can go on where another one stopped."""

import random
from dataclasses import dataclass

FAMILIES = ("flux", "sd3", "sdxl")
SEEDS = (1, 2, 3)
CANCELLED = 0.15  # of all prompts
LATEST_S = 0.8  # after a prompt is queued, that something is done to it


@dataclass(frozen=True)
class Step:
    """One prompt. `action`: "", "cancel" or "kill" (of one rank, as `victim` says) so many seconds after queueing."""

    number: int
    family: str
    seed: int
    action: str = ""
    after: float = 0.0
    victim: int = 0


def make_plan(prompts: int, kills: int, seed: int) -> list[Step]:
    """`prompts` steps with `kills` among them. The first and the last are left in peace."""
    chance = random.Random(seed)
    killed = set(chance.sample(range(1, prompts - 1), kills))
    steps = []
    for number in range(prompts):
        family, image = chance.choice(FAMILIES), chance.choice(SEEDS)
        cancelled, after, victim = chance.random() < CANCELLED, chance.uniform(0, LATEST_S), chance.randrange(2)
        action = "kill" if number in killed else "cancel" if cancelled and 0 < number < prompts - 1 else ""
        steps.append(Step(number, family, image, action, after if action else 0.0, victim))
    return steps
