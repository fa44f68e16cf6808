"""A call's arguments taken apart into tensors and a skeleton that JSON can hold, and put together in another rank."""

from __future__ import annotations

from typing import Any

import torch

TENSOR, TUPLE, DICT, OWN = "tensor", "tuple", "dict", "own"  # each the one key of a dict that stands for such a value
DEPTH = 8  # of containers in containers
PLAIN = (type(None), bool, int, float, str)


def take_apart(value: Any, tensors: list[torch.Tensor], depth: int = DEPTH) -> Any:
    """The skeleton of `value`; its tensors go into `tensors`. What is neither a tensor, nor plain, nor a container of
    those is left for each rank to fill in with its own.
    """
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        tensors.append(value)
        return {TENSOR: len(tensors) - 1}
    if isinstance(value, PLAIN):
        return value
    if depth and type(value) is list:
        return [take_apart(part, tensors, depth - 1) for part in value]
    if depth and type(value) is tuple:
        return {TUPLE: [take_apart(part, tensors, depth - 1) for part in value]}
    if depth and type(value) is dict and all(type(key) is str for key in value):
        return {DICT: {key: take_apart(part, tensors, depth - 1) for key, part in value.items()}}
    return {OWN: True}


def put_together(skeleton: Any, tensors: list[torch.Tensor], own: Any, in_place: bool = False) -> Any:
    """What was taken apart, with this rank's `own` value in the places of what did not travel. Where it has none, a
    dict goes without the key, and anything else holds None. `in_place`: dicts of `own` are changed and given back, as
    nodes keep what they remember in a call's options.
    """
    if isinstance(skeleton, list):
        return _parts(skeleton, tensors, own, in_place)
    if not isinstance(skeleton, dict):
        return skeleton
    if TENSOR in skeleton:
        return tensors[skeleton[TENSOR]]
    if TUPLE in skeleton:
        return tuple(_parts(skeleton[TUPLE], tensors, own, in_place))
    if OWN in skeleton:
        return own
    own = own if isinstance(own, dict) else {}
    found = {
        key: put_together(part, tensors, own.get(key), in_place)
        for key, part in skeleton[DICT].items()
        if part != {OWN: True} or key in own
    }
    if not in_place:
        return found
    own.clear()
    own.update(found)
    return own


def _parts(skeletons: list, tensors: list[torch.Tensor], own: Any, in_place: bool) -> list:
    own = list(own) if isinstance(own, list | tuple) else []
    own += [None] * (len(skeletons) - len(own))
    return [put_together(part, tensors, mine, in_place) for part, mine in zip(skeletons, own, strict=False)]
