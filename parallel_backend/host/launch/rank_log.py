"""What a rank prints: the last lines kept for error messages, all of it in a file where one can be written."""

from __future__ import annotations

import collections
import logging
import os
import threading
from pathlib import Path
from typing import BinaryIO

import folder_paths

from ...system.file_lock import locked

KEPT_LINES = 200
CLOSE_SECONDS = 1.0
MAX_FILES = 64


class RankLog:
    """Reads the pipe `source` (owned from here on) until its end. A log that cannot be written costs one warning."""

    def __init__(self, source: int, rank: int):
        self._rank = rank
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._file: BinaryIO | None = None
        self.path: Path | None = None
        try:
            self.path, self._file = _open(rank)
        except OSError as error:
            self._give_up(error)
        self._thread = threading.Thread(target=self._read, args=(source,), name=f"xdit-log-{rank}", daemon=True)
        self._thread.start()

    def _read(self, source: int) -> None:
        with open(source, "rb") as lines:
            for line in lines:
                self._lines.append(line.decode(errors="replace").rstrip("\n"))
                self._write(line)

    def _write(self, line: bytes) -> None:
        file = self._file
        if file is None:
            return
        try:
            file.write(line)
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            if self._file is not None:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._file, self.path = None, None
        logging.warning("xDiT: no log file for rank %s (%s); sampling goes on without it", self._rank, error)

    def tail(self, lines: int = 12) -> str:
        return "\n".join(list(self._lines)[-lines:])

    def close(self) -> None:
        """Take what an ended rank has printed so far, then let go of the file."""
        self._thread.join(CLOSE_SECONDS)
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __str__(self) -> str:
        return str(self.path) if self.path else "its log"


def _open(rank: int) -> tuple[Path, BinaryIO]:
    """The first of rank0.log, rank0.2.log, … that no other ComfyUI writes to; what it held goes to ….previous.log."""
    directory = Path(folder_paths.get_user_directory()) / "xdit"
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(1, MAX_FILES + 1):
        stem = f"rank{rank}" if number == 1 else f"rank{rank}.{number}"
        path = directory / f"{stem}.log"
        file = _open_alone(path)
        if file is None:
            continue
        if not os.fstat(file.fileno()).st_size:
            return path, file
        os.replace(path, directory / f"{stem}.previous.log")
        file.close()
        file = _open_alone(path)
        if file is not None:
            return path, file
    raise OSError(f"{directory} holds {MAX_FILES} logs of rank {rank} that are in use")


def _open_alone(path: Path) -> BinaryIO | None:
    """The file, locked for as long as it is open; None while another process holds it."""
    file = open(path, "ab", buffering=0)
    try:
        if locked(file):
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None
