"""What a server and its ranks hold of the machine."""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from comfy_host.instance import ComfyInstance

from ..ranks import rank_pids

MIB = 1024 * 1024
ALLOWED_GROWTH = 0.1
ALLOWED_MIB = 64
ALLOWED_COUNT = 4
COUNTS = ("host_descriptors", "rank_descriptors", "processes")


@dataclass(frozen=True)
class Resources:
    """Memory in MiB; of the ranks, the largest one's, but `shared_mib` and `processes` are of all together."""

    host_mib: int
    host_descriptors: int
    rank_mib: int
    rank_descriptors: int
    shared_mib: int
    processes: int

    @classmethod
    def of(cls, comfy: ComfyInstance) -> "Resources":
        ranks = rank_pids(comfy)
        return cls(
            _status(comfy.pid, "RssAnon"),
            _descriptors(comfy.pid),
            max((_status(pid, "RssAnon") for pid in ranks), default=0),
            max((_descriptors(pid) for pid in ranks), default=0),
            sum(_status(pid, "RssShmem") for pid in (comfy.pid, *ranks)),
            len(comfy.processes()),
        )


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 // MIB for line in lines if line.startswith(f"{name}:"))


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def summary(seen: list[Resources]) -> dict[str, tuple[float, float]]:
    """For each resource its median in the first and in the last third of what was seen."""
    third = max(1, len(seen) // 3)
    first, last = [asdict(one) for one in seen[:third]], [asdict(one) for one in seen[-third:]]
    return {
        name: tuple(statistics.median(one[name] for one in part) for part in (first, last)) for name in asdict(seen[0])
    }


def growth(seen: list[Resources]) -> list[str]:
    """Every resource that grew more than noise does."""
    found = []
    for name, (first, last) in summary(seen).items():
        allowed = ALLOWED_COUNT if name in COUNTS else max(ALLOWED_MIB, ALLOWED_GROWTH * first)
        if last - first > allowed:
            found.append(f"{name} grew from {first:g} to {last:g}")
    return found
