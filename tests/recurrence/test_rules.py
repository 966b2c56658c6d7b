"""Each operator's derivative, against PyTorch's own: in general, at ties and at the borders of its domain."""

from collections.abc import Callable, Sequence

import pytest
import torch
from rnnlab_kernels.program import BINARY, COMPARE, KINDS, UNARY, interpret
from torch import Tensor

from rnnlab.recurrence.derivative import differentiate
from rnnlab.recurrence.rules import RULES
from rnnlab.recurrence.simplify import Builder

Build = Callable[[Builder, list[int]], int]
Compute = Callable[..., Tensor]


def gradients(build: Build, operands: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """The derivative of one row function, of operands [T, B, width], by the rules."""
    builder = Builder()
    values = [builder.input(f"x{i}", "step", x.shape[-1]) for i, x in enumerate(operands)]
    program = builder.program([], [(build(builder, values), "y")])
    program.validate()
    found = differentiate(program, [True] * len(operands))
    found.forward.validate()
    found.adjoint.validate()
    outputs, _ = interpret(found.forward, operands, [])
    given = {"input": list(operands), "output": outputs, "gradient": [cotangent]}
    feeds = [given[feed.kind][feed.index] for feed in found.feeds]
    # An adjoint that reads nothing per step still has to be told how many steps there are.
    if not feeds:
        return [torch.zeros_like(x) for x in operands]
    stored, _ = interpret(found.adjoint, feeds, [])
    by_input = dict(found.rows)
    return [stored[by_input[i]] if i in by_input else torch.zeros_like(x) for i, x in enumerate(operands)]


def agree(build: Build, compute: Compute, operands: Sequence[Tensor]) -> None:
    leaves = [x.clone().requires_grad_() for x in operands]
    y = compute(*leaves)
    cotangent = torch.randn(y.shape, dtype=y.dtype)
    wanted = torch.autograd.grad(y, leaves, cotangent, materialize_grads=True) if y.requires_grad else leaves
    if not y.requires_grad:
        wanted = [torch.zeros_like(x) for x in operands]
    found = gradients(build, operands, cotangent)
    torch.testing.assert_close(found, list(wanted), equal_nan=True)


INF, NAN = float("inf"), float("nan")
SPECIAL = [-INF, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 30.0, INF, NAN]


def special() -> Tensor:
    return torch.tensor(SPECIAL, dtype=torch.float64).reshape(1, 1, -1)


def positive(op: str, x: Tensor) -> Tensor:
    return x.abs() + 0.1 if op in ("log", "sqrt", "rsqrt", "log1p", "pow") else x


@pytest.mark.parametrize("op", sorted(UNARY))
def test_unary(op: str) -> None:
    x = positive(op, torch.randn(3, 2, 5, dtype=torch.float64))
    agree(lambda b, v: b.node(op, (v[0],), 5), UNARY[op], [x])


@pytest.mark.parametrize("op", sorted(set(UNARY)))
def test_unary_at_its_borders(op: str) -> None:
    agree(lambda b, v: b.node(op, (v[0],), len(SPECIAL)), UNARY[op], [special()])


@pytest.mark.parametrize("widths", [(5, 5), (5, 1), (1, 5), (1, 1)])
@pytest.mark.parametrize("op", sorted(BINARY))
def test_binary_and_broadcast(op: str, widths: tuple[int, int]) -> None:
    x, y = (torch.randn(3, 2, w, dtype=torch.float64) for w in widths)
    agree(lambda b, v: b.node(op, (v[0], v[1]), max(widths)), BINARY[op], [positive(op, x), y])


@pytest.mark.parametrize("op", sorted(BINARY))
def test_binary_at_ties_and_borders(op: str) -> None:
    pairs = torch.tensor([(a, b) for a in SPECIAL for b in SPECIAL], dtype=torch.float64)
    x, y = pairs.T.reshape(2, 1, 1, -1)
    agree(lambda b, v: b.node(op, (v[0], v[1]), x.shape[-1]), BINARY[op], [x, y])


@pytest.mark.parametrize("exponent", [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 4.0])
def test_powers_of_a_number(exponent: float) -> None:
    x = torch.cat([torch.rand(1, 1, 4, dtype=torch.float64) + 0.1, special().clamp(min=0)], -1)
    agree(lambda b, v: b.binary("pow", v[0], b.const(exponent)), lambda x: x.pow(exponent), [x])


@pytest.mark.parametrize("op", sorted(COMPARE))
def test_where_and_comparisons(op: str) -> None:
    x, y, z = (torch.randint(0, 2, (3, 2, 5)).double() for _ in range(3))
    agree(
        lambda b, v: b.where(b.compare(op, v[0], v[1]), v[1], v[2]),
        lambda x, y, z: torch.where(COMPARE[op](x, y), y, z),
        [x, y, z],
    )


@pytest.mark.parametrize("narrow", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_where_broadcasts(narrow: tuple[int, ...]) -> None:
    x, y, z = (torch.randn(3, 2, 1 if i in narrow else 5, dtype=torch.float64) for i in range(3))
    agree(
        lambda b, v: b.where(b.compare("lt", v[0], b.const(0)), v[1], v[2]),
        lambda x, y, z: torch.where(x < 0, y, z),
        [x, y, z],
    )


def test_reductions() -> None:
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    agree(lambda b, v: b.sum(v[0]), lambda x: x.sum(-1, keepdim=True), [x])
    agree(lambda b, v: b.amax(v[0]), lambda x: x.amax(-1, keepdim=True), [x])
    ties = torch.tensor([[[1.0, 3, 3, 2]], [[0, 0, 0, 0]], [[NAN, 1, 2, 1]]], dtype=torch.float64)
    agree(lambda b, v: b.amax(v[0]), lambda x: x.amax(-1, keepdim=True), [ties])


def test_slices_that_overlap_or_leave_gaps() -> None:
    x = torch.randn(3, 2, 7, dtype=torch.float64)

    def build(b: Builder, v: list[int]) -> int:
        return b.cat([b.slice(v[0], 1, 4), b.slice(v[0], 2, 6), b.sum(b.slice(v[0], 1, 3))])

    agree(build, lambda x: torch.cat([x[..., 1:4], x[..., 2:6], x[..., 1:3].sum(-1, keepdim=True)], -1), [x])


def test_a_value_that_is_read_often() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64)

    def build(b: Builder, v: list[int]) -> int:
        y = b.unary("tanh", v[0])
        return b.binary("mul", b.binary("add", y, b.sum(y)), b.binary("sub", v[0], y))

    agree(build, lambda x: (x.tanh() + x.tanh().sum(-1, keepdim=True)) * (x - x.tanh()), [x])


def test_every_operation_has_a_rule_or_moves_columns() -> None:
    assert set(KINDS) - set(RULES) == {"slice", "cat", "matmul", "detach"}
