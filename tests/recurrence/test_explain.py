"""What `rnnlab explain` says of a cell."""

import copy
import re
from pathlib import Path

import fused_cells
import pytest
import torch
from torch import Tensor, nn

from rnnlab import DeepRNN, cells, explain
from rnnlab.recurrence.explain import main

pytestmark = pytest.mark.usefixtures("interpreter")


def test_regions_lines_and_costs() -> None:
    (layer,) = explain(cells.AntisymmetricRNNCell(5, 6), backend="fused").layers
    assert layer.backend == "fused"
    assert [line.in_kernel for line in layer.regions["invariant"]] == [False]
    assert all(line.in_kernel for line in layer.regions["recurrent"])
    assert layer.flops_forward >= 2 * 6 * (5 + 6)
    assert layer.flops_backward >= 2 * layer.flops_forward - 100
    assert layer.kept_bytes == 6 * 4
    text = str(layer)
    assert re.search(r"dynamical\.py:\d+: return F\.linear", text)
    assert "(in PyTorch)" in text


def test_the_programs_are_those_that_run() -> None:
    (layer,) = explain(cells.LayerNormLSTMCell(5, 6), backend="fused").layers
    assert layer.adjoint is not None
    assert "total_weight_ln_hh" in [total.name for total in layer.adjoint.totals]


def test_reasons_of_what_is_not_fused() -> None:
    class Sorted(fused_cells.Sized):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.sort(self.inward(x) + self.across(h)).values

    (layer,) = explain(Sorted()).layers
    assert layer.backend == "eager"
    assert "aten.sort" in layer.reasons["fused"]
    assert "test_explain.py" in str(layer)


def test_why_not_what_could_run_it_too() -> None:
    (layer,) = explain(cells.GRUCell(5, 6)).layers
    assert layer.backend == "fused"
    assert layer.reasons == {"aten": "fused is faster here"}
    (layer,) = explain(cells.GRUCell(5, 6), backend="eager").layers
    assert set(layer.reasons.values()) == {"another was asked for"}


def test_every_layer_and_direction_of_a_network() -> None:
    found = explain(DeepRNN("lem", 5, 6, num_layers=2, bidirectional=True))
    assert [layer.name for layer in found.layers] == [
        "layers.l0",
        "layers.l0_reverse",
        "layers.l1",
        "layers.l1_reverse",
    ]
    assert "reverse" in found.layers[1].cell
    assert found.layers[0].forward is not None
    assert "adjoint program" in found.programs()


class Leaky(nn.Module):
    """Tells its width nowhere."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.inward, self.across = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.9 * h + 0.1 * torch.tanh(self.inward(x) + self.across(h))


def test_a_network_tells_the_widths_that_its_cells_do_not() -> None:
    network = DeepRNN(Leaky, 5, [6, 4], bidirectional=True)
    for found in (explain(network), explain(copy.deepcopy(network))):
        assert [re.search(r"input (\d+)", layer.cell)[1] for layer in found.layers] == ["5", "5", "12", "12"]
    with pytest.raises(ValueError, match="no attribute input_size"):
        explain(Leaky(5, 6))
    assert "input 5," in explain(Leaky(5, 6), 5).layers[0].cell


def test_a_cell_of_a_stranger() -> None:
    (layer,) = explain(nn.LSTMCell(5, 6), backend="fused").layers
    assert layer.backend == "fused"
    assert "lstm_cell" in str(layer)
    with pytest.raises(ValueError, match="input_size"):
        explain(nn.Linear(3, 3))


def test_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["lem", "--hidden-size", "8", "--program"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("LEMCell") and "adjoint program" in said and "bytes kept" in said
    assert main(["no_such_cell"]) == 2
    assert "rnnlab explain: unknown cell" in capsys.readouterr().err
    (tmp_path / "my_cells.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Leaky(nn.Module):\n"
        "    def __init__(self, i, h):\n        super().__init__()\n        self.hidden_size = h\n"
        "        self.a = nn.Linear(i + h, h)\n\n"
        "    def forward(self, x, h):\n        return torch.tanh(self.a(torch.cat([x, h], 1)))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["my_cells.py:Leaky"]) == 0
    assert "my_cells.py:12" in capsys.readouterr().out
