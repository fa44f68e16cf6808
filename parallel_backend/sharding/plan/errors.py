"""What sharding raises."""


class ShardingError(RuntimeError):
    """The model did not behave as its plan says; sampling on would give a wrong picture."""
