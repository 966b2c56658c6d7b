"""The two operators: what PyTorch demands of an operator, and the same gradients by dispatch as directly."""

import pytest
import torch
from torch import Tensor

from rnnlab import cells
from rnnlab.recurrence.compiler import compile_cell
from rnnlab.recurrence.operators import Entry, recurrence

pytestmark = pytest.mark.usefixtures("interpreter")

LENGTHS = torch.tensor([4, 2, 1])
RESETS = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.bool)


def example(requires: bool = True) -> tuple[Entry, list[Tensor], list[Tensor]]:
    cell = cells.LSTMCell(5, 6).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    compiled = compile_cell(cell, x)
    inputs = [t.detach().requires_grad_(requires) for t in compiled.inputs(compiled.values(cell), x)]
    states = [torch.randn(3, 6, dtype=torch.float64, requires_grad=requires) for _ in range(2)]
    entry = Entry(compiled.marked, (True,) * len(inputs) if requires else None).enter()
    return entry, inputs, states


@pytest.mark.parametrize(
    "options", [(None, None, False), (LENGTHS, None, True), (None, RESETS, False), (LENGTHS, RESETS, True)]
)
def test_by_dispatch_as_directly(options: tuple[Tensor | None, Tensor | None, bool]) -> None:
    entry, inputs, states = example()
    lengths, resets, reverse = options
    outputs, finals = recurrence(entry, inputs, states, lengths, resets, reverse)
    assert len(outputs) == 1
    results = torch.ops.rnnlab.recurrence(entry.number, inputs, states, lengths, resets, reverse)
    torch.testing.assert_close([results[0], *results[-2:]], [*outputs, *finals])
    cotangents = [torch.randn_like(t) for t in (*outputs, *finals)]
    for used in ((0, 1, 2), (0,), (2,)):
        wanted, found = (
            torch.autograd.grad(
                [roots[i] for i in used],
                [*inputs, *states],
                [cotangents[i] for i in used],
                retain_graph=True,
                materialize_grads=True,
            )
            for roots in ([*outputs, *finals], [results[0], *results[-2:]])
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("options", [(None, None, False), (LENGTHS, RESETS, True)])
def test_opcheck(options: tuple[Tensor | None, Tensor | None, bool]) -> None:
    entry, inputs, states = example()
    forward = torch.ops.rnnlab.recurrence.default
    torch.library.opcheck(forward, (entry.number, inputs, states, *options))
    results = [t.detach() for t in forward(entry.number, inputs, states, *options)]
    outputs = results[: len(entry.program.outputs)]
    gradients = [torch.randn_like(outputs[0]), None, torch.randn_like(states[0])]
    given = [[t.detach() for t in part] for part in (inputs, states)]
    torch.library.opcheck(
        torch.ops.rnnlab.recurrence_backward.default, (entry.number, gradients, *given, outputs, *options)
    )


def test_opcheck_without_gradients() -> None:
    entry, inputs, states = example(requires=False)
    torch.library.opcheck(
        torch.ops.rnnlab.recurrence.default, (entry.number, inputs, states, None, None, False)
    )


def test_results_do_not_share_memory() -> None:
    entry, inputs, states = example()
    results = torch.ops.rnnlab.recurrence(entry.number, inputs, states, None, None, False)
    memory = [t.untyped_storage().data_ptr() for t in (*results, *inputs, *states)]
    assert len(set(memory)) == len(memory)


def test_second_derivatives_by_dispatch() -> None:
    entry, inputs, states = example()

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        parts = list(tensors)
        results = torch.ops.rnnlab.recurrence(
            entry.number, parts[: len(inputs)], parts[len(inputs) :], LENGTHS, None, False
        )
        return results[0], results[-1]

    small = [
        t.detach()[:, :2].requires_grad_() if i.per == "step" else t
        for t, i in zip(inputs, entry.program.inputs, strict=True)
    ]
    del small
    loss = sum(t.sin().sum() for t in run(*inputs, *states))
    first = torch.autograd.grad(loss, [*inputs, *states], create_graph=True)
    second = torch.autograd.grad(sum(g.cos().sum() for g in first), [*inputs, *states])
    outputs, finals = recurrence(entry, inputs, states, LENGTHS)
    direct = torch.autograd.grad(
        outputs[0].sin().sum() + finals[-1].sin().sum(), [*inputs, *states], create_graph=True
    )
    wanted = torch.autograd.grad(sum(g.cos().sum() for g in direct), [*inputs, *states])
    torch.testing.assert_close(second, wanted)


def test_a_program_without_an_adjoint_says_so() -> None:
    entry, inputs, states = example(requires=False)
    leaf = inputs[0].requires_grad_()
    results = torch.ops.rnnlab.recurrence(entry.number, inputs, states, None, None, False)
    with pytest.raises(RuntimeError, match="without its adjoint"):
        torch.autograd.grad(results[0].sum(), leaf)


def test_kept_bytes_count_what_is_not_kept_anyway() -> None:
    entry, _, _ = example()
    assert entry.kept_bytes(4) == 5 * 6 * 4
