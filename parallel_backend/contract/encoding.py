"""How messages between ComfyUI's process and the ranks become bytes, and in which order they come.

Host → every rank, the same bytes: commands.py and `Probe`. Rank → host: reports.py and `Probed`.

One request: the host sends `Prepare`; every rank unpickles it, makes the model resident and answers `Prepared` (or
`Rejected`: the request was bad, the group is healthy). Only when all ranks echoed the same identity does the host send
`Go`, after which collectives start. `Discard` ends a prepared request that will not run. A `StepAnswer` follows a
`Step` where the request says so.

Beside requests, from threads of their own in each rank: `Heartbeat` once a second, more often while it loads, and
`Standing` as the answer to `Ask`, also while the main thread is inside a collective.
"""

from __future__ import annotations

import pickle
from typing import Any


def encode(message: Any) -> bytes:
    return pickle.dumps(message, protocol=5)


def decode(payload: bytes | bytearray) -> Any:
    return pickle.loads(payload)
