"""What a cell may look like, and what is said of one that does not."""

import pytest
import torch
from example_cells import CELLS, Repeat, Triple
from torch import nn

from rnnlab.recurrence import Noise, probe
from rnnlab.recurrence.contract import check_lengths, check_resets, draw, initial_state, shift_resets, step

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "shapes", "single", "output", "width"),
    [
        ("gru", ((4,),), True, "state", 4),
        ("lstm", ((4,), (4,)), False, "state", 4),
        ("leaky", ((4,),), True, "state", 4),
        ("triple", ((4,), (2,), (1,)), False, "method", 6),
        ("output_and_state", ((4,),), True, "returned", 5),
        ("output_and_pair", ((4,), (4,)), False, "returned", 4),
    ],
)
def test_probe_tells_a_state_from_an_output_and_a_state(name, shapes, single, output, width):
    cell = CELLS[name](3, 4)
    spec = probe(cell, torch.randn(2, 3))
    assert (spec.state_shapes, spec.single, spec.output) == (shapes, single, output)
    assert spec.output_shape == (width,)
    state = initial_state(cell, spec, 2, torch.randn(2, 3))
    found, new = step(cell, spec, torch.randn(2, 3), state)
    assert found.shape == (2, width)
    assert [s.shape for s in new] == [(2, *shape) for shape in shapes]


class ThreeByIndex(nn.Module):
    """Indexing would read rows of a tensor as states without an error."""

    hidden_size = 4

    def forward(self, x, state):
        return state[0] + x, state[1] * 2, state[2] - x


def test_probe_finds_the_number_of_states_of_a_cell_that_indexes_them():
    assert probe(ThreeByIndex(), torch.randn(2, 4)).state_shapes == ((4,), (4,), (4,))


class GivenOrNone(nn.Module):
    """Two states of unequal widths, which only `state=None` reveals."""

    def forward(self, x, state=None):
        h, memory = (x.new_zeros(len(x), 2), x.new_zeros(len(x), 3, 5)) if state is None else state
        return h + x[:, :2], memory + x.mean()


def test_probe_learns_shapes_from_a_cell_that_takes_none():
    assert probe(GivenOrNone(), torch.randn(2, 4)).state_shapes == ((2,), (3, 5))


def test_probe_leaves_modes_gradients_and_random_numbers_alone():
    cell = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3))
    cell[0].eval()

    class Wrapped(nn.Module):
        hidden_size = 3

        def __init__(self):
            super().__init__()
            self.inner = cell

        def forward(self, x, h):
            return self.inner(x) + h

    wrapped = Wrapped()
    before = torch.get_rng_state()
    probe(wrapped, torch.randn(0, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert wrapped.training
    assert not cell[0].training
    assert cell[1].weight.grad is None


class Growing(nn.Module):
    hidden_size = 4

    def forward(self, x, h):
        return torch.cat([h, x], -1)


class Unlearnable(nn.Module):
    def forward(self, x, state):
        return state.missing


class Broken(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.across = nn.Linear(hidden_size + 1, hidden_size)

    def forward(self, x, h):
        return torch.tanh(self.across(h))


class Sizeless(nn.Module):
    """A cell that keeps its sizes to itself."""

    def __init__(self, input_size, hidden_size, states):
        super().__init__()
        self.inward = nn.Linear(input_size, hidden_size)
        self.across = nn.Linear(hidden_size, hidden_size, bias=False)
        self.states = states

    def forward(self, x, state):
        if self.states == 1:
            return torch.tanh(self.inward(x) + self.across(state))
        h, c = state
        c = c + torch.tanh(self.inward(x) + self.across(h))
        return torch.tanh(c), c


@pytest.mark.parametrize("sizes", [(3, 4), (4, 3), (1, 5), (5, 1), (2, 2)])
@pytest.mark.parametrize("states", [1, 2])
def test_probe_finds_the_width_of_a_cell_that_does_not_tell_it(sizes, states):
    spec = probe(Sizeless(*sizes, states), torch.randn(2, sizes[0]))
    assert spec.state_shapes == ((sizes[1],),) * states
    assert spec.single == (states == 1)


class BadStart(Triple):
    def initial_state(self, batch):
        return {"a": torch.zeros(batch, 4)}


class Shrinking(Triple):
    def forward(self, x, state):
        return super().forward(x, state)[:2]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Growing(), r"no state found that Growing takes.*initial_state\(batch\)"),
        (Unlearnable(), r"inputs \[7, 3\] and no state, it raises AttributeError"),
        (
            Broken(3, 4),
            r"Broken .* the state tensor \[7, 4\], it raises RuntimeError: mat1.*test_contract\.py:\d+",
        ),
        (BadStart(3, 4), r"BadStart.initial_state\(7\) returned dict: it must be a tensor or a tuple"),
        (
            Shrinking(3, 4),
            r"returned \(tensor \[7, 4\], tensor \[7, 2\]\): it must return a new state of the same",
        ),
    ],
)
def test_probe_says_what_it_tried(cell, message):
    with pytest.raises(ValueError, match=message):
        probe(cell, torch.randn(2, 3))


