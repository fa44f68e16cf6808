"""Plans that other node packs bring for their own architectures.

ComfyUI's process leads: the ranks follow what is registered there, which comes with every request, so both sides ask
the same plan whatever a rank has imported and in which order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ...system.printable_names import shown
from ..plan.plan import Plan
from ..plan.plan_check import check_plan


@dataclass(frozen=True)
class PackPlan:
    """A plan and the node pack that registered it."""

    plan: Plan
    pack: str


class Registry:
    """By class, as in Plan.model. `taken`: the classes that have a plan of this pack's own."""

    def __init__(self, taken: Collection[str]):
        self._taken = taken
        self._plans: dict[str, PackPlan] = {}
        self._led = False

    def add(self, plan: Plan, pack: str) -> None:
        """The same plan again is no change. Raises TypeError and ValueError as `check_plan`, ValueError where the class
        has another plan.
        """
        check_plan(plan)
        if plan.model in self._taken:
            raise ValueError(
                f"{plan.model} has a plan already, that of xDiT for ComfyUI: leave out register_plan for this class"
            )
        if self._led:
            return
        known = self._plans.setdefault(plan.model, PackPlan(plan, pack))
        if known.plan != plan:
            raise ValueError(
                f"{plan.model} has a plan already, that of the node pack {known.pack}, and the one of the node pack"
                f" {pack} is another: a class has one plan, so only one of the two packs may register it"
            )

    def get(self, model: str) -> PackPlan | None:
        return self._plans.get(model)

    def all(self) -> tuple[PackPlan, ...]:
        return tuple(self._plans.values())

    def follow(self, plans: Iterable[PackPlan]) -> frozenset[str]:
        """In a rank: `plans`, those of ComfyUI's process, and no others count from now on. Returns the classes whose
        plan is not the one that it was.
        """
        wanted = {one.plan.model: one for one in plans}
        changed = {name for name in wanted.keys() | self._plans.keys() if wanted.get(name) != self._plans.get(name)}
        if changed:  # else the plans stay the objects that they are
            self._plans = wanted
        self._led = True
        return frozenset(changed)


def pack_title(module: str) -> str:
    """The folder's or file's name of the node pack whose module this is: "/…/custom_nodes/pack.nodes" is "pack"."""
    return shown(module.rpartition("/")[2].partition(".")[0])
