"""The gradients of single examples for one layer, and their weighted sums, group by group of examples.

Gradients are float32; norms, factors and sums are of the wide type, float64 where the device has it: there an example
moves a sum by no more than the clip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

_CACHED: Final = 1 << 17
"""Values made wide at once: 1 MB, so that the copy stays in the cache."""


class Part(Protocol):
    """The gradients of some parameters, of each example of a batch."""

    @property
    def size(self) -> int:
        """Values held for one example."""
        ...

    def values(self) -> Sequence[Tensor]:
        """What is held, (rows, ...) each."""
        ...

    def squares(self) -> Tensor:
        """Squared norm of each example's gradient, (rows,) wide."""
        ...

    def without(self, rows: Tensor) -> Self:
        """The same; examples in ``rows`` (rows,) bool count as zero, whatever they hold."""
        ...

    def add_to(self, totals: Sequence[Tensor], ends: Sequence[int], factors: Tensor) -> None:
        """Add to the i-th of ``totals``, (d,) each, the gradients times ``factors`` (rows,) from ends[i-1] to ends[i].

        Args:
            ends: where each group of examples ends; rows behind the last are in no group.
        """
        ...


@dataclass(frozen=True, slots=True)
class Products:
    """A linear layer that saw each example once: the gradient is ``right`` (out,) times ``left`` (in,), never made.

    Its norm is |left| * |right| (Goodfellow 2015, arXiv:1510.01799), and a weighted sum is one matrix product.

    Attributes:
        weight, bias: where they are among the parameters; None if frozen or not there.
    """

    weight: slice | None
    bias: slice | None
    left: Tensor
    right: Tensor
    wide: torch.dtype

    @property
    def size(self) -> int:
        """As `Part.size`."""
        return self.left.shape[1] + self.right.shape[1]

    def values(self) -> Sequence[Tensor]:
        """As `Part.values`."""
        return self.left, self.right

    def squares(self) -> Tensor:
        """As `Part.squares`."""
        found = _squares(self.right, self.wide)
        if self.weight is None:
            return found
        return found * (_squares(self.left, self.wide) + int(self.bias is not None))

    def without(self, rows: Tensor) -> Products:
        """As `Part.without`."""
        left, right = (t.masked_fill(rows.unsqueeze(1), 0.0) for t in (self.left, self.right))
        return replace(self, left=left, right=right)

    def add_to(self, totals: Sequence[Tensor], ends: Sequence[int], factors: Tensor) -> None:
        """As `Part.add_to`."""
        scaled = self.right.to(self.wide) * factors.unsqueeze(1)
        for row, first, last in _groups(totals, ends):
            if self.bias is not None:
                row[self.bias] += scaled[first:last].sum(0)
            if self.weight is not None:
                target = row[self.weight].view(self.right.shape[1], self.left.shape[1])
                for some in _blocks(first, last, self.left.shape[1]):
                    target.addmm_(scaled[some].t(), self.left[some].to(self.wide))


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradient of each example for one parameter, (rows, p).

    Attributes:
        place: where it is among the parameters.
    """

    place: slice
    each: Tensor
    wide: torch.dtype

    @property
    def size(self) -> int:
        """As `Part.size`."""
        return self.each.shape[1]

    def values(self) -> Sequence[Tensor]:
        """As `Part.values`."""
        return (self.each,)

    def squares(self) -> Tensor:
        """As `Part.squares`."""
        return _squares(self.each, self.wide)

    def without(self, rows: Tensor) -> Gradients:
        """As `Part.without`."""
        return replace(self, each=self.each.masked_fill(rows.unsqueeze(1), 0.0))

    def add_to(self, totals: Sequence[Tensor], ends: Sequence[int], factors: Tensor) -> None:
        """As `Part.add_to`."""
        for row, first, last in _groups(totals, ends):
            target = row[self.place]
            for some in _blocks(first, last, self.each.shape[1]):
                target += factors[some] @ self.each[some].to(self.wide)


def _groups(totals: Sequence[Tensor], ends: Sequence[int]) -> Iterator[tuple[Tensor, int, int]]:
    """Total, first and last example of each group that has any."""
    for i, (first, last) in enumerate(pairwise((0, *ends))):
        if first < last:
            yield totals[i], first, last


def _blocks(first: int, last: int, width: int) -> Iterator[slice]:
    together = max(1, _CACHED // width)
    for start in range(first, last, together):
        yield slice(start, min(start + together, last))


def _squares(values: Tensor, wide: torch.dtype) -> Tensor:
    """Squared norm of each row, (rows,) wide."""
    blocks = _blocks(0, len(values), values.shape[1])
    return torch.cat([torch.linalg.vector_norm(values[some].to(wide), dim=1).square_() for some in blocks])
