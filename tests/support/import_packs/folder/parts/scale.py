"""Refers back to the pack, which has to be there before."""

from .. import SCALES


class Scale:
    def __init__(self, name):
        self.value = SCALES[name]


class ScaledOutput:
    """An attn1 output patch: the model calls it."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, args):
        return {**args, "img": args["img"] * self.scale.value}
