"""Gates found in the captured step of any cell, counted on the states that it really had."""

import pytest
import torch
from torch import Tensor, nn

import rnnlab
from rnnlab.probes import merge, probe
from rnnlab.probes.saturation import _labels


def activations(network: nn.Module, x: Tensor, **options) -> dict:
    (layer,) = probe(network, lambda: network(x, **options)[0].sum()).layers
    return {a.name: a for a in layer.activations}


def test_an_lstm_shows_its_gates_by_the_users_own_words() -> None:
    network = rnnlab.DeepRNN("lstm", 3, 5)
    cell = network.layers["l0"].cell
    with torch.no_grad():
        cell.bias_ih[:5], cell.bias_ih[5:10] = -20.0, 20.0
    x, lengths = torch.randn(6, 4, 3), torch.tensor([6, 2, 3, 6])
    found = activations(network, x, lengths=lengths)
    assert set(found) == {"sigmoid(i)", "sigmoid(f)", "tanh(g)", "sigmoid(o)", "tanh(c)"}
    assert found["sigmoid(i)"].low == 1.0
    assert found["sigmoid(f)"].high == 1.0
    assert found["sigmoid(o)"].saturated < 0.5
    assert all(a.count == 17 * 5 for a in found.values())


def test_shares_are_those_of_the_values_themselves() -> None:
    seen = []

    class Watched(nn.Module):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__()
            self.hidden_size = hidden_size
            self.both = nn.Linear(input_size + hidden_size, 2 * hidden_size)
            self.new = nn.Linear(input_size, hidden_size)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            u, r = torch.sigmoid(4 * self.both(torch.cat([x, h], -1))).chunk(2, -1)
            seen.append(u.detach())
            return u * h + (1 - u) * torch.relu(self.new(x) * r)

    network = rnnlab.DeepRNN(Watched, 3, 4)
    x = torch.randn(8, 2, 3)
    found = activations(network, x)
    assert set(found) == {"u = sigmoid", "r = sigmoid", "relu(self.new(x) * r)"}
    truth = torch.cat([values for values in seen if values.shape == (2, 4)][:8])
    assert found["u = sigmoid"].low == pytest.approx(float((truth < 0.1).double().mean()))
    assert found["u = sigmoid"].high == pytest.approx(float((truth > 0.9).double().mean()))
    assert found["u = sigmoid"].mean == pytest.approx(float(truth.mean()), abs=1e-5)


def test_torchs_own_cells_and_activations_of_parameters_alone() -> None:
    class Leaky(nn.Module):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__()
            self.hidden_size = hidden_size
            self.rate = nn.Parameter(torch.zeros(hidden_size))
            self.cell = nn.GRUCell(input_size, hidden_size)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            leak = torch.sigmoid(self.rate)
            return leak * h + (1 - leak) * self.cell(x, h)

    kinds = [a.kind for a in activations(rnnlab.DeepRNN(Leaky, 3, 4), torch.randn(3, 2, 3)).values()]
    assert sorted(kinds) == ["sigmoid", "sigmoid", "tanh"]


@pytest.mark.parametrize(
    ("line", "index", "among", "parts", "expected"),
    [
        ("c = torch.sigmoid(f) * c + torch.sigmoid(i) * g", 1, 2, 1, ["sigmoid(i)"]),
        ("f, i = torch.sigmoid(a), torch.sigmoid(b)", 1, 2, 1, ["i = sigmoid"]),
        ("r, z = torch.sigmoid(a).chunk(2, -1)", 0, 1, 2, ["r = sigmoid", "z = sigmoid"]),
        ("gate = self.gate(x).sigmoid()", 0, 1, 1, ["gate = sigmoid"]),
        ("for _ in range(3): h = F.sigmoid(h)", 1, 3, 1, ["sigmoid(h) #2"]),
        ("return o * torch.sigmoid(", 0, 1, 1, None),
        ("ret = _VF.lstm_cell(x)", 0, 3, 1, None),
    ],
)
def test_names_come_from_the_line(line: str, index: int, among: int, parts: int, expected) -> None:
    assert _labels(f"cell.py:7: {line}", "sigmoid", index, among, parts) == expected


def test_batches_are_counted_together() -> None:
    network = rnnlab.DeepRNN("gru", 2, 3)
    found = [probe(network, lambda n=n: network(torch.randn(n, 2, 2))[0][-1].sum()) for n in (4, 9)]
    both = merge(found).layers[0]
    assert both.gradient.shape == (9, 4)
    assert both.activations[0].count == (4 + 9) * 2 * 3
    assert both.saturated == pytest.approx(
        (4 * found[0].layers[0].saturated + 9 * found[1].layers[0].saturated) / 13
    )
