"""How far a rank is with reading the weights of a request."""

from __future__ import annotations

from collections.abc import Iterable

from ...contract.reports import Reading
from .rank_patcher import RankModelPatcher


class RequestReading:
    """Of the models of `patchers` that are not resident when this is made, once they are placed. For any thread."""

    def __init__(self, request: int, patchers: Iterable[RankModelPatcher]):
        self._request = request
        every = dict.fromkeys(patcher.model.xdit_weights for patcher in patchers)
        self._weights = [weights for weights in every if not weights.resident]

    def __call__(self) -> Reading:
        read = sum(weights.read for weights in self._weights)
        return Reading(self._request, read, sum(weights.to_read for weights in self._weights))
