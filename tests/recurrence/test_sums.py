"""Sums over rows that are taken apart: the same numbers, and nothing waits for what it need not."""

import pytest
import torch
from rnnlab_kernels.program import Program, interpret

from rnnlab.recurrence.simplify import Builder, tidy

WIDTH = 6


def program(pieces: int) -> Program:
    """The sum of a row g + s d + s d, with d = x - mean(x) and s = sum(g d), whole or from pieces."""
    build = Builder()
    x, g = build.input("x", "step", WIDTH), build.input("g", "step", WIDTH)
    state = build.state("h", 1)
    mean = build.binary("div", build.sum(x), build.const(WIDTH))
    deviation = build.binary("sub", x, mean)
    scale = build.sum(build.binary("mul", g, deviation))
    rows = []
    for start in range(0, WIDTH, WIDTH // pieces):
        stop = start + WIDTH // pieces
        part = build.binary("mul", build.slice(deviation, start, stop), scale)
        row = build.slice(g, start, stop)
        rows.append(build.binary("add", part, build.binary("add", row, part)))
    return tidy(build.program([build.binary("add", state, build.sum(build.cat(rows)))], []))


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_the_same_sum_without_waiting(pieces):
    step = program(pieces)
    x, g = torch.randn(2, 1, 3, WIDTH, dtype=torch.float64).unbind(0)
    deviation = x - x.mean(-1, keepdim=True)
    scale = (g * deviation).sum(-1, keepdim=True)
    expected = (g + 2 * scale * deviation).sum(-1, keepdim=True)[0]
    zeros = torch.zeros(3, 1, dtype=torch.float64)
    _, (found,) = interpret(step, [x, g], [zeros])
    torch.testing.assert_close(found, expected)
    waits: dict[int, int] = {}
    for node in step.nodes:
        before = max((waits.get(v, 0) for v in node.inputs), default=0)
        waits[node.value] = before + (node.op == "sum")
    assert max(waits.values()) == 2  # the mean, and then all others at once


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bad):
    x, g = torch.randn(2, 1, 3, WIDTH, dtype=torch.float64).unbind(0)
    x[0, 1, 2] = bad
    _, (found,) = interpret(program(2), [x, g], [torch.zeros(3, 1, dtype=torch.float64)])
    assert found.isnan().flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_deviations_times_a_number_of_another_row_are_summed_up(bad):
    build = Builder()
    x, g = build.input("x", "step", WIDTH), build.input("g", "step", WIDTH)
    state = build.state("h", 1)
    deviation = build.binary("sub", x, build.binary("div", build.sum(x), build.const(WIDTH)))
    total = build.sum(build.binary("mul", deviation, build.sum(g)))
    step = tidy(build.program([build.binary("add", state, total)], []))
    x, g = torch.randn(2, 1, 3, WIDTH, dtype=torch.float64).unbind(0)
    x[0, 1, 2] = bad
    _, (found,) = interpret(step, [x, g], [torch.zeros(3, 1, dtype=torch.float64)])
    assert found.isnan().flatten().tolist() == [False, True, False]
