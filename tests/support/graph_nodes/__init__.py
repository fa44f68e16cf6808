"""Test-only nodes that stand in for what no tiny file can give: encoders, VAEs of any shape, model patches."""

from . import conditions, models, tensors

NODE_CLASS_MAPPINGS = {**tensors.NODES, **conditions.NODES, **models.NODES}
