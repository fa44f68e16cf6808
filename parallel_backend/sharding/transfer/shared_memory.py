"""Host memory that two ranks map: a memory file (memfd), which ends with the last of them."""

from __future__ import annotations

import ctypes

import torch

from .cuda_driver import driver_call

PORTABLE_MAPPED = 1 | 2  # CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP


def memory_file_path(process: int, descriptor: int) -> str:
    """Where other processes of the same user find it, while that process has it open."""
    return f"/proc/{process}/fd/{descriptor}"


class Arena:
    """A mapping of the memory file at `path`, which may be closed then. `memory`: its bytes.

    Raises RuntimeError when it cannot be mapped.
    """

    def __init__(self, path: str, size: int):
        self.memory = torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
        self._pinned = False

    @property
    def address(self) -> int:
        return self.memory.data_ptr()

    def pin(self) -> None:
        """Let the GPU's copy engines reach it; torch then takes it as pinned. Raises RuntimeError."""
        size = ctypes.c_size_t(self.memory.nbytes)
        driver_call("cuMemHostRegister_v2", ctypes.c_void_p(self.address), size, ctypes.c_uint(PORTABLE_MAPPED))
        self._pinned = True

    def unpin(self) -> None:
        """Before the last reference is dropped, which ends the mapping; no stream may use it any more."""
        if self._pinned:
            driver_call("cuMemHostUnregister", ctypes.c_void_p(self.address))
            self._pinned = False
