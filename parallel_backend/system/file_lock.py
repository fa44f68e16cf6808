"""Locks on open files: they end with the file, or with the process that holds it."""

from typing import IO


def locked(file: IO) -> bool:
    """Lock `file` for as long as it is open, unless another process or another open file has it locked: then False.

    Raises OSError where its file system knows no locks.
    """
    import fcntl  # not on Windows, where nothing is locked, as nothing runs

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
