"""One recurrence in ONNX against the reference: every cell, both directions, rows of several lengths."""

import pytest
import torch
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.export.opaque import ExportError
from rnnlab.recurrence import Recurrence
from rnnlab.recurrence.contract import initial_state

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from rnnlab.export.onnx_emit import OPSET, Emitter, Val, helper, value_info  # noqa: E402
from rnnlab.export.onnx_recurrence import write_recurrence  # noqa: E402

NODES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "rnn_relu": "RNN"}


def exported(
    layers: list[Recurrence], x: Tensor, lengths: Tensor | None
) -> tuple[list[str], list[list[Tensor]]]:
    """The kinds of nodes and, for each layer, the outputs and final states that onnxruntime gives."""
    e = Emitter()
    infos = [value_info("x", x.dtype, ["T", "B", x.shape[2]])]
    feed = {"x": x.numpy()}
    if lengths is not None:
        infos.append(value_info("lengths", torch.int64, ["B"]))
        feed["lengths"] = lengths.numpy()
    wanted = []
    for number, layer in enumerate(layers):
        spec = layer.spec(x[0])
        states = []
        for index, state in enumerate(initial_state(layer.cell, spec, x.shape[1], x)):
            name = f"state{number}_{index}"
            infos.append(value_info(name, state.dtype, ["B", *state.shape[1:]]))
            feed[name] = state.detach().numpy()
            states.append(Val(name, state.dtype, tuple(state.shape)))
        given = None if lengths is None else Val("lengths", torch.int64, (None,))
        seen = Val("x", x.dtype, tuple(x.shape))
        wanted.append(write_recurrence(e, layer.cell, spec, seen, states, given, layer.reverse))
    names = [name for group in wanted for name in group]
    results = [value_info(name, x.dtype, None or []) for name in names]
    for result in results:
        result.type.tensor_type.ClearField("shape")
    weights = list(e.shared.weights.values())
    graph = helper.make_graph(e.nodes, "test", infos, results, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = iter(torch.from_numpy(array) for array in session.run(names, feed))
    return [node.op_type for node in e.nodes], [[next(values) for _ in group] for group in wanted]


def agree(
    cell: nn.Module, reverse_cell: nn.Module, lengths: Tensor | None, steps: int = 6, rows: int = 3
) -> list[str]:
    layers = [
        Recurrence(each, reverse=reverse, backend="eager").eval()
        for each, reverse in ((cell, False), (reverse_cell, True))
    ]
    x = torch.randn(steps, rows, 5)
    with torch.no_grad():
        kinds, found = exported(layers, x, lengths)
        for layer, (outputs, *final) in zip(layers, found, strict=True):
            expected, state = layer(x, lengths=lengths)
            torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)
            for ours, theirs in zip((state,) if isinstance(state, Tensor) else state, final, strict=True):
                torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    return kinds


@pytest.mark.parametrize("name", cells.CELLS)
def test_every_cell_agrees(name: str) -> None:
    make = cells.CELLS[name]
    size = 5 if name == "indrnn" else 4
    options = {"proj_size": 3} if name == "projected_lstm" else {}
    kinds = agree(make(5, size, **options), make(5, size, **options), torch.tensor([6, 2, 4]))
    assert NODES.get(name, "Scan") in kinds
    assert ("Scan" in kinds) == (name not in NODES)


@pytest.mark.parametrize("make", [nn.GRUCell, nn.LSTMCell, cells.LayerNormLSTMCell, cells.MinGRUCell])
def test_whole_rows_and_single_steps(make: type[nn.Module]) -> None:
    agree(make(5, 4), make(5, 4), None)
    agree(make(5, 4), make(5, 4), None, steps=1, rows=1)
    agree(make(5, 4), make(5, 4), torch.tensor([1]), steps=1, rows=1)


@pytest.mark.parametrize("bias", [False, "single"])
def test_other_biases(bias: bool | str) -> None:
    for make in (cells.LSTMCell, cells.GRUCell, cells.RNNCell):
        agree(make(5, 4, bias=bias), make(5, 4, bias=bias), torch.tensor([3, 6, 1]))


class Squashed(nn.Module):
    """A cell of a user's own, with its own output and first state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 8)
        self.start = nn.Parameter(torch.randn(4))

    def initial_state(self, batch: int) -> Tensor:
        return self.start.expand(batch, -1)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        gate, new = self.linear(torch.cat([x, state], dim=1)).chunk(2, dim=1)
        weight = torch.softmax(gate, dim=-1)
        return torch.where(new > 0, weight * new, state.clamp(-1, 1)) + new.mean(1, keepdim=True)

    def output(self, state: Tensor) -> Tensor:
        return torch.log1p(state.abs())[:, :3]


def test_a_cell_of_the_users_own() -> None:
    assert "Scan" in agree(Squashed(), Squashed(), torch.tensor([6, 1, 3]))


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 4
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.digamma(self.linear(x).abs() + 1) + state


def test_what_has_no_form_is_named_with_its_line() -> None:
    with pytest.raises(ExportError, match=r"Unknown: aten.digamma.default .*has no form in ONNX"):
        agree(Unknown(), Unknown(), None)


class Branching(nn.GRUCell):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, state) if state.sum() > 0 else state


def test_what_cannot_be_captured_says_why() -> None:
    with pytest.raises(ExportError, match="Branching has no form in ONNX: "):
        agree(Branching(5, 4), Branching(5, 4), None)
