"""The adjoint: what is kept, what is computed again, and how few contractions it takes."""

import pytest
import torch
from rnnlab_kernels.program import Program
from torch import nn

from rnnlab import cells
from rnnlab.recurrence.compiler import compile_cell
from rnnlab.recurrence.derivative import Derivative, differentiate
from rnnlab.recurrence.mincut import cheapest
from rnnlab.recurrence.operators import Entry

H = 8


def derivative(cell: nn.Module, width: int = 5) -> Derivative:
    found = compile_cell(cell, torch.zeros(2, 3, width)).derivative()
    found.forward.validate()
    found.adjoint.validate()
    return found


def kept(cell: nn.Module) -> int:
    """How many numbers a step keeps beyond its output."""
    return Entry(compile_cell(cell, torch.zeros(2, 3, 5)).marked, (True,) * 5).kept_bytes(1)


def ops(program: Program) -> list[str]:
    return [node.op for node in program.nodes]


def test_what_the_standard_cells_keep() -> None:
    # nn.LSTM keeps four gates and the cell state, nn.GRU four gates and more.
    assert kept(cells.LSTMCell(5, H)) == 5 * H
    assert kept(cells.GRUCell(5, H)) == 4 * H
    assert kept(cells.RNNCell(5, H)) == 0
    assert kept(nn.LSTMCell(5, H)) == 5 * H


def test_an_lstm_computes_tanh_of_its_cell_state_again() -> None:
    adjoint = derivative(cells.LSTMCell(5, H)).adjoint
    assert ops(adjoint).count("tanh") == 1
    assert "sigmoid" not in ops(adjoint)


def test_a_gru_computes_no_gate_again() -> None:
    assert not {"tanh", "sigmoid"} & set(ops(derivative(cells.GRUCell(5, H)).adjoint))


@pytest.mark.parametrize("cell", [cells.LSTMCell(5, H), cells.GRUCell(5, H), nn.RNNCell(5, H)])
def test_one_contraction_for_all_gates(cell: nn.Module) -> None:
    found = derivative(cell)
    kinds = sorted(c.kind for c in found.contractions)
    assert kinds == ["outer", "outer", "sum", "sum"]
    assert all(c.transposed for c in found.contractions if c.kind == "outer"), "as the parameter is laid out"
    assert ops(found.adjoint).count("matmul") == 2
    assert not {"outer", "sum"} & set(ops(found.adjoint))


def test_peepholes_are_products_of_sequences() -> None:
    found = derivative(cells.PeepholeLSTMCell(5, H))
    products = [c for c in found.contractions if c.kind == "product"]
    assert len(products) == 3
    # Their factors are columns of the gates' gradients, which are stored once.
    assert all(c.right.width == H for c in products)


def test_what_the_loop_sums_up_is_not_stored() -> None:
    step = compile_cell(cells.LayerNormLSTMCell(5, H), torch.zeros(2, 3, 5)).marked
    requires = (True,) * len(step.inputs)
    apart, inside = differentiate(step, requires), differentiate(step, requires, totals=True)
    inside.adjoint.validate()
    assert not apart.adjoint.totals and not apart.totals
    assert inside.forward == apart.forward
    # The input's gradient, and the two that the matrices' gradients are made of; no normalised row.
    assert [o.width for o in inside.adjoint.outputs] == [5, 4 * H, 4 * H]
    assert sum(o.width for o in apart.adjoint.outputs) == 5 + 5 * 4 * H + 2 * H
    assert {c.kind for c in inside.contractions} == {"outer"}
    names = {step.inputs[t.parameter].name for t in inside.totals}
    assert names == {"bias_ih", "bias_hh", "bias_ln_c", "weight_ln_ih", "weight_ln_hh", "weight_ln_c"}


def test_peephole_weights_are_summed_up_in_the_loop() -> None:
    step = compile_cell(cells.PeepholeLSTMCell(5, H), torch.zeros(2, 3, 5)).marked
    found = differentiate(step, (True,) * len(step.inputs), totals=True)
    # Column sums of the gates' gradients come with the matrices' gradients.
    assert sorted(c.kind for c in found.contractions) == ["outer", "outer", "sum", "sum"]
    assert [step.inputs[total.parameter].width for total in found.totals] == [H] * 3


def test_the_sum_of_deviations_takes_no_pass() -> None:
    adjoint = derivative(cells.LayerNormLSTMCell(5, H)).adjoint
    columns = adjoint.widths
    sums = [columns[node.inputs[0]] for node in adjoint.nodes if node.op == "sum"]
    # For the normalised cell state two, and for each row of gates one and one in four parts.
    assert sorted(sums) == [H] * 10 + [4 * H] * 2


def test_only_what_is_asked_for_is_computed() -> None:
    compiled = compile_cell(cells.LSTMCell(5, H), torch.zeros(2, 3, 5))
    names = [item.name for item in compiled.program.inputs]
    found = compiled.derivative([name != "x" for name in names])
    assert not found.rows
    assert ops(found.adjoint).count("matmul") == 1
    only = compiled.derivative([name == "x" for name in names])
    assert not only.contractions
    assert len(only.rows) == 1
    none = compiled.derivative([False] * len(names))
    assert not none.rows and not none.contractions and not none.adjoint.outputs


def test_outputs_without_a_gradient_are_not_read() -> None:
    found = derivative(cells.GRUCell(5, H))
    some = found.without([True] * 5, [False])
    assert not any(feed.kind == "gradient" for feed in some.feeds)
    assert some.forward.outputs[: len(found.forward.outputs)] == found.forward.outputs
    some.adjoint.validate()


def test_the_adjoint_is_tight() -> None:
    for cell in (cells.LSTMCell(5, H), cells.GRUCell(5, H), cells.LEMCell(5, H)):
        adjoint = derivative(cell).adjoint
        seen = set()
        for node in adjoint.nodes:
            key = (node.op, node.inputs, node.start, node.stop, node.number)
            assert key not in seen, f"{node} is computed twice"
            seen.add(key)
        read = {v for n in adjoint.nodes for v in n.inputs} | {o.value for o in adjoint.outputs}
        read |= {s.next for s in adjoint.states}
        assert all(node.value in read for node in adjoint.nodes)
        numbers = {n.value: n.number for n in adjoint.nodes if n.op == "const"}
        for node in adjoint.nodes:
            if node.op in ("mul", "div"):
                assert 1.0 not in [numbers.get(v) for v in node.inputs], node
            if node.op in ("add", "sub"):
                assert 0.0 not in [numbers.get(v) for v in node.inputs], node


def test_the_cheapest_cut() -> None:
    # a -> b -> {c, d} -> wanted: b alone is cheaper than c and d, and nearer than a.
    reads = {"a": (), "b": ("a",), "c": ("b",), "d": ("b",)}
    costs = {"a": 2.0, "b": 2.0, "c": 1.5, "d": 1.5}
    assert cheapest(reads, costs, ["a"], ["c", "d"]) == {"b"}
    assert cheapest(reads, costs | {"c": 1.0, "d": 1.0}, ["a"], ["c", "d"]) == {"c", "d"}
    assert cheapest(reads, costs, [], ["c", "d"]) == set()
    assert cheapest(reads, {"a": 1.0}, ["a"], ["d"]) == {"a"}
    with pytest.raises(ValueError, match="neither be kept"):
        cheapest(reads, {}, ["a"], ["d"])
