"""What runs where: once a call, at all steps at once, in the loop."""

from collections import Counter

import fused_cells
import pytest
import torch
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.recurrence.compiler import Compiled, compile_cell
from rnnlab.recurrence.graph import Unsupported


def compiled(cell: nn.Module, width: int = 5) -> Compiled:
    found = compile_cell(cell, torch.zeros(2, 3, width))
    found.program.validate()
    return found


def count(found: Compiled) -> Counter[str]:
    return Counter(found.lowered.regions.values())


def test_a_gated_cell_is_all_in_the_program() -> None:
    found = compiled(cells.LSTMCell(5, 6))
    lowered = found.lowered
    assert lowered.invariant is None and lowered.parallel is None and lowered.readout is None
    # The parameters themselves are the inputs, transposed in the product and not before.
    assert sorted(v.path for v in lowered.feeds if v.role == "parameter") == [
        "bias_hh",
        "bias_ih",
        "weight_hh",
        "weight_ih",
    ]
    products = [n for n in found.program.nodes if n.op == "matmul"]
    assert len(products) == 2 and all(n.transposed for n in products)
    # The input's product does not wait for the state, and the biases are added to each other first.
    assert {n.value in found.program.stateful for n in products} == {True, False}
    assert any(n.op == "add" and n.value in found.program.invariant for n in found.program.nodes)


def test_what_is_made_of_parameters_runs_once() -> None:
    found = compiled(cells.AntisymmetricRNNCell(5, 6))
    graph = found.lowered.invariant
    assert graph is not None
    assert [o.name for o in graph.operations][-1] == "aten.sub.Tensor"
    assert [v.path for v in graph.reads] == ["weight_hh"]
    assert all(not v.varies for v in graph.gives)


def test_readouts_with_products_and_operators_without_a_row_operation() -> None:
    found = compiled(fused_cells.EagerParts())
    lowered = found.lowered
    assert lowered.parallel is not None and lowered.readout is not None
    assert "aten.atan2.default" in {o.name for o in lowered.parallel.operations}
    assert "aten.addmm.default" in {o.name for o in lowered.readout.operations}
    assert [v.role for v in lowered.stored] == ["node"]
    assert count(found)["recurrent"] >= 3


def test_a_readout_of_row_operations_stays_in_the_program() -> None:
    class Read(fused_cells.Sized):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(self.inward(x) + self.across(h))

        def output(self, h: Tensor) -> Tensor:
            return torch.softmax(h, -1)

    found = compiled(Read())
    assert found.lowered.readout is None
    stored = found.program.outputs[0].value
    assert stored in found.program.stateful and stored not in found.program.carried


def test_dead_operators_and_parameters_are_left_out() -> None:
    class Waste(fused_cells.Sized):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            self.across(h).sort()
            return torch.tanh(self.inward(x)) + h

    assert {v.path for v in compiled(Waste()).lowered.feeds} == {"", "inward.weight", "inward.bias"}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda m, x, h: h.cumprod(1), r"aten\.cumprod"),
        (lambda m, x, h: h + h.flip(0), "mixes rows"),
        (lambda m, x, h: h + h.mean(0), "reduces the batch"),
        (lambda m, x, h: h + h[:1], "mixes rows|another course"),
        (lambda m, x, h: torch.softmax(h @ h.T, -1) @ h, "two batch dimensions|product over the batch"),
        (lambda m, x, h: h + h.max(-1, keepdim=True).values, "amax and amin are"),
        (lambda m, x, h: h + h.double().float(), "converts torch.float32 to torch.float64"),
        (lambda m, x, h: h + (h > 0).sum(-1, keepdim=True), "counts booleans|int64"),
        (lambda m, x, h: h[:, torch.tensor([1, 0, 2, 3, 5, 4])], r"aten\.index"),
    ],
)
def test_what_the_loop_cannot_do(step: object, words: str) -> None:
    class Odd(fused_cells.Sized):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return step(self, x, h) + self.inward(x)  # type: ignore[operator]

    with pytest.raises(Unsupported, match=words) as info:
        compiled(Odd())
    assert "test_regions.py" in str(info.value)


def test_every_shipped_cell_is_compiled_whole() -> None:
    for name, make in cells.CELLS.items():
        cell = make(5, 6, proj_size=3) if name == "projected_lstm" else make(5, 6)
        lowered = compiled(cell).lowered
        assert lowered.parallel is None and lowered.readout is None, name
