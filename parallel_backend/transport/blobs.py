"""Tensors by content: each distinct run of bytes crosses to the ranks once, in shared memory, and never again.

The host hashes a tensor's bytes (BLAKE3), puts those the ranks do not hold into anonymous memory files (memfd, so the
size of /dev/shm does not matter) and passes their descriptors over each rank's channel. Ranks map them privately: one
physical copy for all of them. The memory of a file is free again once no rank holds any blob of it, so large requests
are spread over several files.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import blake3
import torch

from ..system.memory_file import new_memory_file

ALIGNMENT = 64
INLINE_LIMIT = 64 * 1024
KEEP_FOR_REQUESTS = 8
ARENA_BYTES, MOST_ARENAS = 64 * 1024 * 1024, 32  # each arena costs the host a descriptor for each rank


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of `tensor` in row-major order, as a flat uint8 tensor where it lies."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # torch calls any strides of a single element contiguous
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of `tensor` in row-major order, copied to the CPU first where they lie elsewhere."""
    return as_bytes(tensor.detach().to("cpu")).numpy().data


def digest(tensor: torch.Tensor) -> bytes:
    """BLAKE3 of the bytes of `tensor`, by all cores.

    It is computed for each request anew, also for weights: ComfyUI makes its tensors under inference_mode, where they
    have no version counter, and what is written through `.data` or numpy counts in none. Nothing but the bytes tells a
    LoRA that was scaled in place.
    """
    return blake3.blake3(tensor_bytes(tensor), max_threads=blake3.blake3.AUTO).digest()


@dataclass(frozen=True)
class Span:
    """Where a blob lies in an arena: bytes [offset, offset + size)."""

    digest: bytes
    offset: int
    size: int


@dataclass
class Arena:
    """New blobs of a request, all or some: `descriptor` is a memfd of `size` bytes holding `spans`."""

    descriptor: int
    size: int
    spans: list[Span]

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass
class BlobSender:
    """Host side: knows what the ranks of one process group hold.

    A blob not named for `KEEP_FOR_REQUESTS` requests in a row is forgotten on both sides. A model call of a request
    counts as one for what changes with each call, but not for weights.
    """

    _held: dict[bytes, tuple[int, bool]] = field(default_factory=dict)
    _requests: int = 0
    _calls: int = 0

    def batch(self, call: bool = False, between: Callable[[], None] = lambda: None) -> BlobBatch:
        """The blobs of a request, or of a `call` within one. `between` is called before each tensor is hashed or
        copied, which takes long for large ones; what it raises ends that.
        """
        self._calls += 1
        self._requests += not call
        return BlobBatch(self, between)

    def commit(self, used: dict[bytes, bool]) -> list[bytes]:
        """The ranks took a request that names `used` (digest → is a weight); returns what they may forget now."""
        for digest, weight in used.items():
            self._held[digest] = (self._requests if weight else self._calls, weight)
        stale = [
            digest
            for digest, (last, weight) in self._held.items()
            if last <= (self._requests if weight else self._calls) - KEEP_FOR_REQUESTS
        ]
        for digest in stale:
            del self._held[digest]
        return stale

    def holds(self, digest: bytes) -> bool:
        return digest in self._held


class BlobBatch:
    """The blobs one request names. `add` each, then `arenas()` hold those the ranks lack."""

    def __init__(self, sender: BlobSender, between: Callable[[], None]):
        self._sender = sender
        self._between = between
        self.used: dict[bytes, bool] = {}
        self._new: dict[bytes, torch.Tensor] = {}

    def add(self, tensor: torch.Tensor, stable: bool) -> bytes:
        """`stable`: a weight, which the ranks keep through model calls that do not name it."""
        self._between()
        key = digest(tensor)
        self.used[key] = stable or self.used.get(key, False)
        if not self._sender.holds(key):
            self._new.setdefault(key, tensor)
        return key

    def arenas(self) -> list[Arena]:
        """Memory files with the new blobs. The caller closes them. Raises OSError when memory is exhausted."""
        made: list[Arena] = []
        try:
            for part in self._parts():
                made.append(self._arena(part))
        except BaseException:
            for arena in made:
                arena.close()
            raise
        return made

    def _parts(self) -> list[list[Span]]:
        """Which blobs share a file, in the order in which they came: what belongs together stays together."""
        sizes = {digest: tensor.numel() * tensor.element_size() for digest, tensor in self._new.items()}
        limit = max(ARENA_BYTES, sum(sizes.values()) // MOST_ARENAS)
        parts: list[list[Span]] = []
        end = 0
        for digest, size in sizes.items():
            if not parts or end + size > limit:
                parts.append([])
                end = 0
            parts[-1].append(Span(digest, end, size))
            end += -(-size // ALIGNMENT) * ALIGNMENT
        return parts

    def _arena(self, spans: list[Span]) -> Arena:
        size = spans[-1].offset + spans[-1].size
        descriptor = new_memory_file("xdit-arena", size)
        try:
            with mmap.mmap(descriptor, size) as memory:
                for span in spans:
                    self._between()
                    memory[span.offset : span.offset + span.size] = tensor_bytes(self._new[span.digest])
        except BaseException:
            os.close(descriptor)
            raise
        return Arena(descriptor, size, spans)

    def commit(self) -> list[bytes]:
        return self._sender.commit(self.used)


class BlobCache:
    """Rank side: the blobs that arrived and were not forgotten, as flat uint8 CPU tensors (private, copy on write)."""

    def __init__(self):
        self._blobs: dict[bytes, torch.Tensor] = {}

    def add_arena(self, descriptor: int, size: int, spans: list[Span]) -> None:
        """Map an arena that came over the channel; takes ownership of `descriptor`."""
        try:
            memory = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)
        for span in spans:
            self._blobs[span.digest] = torch.frombuffer(memory, dtype=torch.uint8, count=span.size, offset=span.offset)

    def get(self, digest: bytes) -> torch.Tensor:
        return self._blobs[digest]

    def forget(self, digests: list[bytes]) -> None:
        for digest in digests:
            self._blobs.pop(digest, None)

    def __len__(self) -> int:
        return len(self._blobs)
