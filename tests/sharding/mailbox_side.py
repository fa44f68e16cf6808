"""What a rank does to hand values over through mailboxes, in a circle of all ranks."""

from __future__ import annotations

import contextlib
import os
import random
import time
import zlib
from unittest import mock

import torch
import torch.distributed as dist

PLACE = 0
WIDTH = 8
TYPES = (torch.float32, torch.bfloat16, torch.float64)
ROUNDS = 3


class MailboxSide:
    """Answers ("hand over", calls of patches, failing step, ...), ("grow", sizes), ("too large",),
    ("ended early",) and ("ahead",).
    """

    @staticmethod
    def prepare() -> None:
        from xdit_comfyui.parallel_backend.sharding.transfer import mailboxes, stage_links  # noqa: F401

    def answer(self, verb: str, *arguments):
        from xdit_comfyui.parallel_backend.sharding.transfer.stage_links import new_pipe

        size = dist.get_world_size()
        self._pipe = new_pipe(size, 1, size, torch.device("cpu"))
        self._before, self._after = (self._pipe.before, self._pipe.after)
        verbs = {
            "hand over": self._hand_over,
            "grow": self._grow,
            "too large": self._too_large,
            "ended early": self._ended_early,
            "ahead": self._ahead,
        }
        return verbs[verb](*arguments)

    def _hand_over(self, calls: list[int], failing: str = "", smaller: bool = False):
        """Whether all that came is what was sent, through mailboxes or not, the notes, for each link, by the name of
        its process group, what this rank counted of it, and how many descriptors and mappings of memory files it has.

        `failing`: a step of setting up that fails in rank 1; `smaller`: after mailboxes for less were made and used.
        """
        notes = []
        if smaller:
            self._exact(4)
            self._pipe.mailboxes.agree(12, 3, notes.append)
            assert self._in_patches(2, 4)
        right = self._exact(400)
        with failing_step(failing) if dist.get_rank() == 1 else contextlib.nullcontext():
            self._pipe.mailboxes.agree(1200, 3, notes.append)
        self._pipe.mailboxes.agree(1200, 3, notes.append)  # for other conditions
        through = {way.mailbox is not None for way in (self._before, self._after)}
        right = right and all(self._in_patches(patches, 400) for patches in calls)
        return right, through, notes, self._counted(), self._left_open(), len(self._mapped())

    def _grow(self, sizes: list[int]):
        """For each size: the generation, whether values were right, and how much of memory files is mapped."""
        found = []
        for tokens in sizes:
            right = self._exact(tokens)
            self._pipe.mailboxes.agree(3 * tokens, 3, print)
            right = right and self._in_patches(2, tokens)
            found.append((self._pipe.mailboxes.generation, right, len(self._mapped())))
        return found, self._left_open()

    def _too_large(self):
        """What a hand-over larger than its slot raises at both ends, and what it left in the flags and counts."""
        from xdit_comfyui.parallel_backend.sharding.plan.errors import ShardingError

        self._exact(12)
        self._pipe.mailboxes.agree(36, 3, print)
        room = self._after.mailbox._data.numel() // 2
        messages = []
        for way, act in ((self._after, "put"), (self._before, "get")):
            try:
                getattr(way.mailbox, act)([torch.zeros(1, room + 1, 1, dtype=torch.uint8)], (1, 2))
            except ShardingError as error:
                messages.append(str(error))
        return messages, self._counted()

    def _ended_early(self) -> bool:
        """Whether values are right after a model call that no rank came further in than to be ready for some."""
        self._exact(12)
        self._pipe.mailboxes.agree(36, 3, print)
        self._before.post(PLACE, [(1, 5, WIDTH)] * len(TYPES), (0, 2))
        return self._in_patches(2, 12)

    def _ahead(self) -> bool:
        """Whether values are right where rank 0 sends as fast as it can and the others only take, slowly."""
        self._exact(12)
        self._pipe.mailboxes.agree(36, 3, print)
        right = True
        for turn in range(ROUNDS):
            for patch in range(2):
                if dist.get_rank() == 0:
                    self._after.send(of(0, 6, turn, patch), (patch, 2))
                elif dist.get_rank() == 1:
                    time.sleep(0.02)
                    self._before.post(PLACE, [tuple(value.shape) for value in of(0, 6, turn, patch)], (patch, 2))
                    right = self._arrived(6, turn, patch) and right
        return self._finish() and right

    def _exact(self, tokens: int) -> bool:
        values = of(dist.get_rank(), tokens, "exact")
        self._after.send(values, None)
        self._before.hear(PLACE, len(values))
        self._before.post(PLACE, [tuple(value.shape) for value in values], None)
        return self._arrived(tokens, "exact") and self._finish()

    def _in_patches(self, patches: int, tokens: int) -> bool:
        """As many times round as a model call has chunks; a slot is used again in each."""
        right = True
        for way in (self._before, self._after):
            way.begin()
        for turn in range(ROUNDS):
            for patch in range(patches):
                few = tokens // patches
                time.sleep(random.random() * 0.003)
                self._after.send(of(dist.get_rank(), few, turn, patch), (patch, patches))
                shapes = [tuple(value.shape) for value in of(0, few, turn, patch)]
                self._before.post(PLACE, shapes, (patch, patches))
                right = self._arrived(few, turn, patch) and right
        return self._finish() and right

    def _arrived(self, tokens: int, *which) -> bool:
        sender = (dist.get_rank() - 1) % dist.get_world_size()
        came, sent = self._before.take(), of(sender, tokens, *which)
        return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(came, sent, strict=True))

    def _finish(self) -> bool:
        self._after.finish()
        return True

    def _counted(self) -> dict[str, int]:
        from xdit_comfyui.parallel_backend.sharding.exchange import collective_counts

        groups = {way.group.group_name for way in (self._before, self._after)}
        begun = collective_counts.begun()
        return {name: count for name, count in begun.items() if name.partition(" mailbox")[0] in groups}

    def _left_open(self) -> int:
        links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
        return sum("xdit-mailbox" in link for link in links)

    def _mapped(self) -> list[str]:
        with open("/proc/self/maps") as maps:
            return [line for line in maps if "xdit-mailbox" in line]


def of(rank: int, tokens: int, *which) -> list[torch.Tensor]:
    """Values of several types, of which the last has no tokens in any patch but the first."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((rank, tokens, which)).encode()))
    lengths = (tokens, tokens, tokens if which[-1] in ("exact", 0) else 0)
    return [
        torch.randn(1, length, WIDTH, generator=generator).to(dtype)
        for length, dtype in zip(lengths, TYPES, strict=True)
    ]


def failing_step(name: str):
    """A step of setting up that fails in this rank while the context lasts; "" for none."""
    from xdit_comfyui.parallel_backend.sharding.transfer import mailboxes

    def no_memory(name, size):
        raise OSError("no memory")

    def closed_before(process, descriptor):
        return original(process, 10**6)  # what a descriptor is whose process has closed it

    def no_flags(*arguments):
        raise RuntimeError("cuStreamWaitValue32_v2 returned CUresult 801")

    original = mailboxes.memory_file_path
    if not name:
        return contextlib.nullcontext()
    step, stand_in = {
        "memory": ("new_memory_file", no_memory),
        "mapping": ("memory_file_path", closed_before),
        "flags": ("PolledValues", no_flags),
    }[name]
    return mock.patch.object(mailboxes, step, stand_in)
