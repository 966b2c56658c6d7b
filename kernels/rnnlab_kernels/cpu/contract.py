"""Parameters' gradients on the CPU: sums over whole sequences [T, B, width], once the adjoint loop is over.

Legend: T time, B batch.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rnnlab_kernels.cpu.launch import routines, row_by_row, threads
from rnnlab_kernels.program import Contraction
from rnnlab_kernels.program import contract_all as reference_contract_all

MOST_PRODUCTS = 64
"""How many products with one factor are found together."""
MOST_SUMMED = 8
"""The same for products element by element."""


def contract(contraction: Contraction, left: Tensor | None, right: Tensor) -> Tensor:
    """A parameter's gradient from whole sequences [T, B, width]."""
    return contract_all([contraction], [left], [right])[0]


def contract_all(
    contractions: Sequence[Contraction],
    lefts: Sequence[Tensor | None],
    rights: Sequence[Tensor],
    rows: Tensor | None = None,
) -> list[Tensor]:
    """Several parameters' gradients from sequences [T, B, width]; those of one factor are found together.

    `rows` are the places in [T*B] that are summed up; all of them where None.
    """
    if rights and rights[0].dtype == torch.bfloat16:
        return reference_contract_all(contractions, lefts, rights, rows)
    results: list[Tensor | None] = [None] * len(contractions)
    groups: dict[int, _Group] = {}
    columns: dict[int, _Columns] = {}
    todo: list[_Group | _Columns] = []
    for number, (contraction, left, right) in enumerate(zip(contractions, lefts, rights, strict=True)):
        if contraction.kind == "outer":
            assert left is not None
            first, second = (right, left) if contraction.transposed else (left, right)
            group = groups.get(id(first))
            if group is None or len(group.products) == MOST_PRODUCTS:
                group = groups[id(first)] = _Group(first, rows)
                todo.append(group)
            result = results[number] = first.new_empty(first.shape[2], second.shape[2])
            group.products.append((second, result))
    for number, (contraction, left, right) in enumerate(zip(contractions, lefts, rights, strict=True)):
        if contraction.kind == "outer":
            continue
        total = results[number] = right.new_empty(right.shape[2])
        group = groups.get(id(right))
        if left is None and group is not None and group.total is None:
            group.total = total
            continue
        found = columns.get(id(right))
        if found is None or found.is_full(left):
            found = columns[id(right)] = _Columns(right, rows)
            todo.append(found)
        if left is None:
            found.total = total
        else:
            found.products.append((left, total))
    for each in todo:
        each.run()
    return [result for result in results if result is not None]


class _Sums:
    """What one factor is summed up to: its own column sums, and a result for each of its partners."""

    routine: ClassVar[str]

    def __init__(self, factor: Tensor, rows: Tensor | None) -> None:
        self.factor, self.rows = factor, rows
        self.total: Tensor | None = None
        self.products: list[tuple[Tensor, Tensor]] = []

    def sizes(self, partner: Tensor) -> tuple[int, ...]:
        """What the routine is told of a partner besides where it lies."""
        return ()

    def run(self) -> None:
        keep: list[Tensor] = []
        arguments = _begin(self.factor, self.rows)
        if arguments is None:
            for tensor in [t for _, t in self.products] + ([] if self.total is None else [self.total]):
                tensor.zero_()
            return
        factor = row_by_row(self.factor, keep)
        total = 0 if self.total is None else self.total.data_ptr()
        arguments += (factor.data_ptr(), *factor.stride()[:2], factor.shape[2], total, len(self.products))
        for partner, result in self.products:
            partner = row_by_row(partner, keep)
            arguments += (partner.data_ptr(), *partner.stride()[:2], *self.sizes(partner), result.data_ptr())
        _finish(getattr(routines(factor.dtype), self.routine), arguments)


class _Group(_Sums):
    """The products of one factor with others, and its own column sums."""

    routine = "rnnlab_contract"

    def sizes(self, partner: Tensor) -> tuple[int, ...]:
        """The partner's width, which need not be the factor's."""
        return (partner.shape[2],)


class _Columns(_Sums):
    """The column sums of one factor, and of its products with others element by element."""

    routine = "rnnlab_column_sums"

    def is_full(self, left: Tensor | None) -> bool:
        """Whether there is no room for one sum more: that of the factor itself where there is no `left`."""
        return self.total is not None if left is None else len(self.products) == MOST_SUMMED


def _begin(factor: Tensor, rows: Tensor | None) -> list[int] | None:
    """The arguments that all routines begin with; None where there is nothing to sum up."""
    batch = factor.shape[1]
    count = factor.shape[0] * batch if rows is None else rows.shape[0]
    if count == 0:
        return None
    return [count, batch, threads(), 0 if rows is None else rows.data_ptr()]


def _finish(routine: Callable[[int], int], arguments: list[int]) -> None:
    packed = array("q", arguments)
    if routine(packed.buffer_info()[0]):
        raise MemoryError("the CPU backend found no memory for its buffers")
