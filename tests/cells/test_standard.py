"""The RNN, LSTM and GRU cells are PyTorch's: parameters, initialisation, results and gradients."""

import pytest
import torch
from agreement import assert_agree
from torch import nn

from rnnlab import cells

# PyTorch says once that its projected LSTM is not the fastest one.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


F64 = torch.float64

PAIRS = {
    "rnn": (cells.RNNCell, nn.RNNCell, {}),
    "rnn_relu": (cells.RNNCell, nn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (cells.LSTMCell, nn.LSTMCell, {}),
    "gru": (cells.GRUCell, nn.GRUCell, {}),
}


def pair(name, **options):
    """Our cell and PyTorch's, each made after the same seed."""
    ours, theirs, fixed = PAIRS[name]
    torch.manual_seed(3)
    own = ours(5, 7, dtype=F64, **fixed, **options)
    torch.manual_seed(3)
    return own, theirs(5, 7, dtype=F64, **fixed, **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_has_the_parameters_that_pytorch_draws_from_the_same_seed(name, bias):
    own, theirs = pair(name, bias=bias)
    assert list(own.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(own.state_dict()[key], value)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_pytorch_in_results_and_gradients(name, bias):
    own, theirs = pair(name, bias=bias)
    x = torch.randn(3, 5, dtype=F64, requires_grad=True)
    state = [torch.randn(3, 7, dtype=F64, requires_grad=True) for _ in range(2 if name == "lstm" else 1)]
    given = tuple(state) if name == "lstm" else state[0]
    assert_agree(
        lambda: own(x, given),
        lambda: theirs(x, given),
        [x, *state, *own.parameters()],
        [x, *state, *theirs.parameters()],
    )


@pytest.mark.parametrize("name", PAIRS)
def test_a_single_bias_is_the_second_one_at_zero(name):
    single, _ = pair(name)
    single = type(single)(5, 7, "single", dtype=F64, **PAIRS[name][2])
    assert "bias_hh" not in single.state_dict()
    double = type(single)(5, 7, True, dtype=F64, **PAIRS[name][2])
    double.load_state_dict({**single.state_dict(), "bias_hh": torch.zeros_like(double.bias_hh)})
    x, state = torch.randn(2, 5, dtype=F64), single.initial_state(2)
    torch.testing.assert_close(single(x, state), double(x, state))


def test_the_projected_lstm_is_a_step_of_pytorchs():
    theirs = nn.LSTM(5, 7, proj_size=3, dtype=F64)
    own = cells.ProjectedLSTMCell(5, 7, proj_size=3, dtype=F64)
    own.load_state_dict({key.removesuffix("_l0"): value for key, value in theirs.state_dict().items()})
    x = torch.randn(2, 5, dtype=F64, requires_grad=True)
    h, c = torch.randn(2, 3, dtype=F64), torch.randn(2, 7, dtype=F64)

    def expected():
        _, (h1, c1) = theirs(x[None], (h[None], c[None]))
        return h1[0], c1[0]

    by_name = dict(theirs.named_parameters())
    assert_agree(
        lambda: own(x, (h, c)),
        expected,
        [x, *own.parameters()],
        [x, *(by_name[f"{name}_l0"] for name, _ in own.named_parameters())],
    )


def test_the_initial_state_is_zero_in_the_parameters_dtype():
    assert torch.equal(cells.GRUCell(2, 3, dtype=F64).initial_state(4), torch.zeros(4, 3, dtype=F64))
    h, c = cells.ProjectedLSTMCell(2, 3, proj_size=1).initial_state(4)
    assert (h.shape, c.shape) == ((4, 1), (4, 3))


@pytest.mark.parametrize("bias", [True, "single"])
def test_forget_bias_is_the_sum_of_the_forget_gates_biases(bias):
    cell = cells.LSTMCell(5, 4, bias, forget_bias=1.5)
    total = cell.bias_ih + (0 if cell.bias_hh is None else cell.bias_hh)
    assert torch.equal(total[4:8], torch.full((4,), 1.5))
    assert not torch.equal(total[:4], torch.full((4,), 1.5))
    with torch.no_grad():
        cell.bias_ih.zero_()
    cell.reset_parameters()
    assert torch.equal(cell.bias_ih[4:8], torch.full((4,), 1.5))


@pytest.mark.parametrize("name", PAIRS)
def test_export_captures_a_step_with_a_free_batch(name):
    own, _ = pair(name)
    state = own.initial_state(3)
    x = torch.randn(3, 5, dtype=F64)
    batch = torch.export.Dim("batch", min=1)
    free = {0: batch}
    shapes = (free, (free, free) if isinstance(state, tuple) else free)
    program = torch.export.export(own, (x, state), dynamic_shapes=shapes)
    x, state = torch.randn(6, 5, dtype=F64), own.initial_state(6)
    torch.testing.assert_close(program.module()(x, state), own(x, state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cells.GRUCell(0, 3), "input_size must be a positive integer, got 0"),
        (lambda: cells.GRUCell(3, 2.5), "hidden_size must be a positive integer, got 2.5"),
        (lambda: cells.GRUCell(3, 3, "one"), "bias must be True .* got 'one'"),
        (lambda: cells.RNNCell(3, 3, nonlinearity="gelu"), "'tanh' or 'relu', got 'gelu'"),
        (lambda: cells.LSTMCell(3, 3, False, forget_bias=1.0), "forget_bias=1.0 needs a bias"),
        (lambda: cells.ProjectedLSTMCell(3, 3, proj_size=3), "proj_size must be from 1 to .*got 3"),
        (lambda: cells.LSTMCell(3, 3, init="he"), "unknown initialiser 'he': there are 'torch'"),
        (lambda: cells.find("GRUU"), "unknown cell 'GRUU'.*did you mean 'gru'"),
    ],
)
def test_says_what_is_wrong_with_an_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_shows_what_differs_from_the_default():
    assert repr(cells.GRUCell(2, 3)) == "GRUCell(2, 3)"
    cell = cells.LSTMCell(2, 3, "single", forget_bias=1.0, init="orthogonal")
    assert repr(cell) == "LSTMCell(2, 3, bias='single', init='orthogonal', forget_bias=1.0)"
    assert repr(cells.RNNCell(2, 3, nonlinearity="relu")) == "RNNCell(2, 3, nonlinearity='relu')"
