"""Rank processes that outlive ComfyUI's program: it may start itself anew in place (exec), as its managers do.

The process id stays, so the ranks of before are children still. They end with the threads that exec ends, but nobody
would wait for them, and each would stay in the process table. Who they are is handed on in the environment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

VARIABLE = "_XDIT_RANK_PROCESSES"  # ids and start times of this process's ranks

_lock = threading.Lock()


def started(pid: int) -> None:
    """A rank is a child of this process from now on."""
    _change(lambda known: known | {f"{pid}:{_start_time(pid)}"})


def waited_for(pid: int) -> None:
    """It was, and its end was waited for."""
    _change(lambda known: {one for one in known if not one.startswith(f"{pid}:")})


def wait_for_those_of_before() -> None:
    """Once, before any rank is started: wait in the background for the ranks of the program that was here before."""
    for one in sorted(_known()):
        pid, _, start_time = one.partition(":")
        threading.Thread(target=_wait, args=(int(pid), start_time), name=f"xdit-former-{pid}", daemon=True).start()
    os.environ.pop(VARIABLE, None)


def _wait(pid: int, start_time: str) -> None:
    if _start_time(pid) != start_time:
        return  # another process by now
    with contextlib.suppress(ChildProcessError):  # ComfyUI runs in a child of the process that had these ranks
        os.waitpid(pid, 0)
        logging.debug("xDiT: rank process %s from before the restart has ended", pid)


def _known() -> set[str]:
    return set(os.environ.get(VARIABLE, "").split())


def _change(how) -> None:
    with _lock:
        known = how(_known())
        if known:
            os.environ[VARIABLE] = " ".join(sorted(known))
        else:
            os.environ.pop(VARIABLE, None)


def _start_time(pid: int) -> str:
    """In the kernel's own unit; "" when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[19]
