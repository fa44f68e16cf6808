"""How far the ranks are with reading weights, shown on the node that waits for them, and told in the console."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.utils

from ...contract.reports import Prepared
from ..group.replies import Answers
from ..group.shortage import GIB


class LoadingBar:
    """ComfyUI's progress bar of the node that runs, while its ranks read the weights for `request`.

    It stands for the rank that is furthest behind, as the wait ends with that one. It moves with the ranks'
    heartbeats, so what was read before the first of them shows no bar. `steps`: what the bar is for afterwards;
    `moved` is called with each share (0 to 1) that it shows.
    """

    def __init__(self, answers: Answers, request: int, steps: int, moved: Callable[[float], None] = lambda share: None):
        self._answers = answers
        self._request = request
        self._steps = steps
        self._moved = moved
        self._bar: comfy.utils.ProgressBar | None = None
        self._shown: float | None = None

    def look(self) -> None:
        """Move the bar. Raises InterruptProcessingException when Cancel was pressed."""
        group = self._answers.group
        waiting = [group.reading(rank) for rank in range(group.size) if rank not in self._answers.ends]
        reading = [one for one in waiting if one is not None and one.request == self._request and one.of]
        if not reading or len(reading) < len(waiting):
            return  # a rank has not come that far
        slowest = min(reading, key=lambda one: one.read / one.of)
        share = slowest.read / slowest.of
        if share == self._shown:
            return
        self._shown = share
        self._moved(share)
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(slowest.of)
        self._bar.update_absolute(int(share * self._bar.total))

    def end(self) -> None:
        """All ranks are ready: the bar goes back to the first step."""
        if self._bar is not None:
            comfy.utils.ProgressBar(self._steps).update_absolute(0)


def what_was_read(answers: Answers, began: float) -> str:
    """What the console says of the weights that ranks read from `began` (time.monotonic()) on; "" of none."""
    read = [end.read for end in answers.ends.values() if isinstance(end, Prepared)]
    return f"{max(read) / GIB:.3g} GiB of weights per rank in {time.monotonic() - began:.1f} s" if any(read) else ""
