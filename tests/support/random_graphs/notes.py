"""What the console says about a run, and whether it says that something was not divided."""

from __future__ import annotations

import re

MARK = "xDiT: "
FOLDERS = re.compile(r"/(?:[\w.+-]+/)+(?=[\w.+-])")  # up to a file: where it lies on the machine that ran it
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


def without_folders(text: str) -> str:
    """Files by their names alone: records say nothing about a machine."""
    return FOLDERS.sub("…/", text)


def notes_in(log: str) -> list[str]:
    """The lines of ours in a piece of the console, each once, without those of every run."""
    lines = [line.partition(MARK)[2].strip() for line in log.splitlines() if MARK in line]
    return list(dict.fromkeys(without_folders(line)[:300] for line in lines if line and not line.startswith(USUAL)))


def undivided(notes: list[str]) -> bool:
    return any(text in note for note in notes for text in NOT_DIVIDED)
