"""Damaged copies of a safetensors file."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LENGTH_BYTES = 8


def truncated(source: Path, target: Path, share: float) -> None:
    """The first `share` (0 to 1) of the file."""
    size = int(source.stat().st_size * share)
    with open(source, "rb") as file:
        target.write_bytes(file.read(size))


def garbage(target: Path, content: bytes) -> None:
    target.write_bytes(content)


def with_header_bytes(source: Path, target: Path, at: float, new: bytes) -> None:
    """`new` over the header's bytes from `at` (0 to 1 of its length) on."""
    content = bytearray(source.read_bytes())
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + int(at * (length - len(new)))
    content[start : start + len(new)] = new
    target.write_bytes(content)


def with_length(source: Path, target: Path, length: int) -> None:
    """Another header length than the header's."""
    content = source.read_bytes()
    target.write_bytes(length.to_bytes(LENGTH_BYTES, "little") + content[LENGTH_BYTES:])


def with_header(source: Path, target: Path, change) -> None:
    """The header as `change` leaves it: a dict of name → {dtype, shape, data_offsets}."""
    content = source.read_bytes()
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])
    change(header)
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + content[LENGTH_BYTES + length :])


def with_tensors(source: Path, target: Path, change) -> None:
    """The tensors as `change` leaves them: a dict of name → tensor."""
    tensors = load_file(source)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)


def with_nan(tensors: dict[str, torch.Tensor], place: int) -> str:
    """NaN in one weight, chosen by `place`. Gives its name."""
    name = sorted(tensors)[place % len(tensors)]
    tensors[name].view(-1)[0] = torch.nan
    return name
