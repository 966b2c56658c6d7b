"""Networks move between DeepRNN and torch.nn with their parameters and settings."""

import pytest
import torch
from torch import nn

from rnnlab import DeepRNN, cells

# PyTorch says once that its projected LSTM is not the fastest one.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


MODULES = {
    "rnn": lambda: nn.RNN(3, 4, 2, nonlinearity="relu", batch_first=True),
    "lstm": lambda: nn.LSTM(3, 4, 2, dropout=0.3, bidirectional=True),
    "projected": lambda: nn.LSTM(3, 4, 2, proj_size=2, bias=False),
    "gru": lambda: nn.GRU(3, 4, dtype=torch.float64),
}


@pytest.mark.parametrize("name", MODULES)
def test_there_and_back_is_the_same_module(name):
    module = MODULES[name]().eval()
    next(module.parameters()).requires_grad_(False)
    before = torch.get_rng_state()
    network = DeepRNN.from_torch(module, backend="eager")
    back = network.to_torch()
    assert torch.equal(torch.get_rng_state(), before)
    assert type(back) is type(module)
    assert repr(back) == repr(module)
    assert back.training is network.training is False
    assert network.backend == "eager"
    for (key, value), (back_key, back_value) in zip(
        module.named_parameters(), back.named_parameters(), strict=True
    ):
        assert key == back_key
        assert torch.equal(value, back_value)
        assert value.requires_grad == back_value.requires_grad
        assert value.data_ptr() != back_value.data_ptr()
    x = torch.randn(5, 2, 3, dtype=next(module.parameters()).dtype)
    torch.testing.assert_close(network(x), module(x))


def test_a_single_bias_becomes_two():
    network = DeepRNN("lstm", 3, 4, 2, bias="single")
    module = network.to_torch()
    assert module.bias_hh_l1.eq(0).all()
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(module(x), network(x))


def test_third_party_cells_of_torch_convert_too():
    network = DeepRNN(nn.LSTMCell, 3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(network.to_torch()(x), network(x))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: DeepRNN(["lstm", "gru"], 3, 4), "all be RNN, all LSTM or all GRU"),
        (lambda: DeepRNN(["rnn", "rnn_relu"], 3, 4), "all be RNN, all LSTM or all GRU"),
        (lambda: DeepRNN("gru", 3, [4, 5]), "equal sizes"),
        (lambda: DeepRNN("gru", 3, 4, bidirectional=True, merge="sum"), "merged by 'sum'"),
        (lambda: DeepRNN("gru", 4, 4, residual=True), "residual=True"),
        (lambda: DeepRNN("gru", 4, 4, return_all_layers=True), "return_all_layers=True"),
        (lambda: DeepRNN("gru", 4, 4, 2, dropout=0.1, variational_dropout=True), "variational dropout"),
        (
            lambda: DeepRNN([cells.GRUCell, lambda i, h: cells.GRUCell(i, h, False)], 3, 4),
            "all have a bias, or none",
        ),
    ],
)
def test_what_torch_does_not_have_is_refused_with_the_reason(network, reason):
    with pytest.raises(ValueError, match=f"no nn.RNN, nn.LSTM or nn.GRU: .*{reason}"):
        network().to_torch()


def test_only_recurrent_modules_convert():
    with pytest.raises(TypeError, match=r"expected an nn.RNN, nn.LSTM or nn.GRU, got Linear"):
        DeepRNN.from_torch(nn.Linear(2, 3))
