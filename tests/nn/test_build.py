"""How layers are made from names, classes and factories, and what is refused."""

from functools import partial

import pytest
import torch
from example_cells import Leaky
from torch import nn

from rnnlab import DeepRNN, cells


def kinds(network):
    return [type(layer.cell) for layer in network.layers.values()]


@pytest.mark.parametrize(
    ("cell", "hidden_size", "num_layers", "expected", "widths"),
    [
        ("gru", 4, 1, [cells.GRUCell], 4),
        (cells.LSTMCell, 4, 2, [cells.LSTMCell] * 2, 4),
        (nn.GRUCell, [5, 4], 1, [nn.GRUCell] * 2, (5, 4)),
        (["lstm", "gru"], 4, 1, [cells.LSTMCell, cells.GRUCell], 4),
        (("lstm", nn.RNNCell), (5, 4), 2, [cells.LSTMCell, nn.RNNCell], (5, 4)),
        (partial(cells.RNNCell, nonlinearity="relu"), 4, 1, [cells.RNNCell], 4),
        (lambda i, h: Leaky(i, h), 4, 1, [Leaky], 4),
    ],
)
def test_cells_are_made_from_names_classes_factories_and_lists(
    cell, hidden_size, num_layers, expected, widths
):
    network = DeepRNN(cell, 3, hidden_size, num_layers)
    assert kinds(network) == expected
    assert network.hidden_size == widths
    assert network.num_layers == len(expected)


def test_options_dtype_and_device_reach_the_cells():
    network = DeepRNN(
        "lstm", 3, 4, 2, bias="single", cell_options={"forget_bias": 2.0}, device="meta", dtype=torch.float64
    )
    for layer in network.layers.values():
        assert layer.cell.forget_bias == 2.0
        assert layer.cell.bias_hh is None
    assert {(p.device.type, p.dtype) for p in network.parameters()} == {("meta", torch.float64)}
    # Leaky takes neither: it is moved after it was made.
    assert {p.dtype for p in DeepRNN(Leaky, 3, 4, dtype=torch.float64).parameters()} == {torch.float64}


def test_each_layer_has_parameters_of_its_own():
    network = DeepRNN("gru", 4, 4, 2, bidirectional=True, merge="sum")
    assert len({id(p) for p in network.parameters()}) == 16


class Picture(nn.Module):
    def initial_state(self, batch):
        return torch.zeros(batch, 2, 2)

    def forward(self, x, state):
        return state + x.mean(-1)[:, None, None]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DeepRNN("gruu", 3, 4), ValueError, "unknown cell 'gruu'.*did you mean 'gru'"),
        (
            lambda: DeepRNN(nn.GRUCell(3, 4), 3, 4),
            TypeError,
            "got an instance of GRUCell, which rnnlab.Recurr",
        ),
        (lambda: DeepRNN(3, 3, 4), TypeError, "cell must be a name, a class or a factory, got 3"),
        (lambda: DeepRNN(lambda i, h: i, 3, 4), TypeError, "must make an nn.Module, got int"),
        (lambda: DeepRNN(["gru", "gru"], 3, [4, 4, 4]), ValueError, "cell for 2, hidden_size for 3"),
        (lambda: DeepRNN("gru", 3, [4, 4], 3), ValueError, "hidden_size for 2, num_layers for 3"),
        (lambda: DeepRNN([], 3, 4), ValueError, "cell for 0"),
        (lambda: DeepRNN("gru", 3, 0), ValueError, "hidden_size must be a positive integer.*got 0"),
        (lambda: DeepRNN("gru", 3, [4, "5"]), ValueError, "hidden_size must be a positive integer"),
        (lambda: DeepRNN("gru", 0, 4), ValueError, "input_size must be a positive integer, got 0"),
        (lambda: DeepRNN("gru", 3, 4, 0), ValueError, "num_layers must be a positive integer, got 0"),
        (lambda: DeepRNN("gru", 3, 4, dropout=1.5), ValueError, "from 0 to 1, got 1.5"),
        (lambda: DeepRNN("gru", 3, 4, dropout=True), ValueError, "from 0 to 1, got True"),
        (lambda: DeepRNN("gru", 3, 4, merge="max"), ValueError, "merge must be one of 'concat'.*got 'max'"),
        (
            lambda: DeepRNN("gru", 3, 4, residual=True),
            ValueError,
            r"as wide as its input, got the widths \[3, 4\]",
        ),
        (lambda: DeepRNN("gru", 3, 4, backend="none"), ValueError, "unknown backend 'none'"),
        (lambda: DeepRNN("gru", 3, 4, bias="both"), ValueError, "bias must be True.*got 'both'"),
        (lambda: DeepRNN(nn.GRUCell, 3, 4, bias="single"), ValueError, "not to GRUCell"),
        (lambda: DeepRNN(Leaky, 3, 4, bias=False), ValueError, "Leaky takes no argument 'bias'"),
        (lambda: DeepRNN("gru", 3, 4, cell_options={"forget": 1}), TypeError, "argument 'forget'"),
        (
            lambda: DeepRNN(lambda i, h: Picture(), 3, 4),
            ValueError,
            r"must be \[B, O\] to feed .*\[B, 2, 2\]",
        ),
    ],
)
def test_says_what_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_misspelt_option_of_the_cell_is_told_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"takes no argument 'forgt_bias'; did you mean forget_bias\?"):
        DeepRNN("lstm", 3, 4, cell_options={"forgt_bias": 1.0})
