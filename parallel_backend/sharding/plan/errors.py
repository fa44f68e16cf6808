"""What sharding raises."""

OUTDATED = "this version of ComfyUI does not match the plan; update xDiT for ComfyUI"


class ShardingError(RuntimeError):
    """The model did not behave as its plan says; sampling on would give a wrong picture."""


class PlanMismatch(ShardingError):
    """The model has not what its plan names. `lacks` says what."""

    def __init__(self, lacks: str):
        super().__init__(f"{lacks}: {OUTDATED}")
        self.lacks = lacks
