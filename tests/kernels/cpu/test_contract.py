"""Sums over sequences on the CPU: blocks of the result, panels of several factors, and how threads share."""

import pytest
import torch
from rnnlab_kernels import cpu
from rnnlab_kernels.cpu import toolchain
from rnnlab_kernels.program import Contraction, Operand

pytestmark = pytest.mark.skipif(toolchain.missing() is not None, reason=str(toolchain.missing()))

PLACE = Operand("output", 0)


def gradients(left, rights, rows=None, *, threads):
    """left^T right for each of `rights`, and the column sums of left."""
    torch.set_num_threads(threads)
    outer = [Contraction("outer", n, PLACE, PLACE) for n in range(len(rights))]
    column_sums = Contraction("sum", len(rights), None, PLACE)
    return cpu.contract_all([*outer, column_sums], [left] * len(rights) + [None], [*rights, left], rows)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("T", "B", "M", "widths"),
    [
        (1, 3, 2100, (600,)),  # blocks above and beside each other
        (7, 2, 40, (1100, 3)),  # threads share the columns
        (33, 5, 33, (20, 1, 50, 16, 7)),  # panels that several factors share, and threads that share the rows
        (150, 90, 5, (9,)),  # so many rows that their blocks are deeper
        (1, 1, 1000, (1000,)),
        (60, 4, 1, (1,) * 64),
    ],
)
@pytest.mark.parametrize("some", [False, True])
def test_whole_numbers_are_summed_up_exactly(T, B, M, widths, threads, some):
    generator = torch.Generator().manual_seed(T)
    left, *rights = (torch.randint(-3, 4, (B, T, w), generator=generator).float() for w in (M, *widths))
    left, rights = left.transpose(0, 1), [right.transpose(0, 1) for right in rights]
    rows = torch.arange(0, T * B, 2 if some else 1)
    found = gradients(left, rights, rows if some else None, threads=threads)
    flat = left.flatten(0, 1)[rows].double()
    for result, right in zip(found, rights, strict=False):
        assert torch.equal(result.double(), flat.T @ right.flatten(0, 1)[rows].double())
    assert torch.equal(found[-1].double(), flat.sum(0))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_each_time_and_small_errors(threads):
    torch.manual_seed(0)
    left, right = torch.randn(100, 41, 70), torch.randn(100, 41, 90)
    first = gradients(left, [right], threads=threads)
    for _ in range(3):
        assert all(map(torch.equal, first, gradients(left, [right], threads=threads)))
    product, column_sums = (x.double() for x in first)
    flat = left.flatten(0, 1).double()
    sizes = flat.abs().T @ right.flatten(0, 1).double().abs()
    # Each sum passes through at most 96 terms of a block, and then through 43 blocks.
    bound = (96 + 43) * torch.finfo(torch.float32).eps / 2
    assert ((product - flat.T @ right.flatten(0, 1).double()).abs() <= bound * sizes).all()
    assert ((column_sums - flat.sum(0)).abs() <= bound * flat.abs().sum(0)).all()
