"""One answer of every rank to one command of a request, and what the answers mean together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import comfy.model_management

from ...contract.commands import Cancel, Settle
from ...contract.reports import (
    Failed,
    Finished,
    Prepared,
    Rejected,
    Settled,
)
from ..base.errors import GroupError, OutOfMemory, RequestRefused
from .process_group import POLL_SECONDS, ProcessGroup
from .shortage import shortage

FAILURE_GRACE_SECONDS = 5.0  # for the other ranks to fail alike
CANCEL_GRACE_SECONDS = 0.5  # for the ranks to stop; after that ComfyUI goes on without them
ENDS = (Prepared, Rejected, Finished, Failed)


class Answers:
    """`ends`: rank → its answer. Other messages (steps) go to `on_message`."""

    def __init__(self, group: ProcessGroup, request: int, on_message: Callable[[int, Any], None] | None = None):
        self.ends: dict[int, Prepared | Rejected | Finished | Failed] = {}
        self.group = group
        self._request = request
        self._on_message = on_message
        self._failed_at: float | None = None

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Until every rank answered, or one failed and the others did not follow in time. `meanwhile` is called again
        and again; what it raises ends the wait.

        Raises GroupError; InterruptProcessingException when Cancel was pressed and the ranks did not stop at once.
        They then go on to their end in the background, as they do when `on_message` or `meanwhile` raises.
        """
        cancelled = False
        try:
            deadline = float("inf")
            while not self.complete():
                if not cancelled and comfy.model_management.processing_interrupted():
                    cancelled = True
                    self.group.send(Cancel(self._request))
                    deadline = time.monotonic() + CANCEL_GRACE_SECONDS
                if time.monotonic() > deadline:
                    comfy.model_management.interrupt_current_processing(False)
                    raise comfy.model_management.InterruptProcessingException()
                self.take()
                if not cancelled:
                    meanwhile()
        except GroupError:
            raise
        except BaseException:  # ComfyUI's progress bar raises too when Cancel was pressed
            if not cancelled:
                self.group.send(Cancel(self._request))
            self._on_message = None
            self.group.leftover = Leftover(self)
            raise

    def take(self) -> None:
        """The next message, or a moment without one."""
        got = self.group.receive(POLL_SECONDS)
        if got is None:
            return
        rank, message = got
        if getattr(message, "request", self._request) != self._request:
            return
        if isinstance(message, ENDS):
            self.ends[rank] = message
            if len(self.ends) == self.group.size:
                self.group.phase("idle")
        elif self._on_message is not None:
            self._on_message(rank, message)
        if isinstance(message, Failed) and self._failed_at is None:
            self._failed_at = time.monotonic()

    def complete(self) -> bool:
        if len(self.ends) == self.group.size:
            return True
        return self._failed_at is not None and time.monotonic() > self._failed_at + FAILURE_GRACE_SECONDS

    def raise_failure(self) -> None:
        """Raises the first failure: RequestRefused when the ranks are in step, GroupError when not, OutOfMemory."""
        failed = [end for end in self.ends.values() if isinstance(end, Failed)]
        if not failed:
            return
        first = min(failed, key=lambda end: end.error.at)
        where = self.group.name(first.rank)
        in_step = len(self.ends) == self.group.size and self._same_collectives() and self._settled()
        if first.error.out_of_memory:
            text = shortage(f"{where} while sampling", first.error.reason, self.group.memory())
            lost = None if in_step else self.group.lose(lambda: GroupError(text, first.rank))
            raise OutOfMemory(text, in_step) from lost
        if in_step:
            raise RequestRefused(f"sampling failed on {where}: {first.error.reason}\n{first.error.traceback}")
        raise self.group.lose(
            lambda: GroupError(
                f"sampling failed on {where} while the other ranks went on; the process group is replaced on the next"
                f" prompt. {first.error.reason}\n{first.error.traceback}",
                first.rank,
            )
        )

    def _same_collectives(self) -> bool:
        """Whether every rank has begun as many collectives as the others in each process group that they share."""
        seen: dict[str, int] = {}
        ends = [end for end in self.ends.values() if isinstance(end, Failed | Finished)]
        return all(seen.setdefault(group, count) == count for end in ends for group, count in end.collectives.items())

    def _settled(self) -> bool:
        """Whether every rank's device ends what it was given: what GPUs wait for beside collectives is not counted."""
        self.group.send(Settle(self._request))
        settled: set[int] = set()
        deadline = time.monotonic() + FAILURE_GRACE_SECONDS
        while len(settled) < self.group.size and time.monotonic() < deadline:
            got = self.group.receive(POLL_SECONDS)
            if got is not None and isinstance(got[1], Settled):
                settled.add(got[0])
        return len(settled) == self.group.size


class Leftover:
    """What a cancelled prompt left running in the ranks: waits for its end, so that the next prompt finds them ready.

    `done` is set when the group is idle again, or lost.
    """

    def __init__(self, answers: Answers):
        self.done = threading.Event()
        self._answers = answers
        threading.Thread(target=self._run, name="xdit-leftover", daemon=True).start()

    def _run(self) -> None:
        try:
            while not self._answers.complete():
                self._answers.take()
            self._answers.raise_failure()
        except GroupError as error:
            logging.warning("xDiT: after a cancelled prompt: %s", error)
        except (RequestRefused, OutOfMemory) as error:
            logging.debug("xDiT: after a cancelled prompt: %s", error)
        except BaseException as error:
            logging.exception("xDiT: after a cancelled prompt")
            text = f"what a cancelled prompt left could not be ended: {type(error).__name__}: {error}"
            self._answers.group.lose(lambda: GroupError(text))
        finally:
            self.done.set()
