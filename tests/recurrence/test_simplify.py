"""Building Programs: nothing twice, nothing in vain, and no change of meaning."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rnnlab_kernels.program import BINARY, UNARY, Node, Program, interpret

from rnnlab.recurrence.simplify import Builder, tidy, with_restarts


def builder(*widths: int) -> tuple[Builder, list[int]]:
    b = Builder()
    return b, [b.input(f"x{i}", "step", width) for i, width in enumerate(widths)]


def test_equal_values_are_one() -> None:
    b, (x, y) = builder(3, 3)
    assert b.binary("add", x, y) == b.binary("add", y, x)
    assert b.unary("tanh", x) == b.unary("tanh", x)
    assert b.binary("sub", x, y) != b.binary("sub", y, x)
    assert b.const(0.0) != b.const(-0.0)


def test_algebra() -> None:
    b, (x, y) = builder(3, 3)
    zero, one = b.const(0), b.const(1)
    assert b.binary("add", x, zero) == b.binary("mul", one, x) == b.binary("div", x, one) == x
    assert b.unary("neg", b.unary("neg", x)) == x
    assert b.binary("sub", x, b.unary("neg", y)) == b.binary("add", x, y)
    assert b.binary("add", b.unary("neg", x), y) == b.binary("sub", y, x)
    assert b.binary("pow", x, b.const(2)) == b.binary("mul", x, x)
    assert b.binary("mul", x, zero) != zero, "it is NaN for an infinite x"
    assert b.binary("div", x, b.const(4)) == b.binary("mul", x, b.const(0.25))
    assert b.defined[b.binary("div", x, b.const(3))].op == "div", "a product would round otherwise"


def test_slices_and_joins() -> None:
    b, (x, y) = builder(6, 2)
    assert b.cat([b.slice(x, 0, 2), b.slice(x, 2, 6)]) == x
    assert b.slice(b.cat([x, y]), 6, 8) == y
    assert b.slice(b.slice(x, 1, 5), 1, 3) == b.slice(x, 2, 4)
    joined = b.slice(b.cat([x, y]), 5, 7)
    assert b.defined[joined].inputs == (b.slice(x, 5, 6), b.slice(y, 0, 1))


def test_sums_leave_out_what_is_the_same_in_all_columns() -> None:
    b, (x, y) = builder(6, 1)
    assert b.sum(b.binary("mul", x, y)) == b.binary("mul", b.sum(x), y)
    assert b.sum(b.unary("neg", x)) == b.unary("neg", b.sum(x))
    assert b.sum(y) == y


@pytest.mark.parametrize("op", sorted(UNARY))
def test_folds_as_pytorch_computes(op: str) -> None:
    b = Builder()
    for number in (-2.0, -0.5, 0.0, 0.3, 1.0, 4.0):
        wanted = UNARY[op](torch.tensor(number, dtype=torch.float64)).item()
        found = b.number(b.unary(op, b.const(number)))
        assert found is not None
        assert found == pytest.approx(wanted, rel=1e-12, nan_ok=True)


@given(
    st.sampled_from(sorted(BINARY)),
    st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, math.inf]),
    st.booleans(),
)
def test_simplified_is_equal(op: str, number: float, left: bool) -> None:
    b, (x,) = builder(4)
    constant = b.const(number)
    value = b.binary(op, constant, x) if left else b.binary(op, x, constant)
    simple = b.program([], [(value, "y")])
    plain = Builder()
    x = plain.input("x", "step", 4)
    constant = plain.const(number)
    operands = (constant, x) if left else (x, constant)
    direct = plain.program([], [(plain.node(op, operands, 4), "y")])
    values = torch.tensor([[[-2.0, 0.25, 1.0, 3.0]]], dtype=torch.float64)
    torch.testing.assert_close(
        interpret(simple, [values], [])[0], interpret(direct, [values], [])[0], equal_nan=True
    )


def gates() -> Program:
    b = Builder()
    x, w, bias = b.input("x", "step", 3), b.input("w", "call", 3, rows=8), b.input("b", "call", 8)
    u, other = b.input("u", "call", 4, rows=8), b.input("c", "call", 8)
    h = b.state("h", 4)
    first = b.binary("add", b.matmul(x, w, 8, True), bias)
    second = b.binary("add", b.matmul(h, u, 8, True), other)
    both = b.unary("tanh", b.binary("add", first, second))
    new = b.binary("mul", b.slice(both, 0, 4), b.slice(both, 4, 8))
    return b.program([new], [(new, "h")])


def test_tidy_works_at_the_width_of_a_gate_and_adds_parameters_first() -> None:
    program = gates()
    found = tidy(program)
    found.validate()
    wide = [n for n in found.nodes if n.width == 8]
    assert [n.op for n in wide] == ["matmul", "matmul"]
    sums = [n for n in found.nodes if n.op == "add"]
    assert sum(n.value in found.invariant for n in sums) == 2
    assert sum(n.value in found.stateful for n in sums) == 2
    tensors = [
        torch.randn(2, 3, 3),
        torch.randn(8, 3),
        torch.randn(8),
        torch.randn(8, 4),
        torch.randn(8),
    ]
    state = [torch.randn(3, 4)]
    torch.testing.assert_close(interpret(found, tensors, state), interpret(program, tensors, state))


def test_tidy_keeps_inputs_and_outputs_in_their_places() -> None:
    b, (x, y, unused) = builder(3, 3, 3)
    dead = b.unary("exp", y)
    program = b.program([], [(x, "x"), (b.unary("tanh", x), "t"), (x, "again")])
    assert dead in program.widths
    found = tidy(program)
    assert [i.name for i in found.inputs] == ["x0", "x1", "x2"]
    assert [o.name for o in found.outputs] == ["x", "t", "again"]
    assert [n.op for n in found.nodes] == ["tanh"]
    assert unused in found.widths


def test_a_restart_from_other_states() -> None:
    program = gates()
    own = with_restarts(program)
    own.validate()
    tensors = [torch.randn(4, 3, 3), torch.randn(8, 3), torch.randn(8), torch.randn(8, 4), torch.randn(8)]
    state, restart = torch.randn(3, 4), torch.randn(3, 4)
    resets = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)
    (found,), _ = interpret(own, [*tensors, resets[..., None].float(), restart], [state])
    (same,), _ = interpret(program, tensors, [restart], resets=resets)
    torch.testing.assert_close(found[:, 0], same[:, 0])
    (plain,), _ = interpret(program, tensors, [state])
    torch.testing.assert_close(found[:, 1], plain[:, 1])
    torch.testing.assert_close(found[1:, 2], same[1:, 2])


def test_every_operation_can_be_built_again() -> None:
    program = gates()
    b, moved = Builder.of(program)
    again = b.program(
        [moved[s.next] for s in program.states], [(moved[o.value], o.name) for o in program.outputs]
    )
    assert again.key == program.key
    assert isinstance(program.nodes[0], Node)
