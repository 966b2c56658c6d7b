"""The Program: its meaning, its checks and what it says of itself."""

from dataclasses import replace

import pytest
import torch
from rnnlab_kernels.program import (
    BINARY,
    COMPARE,
    KINDS,
    UNARY,
    Contraction,
    Input,
    Node,
    Operand,
    Output,
    Program,
    State,
    contract,
    interpret,
)


def decay() -> Program:
    """h' = tanh(x W + a * h), which stores h' and the h before it."""
    inputs = (Input(0, "x", "step", 2), Input(1, "w", "call", 3, rows=2), Input(2, "a", "call", 3))
    nodes = (
        Node("matmul", (0, 1), 4, 3),
        Node("mul", (2, 3), 5, 3),
        Node("add", (4, 5), 6, 3),
        Node("tanh", (6,), 7, 3),
    )
    return Program(inputs, (State(3, 7, "h", 3),), nodes, (Output(7, "h", 3), Output(3, "before", 3)))


def tensors(length: int = 5, batch: int = 4) -> tuple[list[torch.Tensor], torch.Tensor]:
    x = torch.randn(length, batch, 2, dtype=torch.float64)
    return [x, torch.randn(2, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)], torch.randn(
        batch, 3, dtype=torch.float64
    )


def test_interpret_is_the_recurrence() -> None:
    (x, w, a), h = tensors()
    (outputs, before), (final,) = interpret(decay(), [x, w, a], [h])
    for t in range(len(x)):
        torch.testing.assert_close(before[t], h)
        h = torch.tanh(x[t] @ w + a * h)
        torch.testing.assert_close(outputs[t], h)
    torch.testing.assert_close(final, h)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_past_its_length_stands_still(reverse: bool) -> None:
    (x, w, a), h = tensors()
    lengths = torch.tensor([5, 1, 3, 2])
    (outputs, before), (final,) = interpret(decay(), [x, w, a], [h], lengths=lengths, reverse=reverse)
    for b, length in enumerate(lengths.tolist()):
        alone, (end,) = interpret(decay(), [x[:length, b : b + 1], w, a], [h[b : b + 1]], reverse=reverse)
        torch.testing.assert_close(outputs[:length, b : b + 1], alone[0])
        torch.testing.assert_close(before[:length, b : b + 1], alone[1])
        torch.testing.assert_close(final[b : b + 1], end)
        assert not outputs[length:, b].any()


@pytest.mark.parametrize("reverse", [False, True])
def test_resets_restart_from_the_initial_state(reverse: bool) -> None:
    (x, w, a), h = tensors(length=6, batch=1)
    resets = torch.zeros(6, 1, dtype=torch.bool)
    resets[3] = True
    (outputs, _), _ = interpret(decay(), [x, w, a], [h], resets=resets, reverse=reverse)
    late, early = (slice(0, 4), slice(4, 6)) if reverse else (slice(3, 6), slice(0, 3))
    for part in (late, early):
        (alone, _), _ = interpret(decay(), [x[part], w, a], [h], reverse=reverse)
        torch.testing.assert_close(outputs[part], alone)


def test_interpret_is_differentiable() -> None:
    inputs, h = tensors(length=3, batch=2)
    leaves = [t.requires_grad_() for t in (*inputs, h)]
    lengths = torch.tensor([3, 1])
    torch.autograd.gradcheck(
        lambda *args: tuple(
            t for part in interpret(decay(), args[:3], args[3:], lengths=lengths) for t in part
        ),
        leaves,
    )


def test_what_a_program_says_of_itself() -> None:
    program = decay()
    program.validate()
    assert program.widths == {0: 2, 1: 3, 2: 3, 3: 3, 4: 3, 5: 3, 6: 3, 7: 3}
    assert program.stateful == {3, 5, 6, 7}
    assert program.invariant == {1, 2}
    assert {4, 5, 6, 7} <= program.carried
    assert program.flops() == 2 * 2 * 3 + 3 * 3
    assert str(program).splitlines()[-1] == "  store  before = h"


def test_the_key_ignores_names_and_sources_alone() -> None:
    program = decay()
    renamed = replace(
        program,
        inputs=tuple(replace(i, name=i.name + "!") for i in program.inputs),
        nodes=tuple(replace(n, source="elsewhere") for n in program.nodes),
    )
    assert renamed.key == program.key
    for changed in (
        replace(program, adjoint=True),
        replace(program, outputs=program.outputs[:1]),
        replace(program, nodes=(*program.nodes[:-1], replace(program.nodes[-1], op="sigmoid"))),
    ):
        assert changed.key != program.key


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (Node("tanh", (9,), 8, 3), "before it is defined"),
        (Node("tanh", (4,), 4, 3), "twice"),
        (Node("add", (0, 4), 8, 3), "add"),
        (Node("where", (4, 4, 4), 8, 3), "where"),
        (Node("slice", (4,), 8, 2, start=2, stop=4), "slice"),
        (Node("matmul", (4, 1), 8, 3), "matmul"),
        (Node("tanh", (1,), 8, 3), "matrix as a row"),
        (Node("detach", (4,), 8, 3), "compiler alone"),
    ],
)
def test_validate_finds_what_is_wrong(node: Node, words: str) -> None:
    program = decay()
    with pytest.raises(AssertionError, match=words):
        replace(program, nodes=(*program.nodes, node)).validate()


def test_masks_are_no_numbers() -> None:
    program = decay()
    mask = Node("lt", (4, 5), 8, 3)
    replace(program, nodes=(*program.nodes, mask, Node("where", (8, 4, 5), 9, 3))).validate()
    with pytest.raises(AssertionError, match="mask as a number"):
        replace(program, nodes=(*program.nodes, mask, Node("neg", (8,), 9, 3))).validate()


def test_every_operation_has_a_kind() -> None:
    assert {*UNARY, *BINARY, *COMPARE} < set(KINDS)
    for op in UNARY:
        assert Node(op, (0,), 1, 1).kind == "unary"


def test_contractions_are_gradients_of_parameters() -> None:
    left, right = torch.randn(4, 3, 5), torch.randn(4, 3, 2)
    operand = Operand("output", 0)
    outer = Contraction("outer", 0, operand, operand)
    torch.testing.assert_close(contract(outer, left, right), torch.einsum("tbk,tbn->kn", left, right))
    turned = contract(replace(outer, transposed=True), left, right)
    torch.testing.assert_close(turned, torch.einsum("tbk,tbn->nk", left, right))
    assert turned.is_contiguous()
    torch.testing.assert_close(contract(Contraction("sum", 0, None, operand), None, right), right.sum((0, 1)))
    torch.testing.assert_close(
        contract(Contraction("product", 0, operand, operand), right, right), (right * right).sum((0, 1))
    )
