"""One layer and direction as a module: forms, checks, streaming, pickling."""

import copy
import pickle

import pytest
import torch
from example_cells import CELLS
from torch import nn

import rnnlab
from rnnlab.recurrence import Recurrence

F64 = torch.float64


@pytest.mark.parametrize("name", CELLS)
def test_steps_and_pieces_equal_the_whole_sequence(name):
    layer = Recurrence(CELLS[name](3, 4).double())
    x = torch.randn(6, 2, 3, dtype=F64)
    whole, final = layer(x)
    state, steps = None, []
    for x_t in x:
        output, state = layer.step(x_t, state)
        steps.append(output)
    torch.testing.assert_close(torch.stack(steps), whole)
    torch.testing.assert_close(state, final)
    first, carried = layer(x[:2])
    second, last = layer(x[2:], carried)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(last, final)


def test_a_carried_state_goes_on_where_a_reset_restarts():
    layer = Recurrence(CELLS["triple"](3, 4).double())
    x = torch.randn(4, 2, 3, dtype=F64)
    _, carried = layer(torch.randn(3, 2, 3, dtype=F64))
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[2] = True
    outputs, final = layer(x, carried, resets=resets)
    before, _ = layer(x[:2], carried)
    after, last = layer(x[2:])
    torch.testing.assert_close(outputs, torch.cat([before, after]))
    torch.testing.assert_close(final, last)


def test_a_learned_start_gets_its_gradient():
    layer = Recurrence(CELLS["triple"](3, 4))
    outputs, _ = layer(torch.randn(3, 2, 3))
    outputs.sum().backward()
    assert layer.cell.start.grad.abs().sum() > 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_with_parameters_of_their_own(duplicate):
    layer = Recurrence(CELLS["leaky"](3, 4), reverse=True)
    x = torch.randn(5, 2, 3)
    expected, _ = layer(x)
    other = duplicate(layer)
    torch.testing.assert_close(other(x)[0], expected)
    with torch.no_grad():
        other.cell.inward.weight.zero_()
    torch.testing.assert_close(layer(x)[0], expected)


def test_is_found_in_the_package_and_shows_its_settings():
    assert rnnlab.Recurrence is Recurrence
    assert "cell.weight_ih" in Recurrence(nn.GRUCell(2, 3)).state_dict()
    shown = repr(Recurrence(nn.GRUCell(2, 3), reverse=True, backend="eager"))
    assert "reverse=True, backend='eager'" in shown


def test_runs_on_integer_inputs_where_the_cell_does():
    class Tokens(nn.Module):
        hidden_size = 4

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)

        def forward(self, x, h):
            return torch.tanh(h + self.embed(x))

    outputs, _ = Recurrence(Tokens())(torch.randint(5, (3, 2)), lengths=[3, 1])
    assert outputs.shape == (3, 2, 4)
    assert outputs[1:, 1].eq(0).all()


x = torch.randn(5, 2, 3)
gru = Recurrence(nn.GRUCell(3, 4))
lstm = Recurrence(nn.LSTMCell(3, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: gru(torch.randn(5)),
            ValueError,
            r"x must be \[T, B, \*\] with at least one step, got \[5\]",
        ),
        (lambda: gru(x[:0]), ValueError, r"at least one step, got \[0, 2, 3\]"),
        (lambda: gru(torch.randn(5, 2, 9)), ValueError, "GRUCell has input_size=3, got inputs of 9 features"),
        (lambda: gru(x, torch.zeros(3, 4)), ValueError, r"must have shapes \[\[2, 4\]\], got \[\[3, 4\]\]"),
        (lambda: lstm(x, torch.zeros(2, 4)), ValueError, r"shapes \[\[2, 4\], \[2, 4\]\], got \[\[2, 4\]\]"),
        (lambda: gru(x, "zero"), ValueError, r"must have shapes \[\[2, 4\]\], got str"),
        (
            lambda: gru(x, torch.zeros(2, 4).double()),
            ValueError,
            "the state is torch.float64, the parameters",
        ),
        (
            lambda: gru(x, torch.zeros(2, 4, device="meta")),
            ValueError,
            "the state is on meta, the inputs on cpu",
        ),
        (lambda: gru(x, lengths=[1, 9]), ValueError, "from 1 to T=5, got 9 in row 1"),
        (lambda: gru(x, resets=torch.zeros(5, 3).bool()), ValueError, r"\[5, 2\], got \[5, 3\]"),
        (lambda: Recurrence(nn.GRUCell), TypeError, "cell must be an nn.Module instance"),
        (
            lambda: Recurrence(nn.GRUCell(3, 4), reverse=True).step(x[0]),
            ValueError,
            "cannot run step by step",
        ),
    ],
)
def test_says_what_does_not_fit(call, error, message):
    with pytest.raises(error, match=message):
        call()
