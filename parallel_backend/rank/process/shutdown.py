"""The end of a rank that was asked to end: its process groups first, as torch wants it, but only for so long."""

from __future__ import annotations

import logging
import os
import threading

import torch.distributed as dist

LEAVE_SECONDS = 3.0  # less than the host waits before it ends a rank by force


def leave() -> None:
    """End torch's process groups. NCCL may wait for what a GPU never finishes; then the process ends as it is."""
    ending = threading.Thread(target=dist.destroy_process_group, name="xdit-leave", daemon=True)
    ending.start()
    ending.join(LEAVE_SECONDS)
    if not ending.is_alive():
        logging.info("left the process groups")
        return
    logging.warning("the process groups did not end within %g s; the process ends without them", LEAVE_SECONDS)
    logging.shutdown()
    os._exit(0)
