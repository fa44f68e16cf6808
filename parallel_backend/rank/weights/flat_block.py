"""The parameters of one block laid one after the other as bytes, of which each of several ranks keeps an equal cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...loading.parameter_source import Stored, as_parameter, inner_tensors, with_inner

ALIGNMENT = 256  # bytes; every tensor starts at a multiple, so that kernels may read it in their widest steps


class LayoutChanged(ValueError):
    """A patched parameter does not fit where the one from the file lies."""


@dataclass(frozen=True)
class Part:
    """Where one plain tensor lies in the unit: its first byte and its length."""

    start: int
    nbytes: int
    dtype: torch.dtype
    shape: torch.Size


class Unit:
    """`stored`: the parameters of `module`. `size`: bytes of the whole, padded; `share`: bytes of each of `count` cuts.

    A cut is a uint8 tensor [share], a buffer for the whole a uint8 tensor [size or more]. Cut `index` is this rank's.
    """

    def __init__(self, module: torch.nn.Module, stored: list[Stored], index: int, count: int):
        self.module = module
        self.stored = stored
        self._index = index
        self._parts: dict[str, list[Part]] = {}
        end = 0
        for one in stored:
            self._parts[one.name] = parts = []
            for inner in inner_tensors(one.source):
                dtype = one.dtype(inner)
                parts.append(Part(end, inner.numel() * dtype.itemsize, dtype, inner.shape))
                end = _aligned(end + parts[-1].nbytes)
        self.share = _aligned(-(-end // count))
        self.size = self.share * count

    @property
    def own(self) -> slice:
        """Where this rank's cut lies in the whole."""
        return slice(self._index * self.share, (self._index + 1) * self.share)

    def read(self, cut: torch.Tensor, one: Stored, device: torch.device) -> None:
        """This rank's bytes of a parameter from its file; of others no page is touched. `device` casts."""
        for part, inner in zip(self._parts[one.name], inner_tensors(one.source), strict=True):
            self._put(cut, part, inner, device)

    def write(self, cut: torch.Tensor, one: Stored, tensor: torch.Tensor) -> None:
        """This rank's bytes of a parameter from a whole one. Raises LayoutChanged."""
        inner = inner_tensors(tensor)
        parts = self._parts[one.name]
        if [(value.dtype, value.numel()) for value in inner] != [(part.dtype, part.shape.numel()) for part in parts]:
            raise LayoutChanged(
                f"{one.name} takes another form with this LoRA, so it cannot be divided over devices: set weights to"
                " replicate"
            )
        for part, value in zip(parts, inner, strict=True):
            self._put(cut, part, value, value.device)

    def owns(self, one: Stored) -> bool:
        """Whether any byte of a parameter lies in this rank's cut."""
        return any(self._span(part) is not None for part in self._parts[one.name])

    def views(self, buffer: torch.Tensor) -> list[tuple[Stored, torch.nn.Parameter]]:
        """The parameters as views of `buffer`, which holds the whole."""
        return [(one, self._seen_in(buffer, one)) for one in self.stored]

    def _seen_in(self, buffer: torch.Tensor, one: Stored) -> torch.nn.Parameter:
        parts = iter(self._parts[one.name])
        return as_parameter(with_inner(one.source, lambda _: _view(buffer, next(parts))))

    def _span(self, part: Part) -> tuple[int, int] | None:
        """The bytes of this rank's cut in the unit that belong to `part`."""
        first, last = max(part.start, self.own.start), min(part.start + part.nbytes, self.own.stop)
        return (first, last) if first < last else None

    def _put(self, cut: torch.Tensor, part: Part, tensor: torch.Tensor, device: torch.device) -> None:
        span = self._span(part)
        if span is None:
            return
        size = part.dtype.itemsize
        first, last = ((place - part.start) // size for place in span)  # cuts lie at multiples of ALIGNMENT
        piece = tensor.reshape(-1)[first:last]
        if piece.dtype != part.dtype:
            piece = piece.to(device).to(part.dtype)
        cut[span[0] - self.own.start : span[1] - self.own.start].view(part.dtype).copy_(piece)


def _view(buffer: torch.Tensor, part: Part) -> torch.Tensor:
    return buffer[part.start : part.start + part.nbytes].view(part.dtype).view(part.shape)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
