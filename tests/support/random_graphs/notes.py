"""What the console says about a run, and whether it says that something was not divided."""

from __future__ import annotations

MARK = "xDiT: "
NOT_DIVIDED = (
    "runs unsharded",
    "evaluates all",
    "stays in ComfyUI",
    "run them whole",
    "runs them whole",
    "undivided",
    "not divided",
    "on one device",
    "whole",
    "nothing is divided",
    "one device (",
)
USUAL = ("ready after", "read ", "waiting for", "dropped: ComfyUI wants", "MiB", "idle for", "left out")


def notes_in(log: str) -> list[str]:
    """The lines of ours in a piece of the console, each once, without those of every run."""
    lines = [line.partition(MARK)[2].strip() for line in log.splitlines() if MARK in line]
    return list(dict.fromkeys(line[:300] for line in lines if line and not line.startswith(USUAL)))


def undivided(notes: list[str]) -> bool:
    return any(text in note for note in notes for text in NOT_DIVIDED)
