"""Names as people may see them. A file's name may be any bytes; Python holds those that are no UTF-8 as lone
surrogates, which no console, file or web page takes.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with such bytes written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(name: str) -> str:
    """A name on one line: escapes also stand for line breaks and other control characters."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
