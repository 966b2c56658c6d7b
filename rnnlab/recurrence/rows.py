"""The tensors of a step as the columns of rows that they consist of.

Legend: `B` batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnlab.recurrence.graph import Rows, Unsupported

# A tensor is followed at this batch size, to see that no operator mixes rows.
BATCH = 3
# The row of an element that is the same for every row.
ANY = 255
# An operator that breaks into more pieces than this would make a kernel out of all proportion.
MOST_PIECES = 64


@dataclass
class Row:
    """A tensor of the step as the columns it consists of.

    `codes` has the tensor's shape, at the batch size of `BATCH`; see `code`.
    """

    codes: Tensor
    axis: int | None
    mask: bool = False

    @property
    def columns(self) -> Tensor:
        """One row's columns, without the row's number; the batch dimension is left with its multiple."""
        if self.axis is None:
            return self.codes >> 8
        size = self.codes.shape[self.axis] // BATCH
        return self.codes.narrow(self.axis, 0, size) >> 8


def code(value: int, column: int) -> int:
    """A column of a value as one number, whose successor is the next column."""
    return value << 32 | column


def actual(shape: Any) -> Any:
    """A shape, or any argument that holds batch sizes, at the batch size of `BATCH`."""
    if isinstance(shape, Rows):
        return shape.multiple * BATCH
    if isinstance(shape, tuple | list):
        return type(shape)(actual(s) for s in shape)
    return shape


def batch_axis(shape: Sequence[int | Rows]) -> int | None:
    """Where the batch is in a shape; None if nowhere."""
    axes = [i for i, size in enumerate(shape) if isinstance(size, Rows)]
    if len(axes) > 1:
        raise Unsupported("a tensor with two batch dimensions")
    return axes[0] if axes else None


def check(row: Row) -> None:
    """See that every element belongs to the row at whose place it stands, and that all rows are alike."""
    rows = row.codes & 255
    if row.axis is None:
        if not bool((rows == ANY).all()):
            raise Unsupported("picks or mixes rows of the batch")
        return
    if row.codes.shape[row.axis] % BATCH:
        raise Unsupported("picks or mixes rows of the batch")
    by_row = row.codes.movedim(row.axis, 0)
    by_row = by_row.reshape(BATCH, -1)
    rows = by_row & 255
    columns = by_row >> 8
    right = (rows == ANY) | (rows == torch.arange(BATCH)[:, None])
    if not bool(right.all()) or not bool((columns == columns[:1]).all()):
        raise Unsupported("picks or mixes rows of the batch")


def segments(columns: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The longest stretches in which each operand is either consecutive columns or one column throughout."""
    count = len(columns[0])
    if count == 1:
        return [(0, 1)]
    steps = torch.stack([column[1:] - column[:-1] for column in columns])
    broken = ((steps != 0) & (steps != 1)).any(0)
    turns = (steps[:, 1:] != steps[:, :-1]).any(0)
    if not bool(broken.any()) and not bool(turns.any()):
        return [(0, count)]
    found: list[tuple[int, int]] = []
    start = 0
    breaks = broken.tolist()
    changes = [True, *turns.tolist()]
    for i in range(count - 1):
        # A step that breaks ends the stretch; one that differs from the last begins a new one.
        if breaks[i] or (changes[i] and i > start):
            found.append((start, i + 1))
            start = i + 1
            if len(found) > MOST_PIECES:
                raise Unsupported(f"breaks into more than {MOST_PIECES} pieces")
    found.append((start, count))
    return found
