"""What can be seen of a server's ranks from outside: their processes and their logs."""

from comfy_host.instance import ComfyInstance

BOOTSTRAP = "parallel_backend/rank/bootstrap.py"


def rank_pids(comfy: ComfyInstance) -> set[int]:
    """The process ids of the ranks that this server runs."""
    return {pid for pid, command in comfy.processes().items() if BOOTSTRAP in command}


def weight_reads(comfy: ComfyInstance, rank: int = 0) -> list[str]:
    """The files whose weights this rank read since it was started, in order."""
    log = (comfy.base / "user" / "xdit" / f"rank{rank}.log").read_text(errors="replace")
    marker = "reading the weights of "
    return [line.partition(marker)[2].strip() for line in log.splitlines() if marker in line]