def test_zeros_follow_the_parameters_or_without_any_the_inputs():
    for cell, x, dtype in [
        (nn.GRUCell(3, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64), torch.float64),
        (Repeat(3, 3), torch.randn(2, 3, dtype=torch.float64), torch.float64),
        (Repeat(3, 3), torch.ones(2, 3, dtype=torch.long), torch.get_default_dtype()),
    ]:
        (state,) = initial_state(cell, probe(cell, x), 2, x)
        assert state.dtype == dtype
        assert state.shape == (2, 3)


class Drawing(nn.Module):
    def __init__(self, *noise):
        super().__init__()
        self.noise = noise

    def draw(self, length, batch, *, device, dtype):
        return self.noise


def test_a_plain_tensor_is_noise_for_each_step():
    mask, shared = torch.ones(5, 2, 3), torch.ones(9, 9)
    drawn = draw(Drawing(mask, Noise(shared, "call")), 5, 2, device=CPU, dtype=torch.float32)
    assert [n.per for n in drawn] == ["step", "call"]
    assert drawn[0].value is mask


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (
            Noise(torch.ones(5, 3), "step"),
            r"of shape \[5, 3\] for 5 steps and 2 rows: it must start with \[5, 2\]",
        ),
        (Noise(torch.ones(5, 2), "sequence"), r"must start with \[2\]"),
        (Noise(torch.ones(5, 2), "layer"), "'step', 'sequence' or 'call'"),
    ],
)
def test_noise_of_another_shape_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        draw(Drawing(noise), 5, 2, device=CPU, dtype=torch.float32)


def test_lengths_come_as_tensor_or_list_and_vanish_where_all_are_full():
    for given in ([2, 5], torch.tensor([2, 5]), torch.tensor([2, 5], dtype=torch.int32), (2, 5)):
        checked = check_lengths(given, 5, 2, CPU)
        assert checked.values.dtype == torch.int64
        assert checked.values.tolist() == checked.host.tolist() == [2, 5]
        assert check_lengths(checked, 5, 2, CPU) is checked
    assert check_lengths([5, 5], 5, 2, CPU) is None


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([0, 5], ValueError, "from 1 to T=5, got 0 in row 0; leave empty rows out"),
        ([2, 6], ValueError, "from 1 to T=5, got 6 in row 1"),
        ([2, -1], ValueError, "got -1 in row 1"),
        ([2], ValueError, r"\[B\] = \[2\], one for each row, got \[1\]"),
        (torch.ones(2, 1, dtype=torch.long), ValueError, r"got \[2, 1\]"),
        (torch.ones(2), TypeError, "lengths must be integers, got torch.float32"),
        ([1.0, 2.0], TypeError, "lengths must be integers"),
        (torch.tensor([True, False]), TypeError, "lengths must be integers, got torch.bool"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, error, message):
    with pytest.raises(error, match=message):
        check_lengths(lengths, 5, 2, CPU)


@pytest.mark.parametrize(
    ("resets", "error", "message"),
    [
        (torch.zeros(5, 2), TypeError, "must be a bool tensor .* got torch.float32"),
        ([[True]], TypeError, "got list"),
        (torch.zeros(2, 5, dtype=torch.bool), ValueError, r"\[T, B\] = \[5, 2\], got \[2, 5\]"),
        (
            torch.zeros(5, 2, dtype=torch.bool, device="meta"),
            ValueError,
            "resets are on meta, the inputs on cpu",
        ),
    ],
)
def test_resets_that_do_not_fit_are_refused(resets, error, message):
    with pytest.raises(error, match=message):
        check_resets(resets, 5, 2, CPU)


def test_in_reverse_a_state_restarts_where_a_document_ends():
    resets = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=torch.bool)
    expected = torch.tensor([[0, 0], [1, 1], [0, 1], [0, 0]], dtype=torch.bool)
    assert torch.equal(shift_resets(resets, None), expected)
    # The second row ends before its last mark, which is padding.
    shortened = shift_resets(resets, torch.tensor([4, 3]))
    assert shortened[:, 1].tolist() == [False, True, False, False]
