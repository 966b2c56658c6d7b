"""The reference loop: against cells stepped by hand, to the second derivative."""

import pytest
import torch
from agreement import assert_agree, tensors
from example_cells import CELLS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rnnlab.recurrence import Noise, Recurrence

F64 = torch.float64


def eager(name, reverse=False):
    torch.manual_seed(2)
    return Recurrence(CELLS[name](3, 4).double(), reverse=reverse, backend="eager")


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def by_rows(layer, x, state, lengths, resets):
    """Each row by itself, a step at a time, with nothing of it in the padding."""
    cell, spec = layer.cell, layer.spec(x[0])
    outputs, finals = [], []
    for row, length in enumerate(lengths):
        at = slice(row, row + 1)
        fresh = cell.initial_state(1) if hasattr(cell, "initial_state") else None
        if fresh is None:
            fresh = tuple(torch.zeros(1, *shape, dtype=F64) for shape in spec.state_shapes)
            fresh = fresh[0] if spec.single else fresh
        now = fresh
        if state is not None:
            now = tuple(s[at] for s in as_tuple(state))
            now = now[0] if spec.single else now
        row_outputs = {}
        for t in reversed(range(length)) if layer.reverse else range(length):
            starts = resets[t][row] if not layer.reverse else t + 1 < length and resets[t + 1][row]
            if starts:
                now = fresh
            row_outputs[t], now = layer_step(cell, spec, x[t, at], now)
        zeros = torch.zeros(1, *spec.output_shape, dtype=F64)
        outputs.append(torch.stack([row_outputs.get(t, zeros) for t in range(len(x))]))
        finals.append(as_tuple(now))
    return torch.cat(outputs, 1), [torch.cat(parts) for parts in zip(*finals, strict=True)]


def layer_step(cell, spec, x, state):
    result = cell(x, state)
    if spec.output == "returned":
        return result
    return (cell.output(result) if spec.output == "method" else as_tuple(result)[0]), result


@st.composite
def patterns(draw):
    length, batch = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, length), min_size=batch, max_size=batch))
    row = st.lists(st.booleans(), min_size=batch, max_size=batch)
    resets = draw(st.lists(row, min_size=length, max_size=length))
    return length, batch, lengths, resets, draw(st.booleans())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=8, deadline=None)
@given(pattern=patterns())
def test_agrees_with_each_row_run_by_itself(name, reverse, pattern):
    length, batch, lengths, resets, with_state = pattern
    layer = eager(name, reverse)
    x = torch.randn(length, batch, 3, dtype=F64)
    for row, end in enumerate(lengths):
        x[end:, row] = float("nan")
    x.requires_grad_()
    state, leaves = None, [x, *layer.parameters()]
    if with_state:
        shapes = layer.spec(x[0]).state_shapes
        parts = tuple(torch.randn(batch, *shape, dtype=F64, requires_grad=True) for shape in shapes)
        leaves += parts
        state = parts[0] if layer.spec(x[0]).single else parts
    assert_agree(
        lambda: layer(x, state, lengths=lengths, resets=torch.tensor(resets)),
        lambda: by_rows(layer, x, state, lengths, resets),
        leaves,
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["gru", "triple", "output_and_pair"])
def test_first_and_second_derivative_are_right(name, reverse):
    layer = eager(name, reverse)
    x = torch.randn(3, 2, 3, dtype=F64, requires_grad=True)
    resets = torch.tensor([[False, True], [True, False], [False, False]])

    def run(x, *parameters):
        return tuple(tensors(layer(x, lengths=[3, 2], resets=resets)))

    inputs = (x, *layer.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_padding_is_never_shown_to_the_cell():
    class Strict(nn.Module):
        hidden_size = 3

        def forward(self, x, h):
            assert x.isfinite().all()
            return h + 1 / x

    x = torch.full((4, 2, 3), float("nan"))
    x[:2] = 1.0
    x[2:, 0] = 2.0
    outputs, state = Recurrence(Strict(), backend="eager")(x, lengths=[4, 2])
    assert outputs[2:, 1].eq(0).all()
    assert state.tolist() == [[3.0] * 3, [2.0] * 3]


@pytest.mark.parametrize("reverse", [False, True])
def test_traced_whole_it_computes_the_same(reverse):
    layer = eager("triple", reverse)
    x = torch.randn(4, 3, 3, dtype=F64)
    x[2:, 1] = float("nan")
    x.requires_grad_()
    lengths, resets = torch.tensor([4, 2, 3]), torch.rand(4, 3) < 0.5
    traced = torch.compile(layer, backend="eager", fullgraph=True)
    assert_agree(
        lambda: traced(x, lengths=lengths, resets=resets),
        lambda: layer(x, lengths=lengths, resets=resets),
        [x, *layer.parameters()],
    )


def test_autocast_computes_low_and_carries_the_states_dtype():
    layer = Recurrence(nn.LSTMCell(3, 4), backend="eager")
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, (h, c) = layer(x)
    assert {t.dtype for t in (outputs, h, c)} == {torch.float32}
    exact, _ = layer(x)
    assert not torch.equal(outputs, exact)
    torch.testing.assert_close(outputs, exact, atol=0.03, rtol=0)


class Noisy(nn.Module):
    """Adds noise of each kind, each told from the others by its size."""

    hidden_size = 2

    def draw(self, length, batch, *, device, dtype):
        if not self.training:
            return ()
        steps = torch.arange(length * batch, dtype=dtype, device=device).view(length, batch, 1)
        rows = 100.0 * (1 + torch.arange(batch, dtype=dtype, device=device)).view(batch, 1)
        return steps, Noise(rows, "sequence"), Noise(torch.tensor([1e4, 2e4], dtype=dtype), "call")

    def forward(self, x, h, step=0, row=0, shared=0):
        return h * 0 + x + step + row + shared


@pytest.mark.parametrize("lengths", [None, [2, 3, 1]])
@pytest.mark.parametrize("reverse", [False, True])
def test_noise_reaches_its_own_step_and_row(reverse, lengths):
    layer = Recurrence(Noisy(), reverse=reverse, backend="eager")
    outputs, _ = layer(torch.zeros(3, 3, 2), lengths=lengths)
    for t in range(3):
        for b in range(3):
            value = 3 * t + b + 100 * (b + 1)
            expected = [value + 1e4, value + 2e4] if lengths is None or t < lengths[b] else [0, 0]
            assert outputs[t, b].tolist() == expected
    assert layer.eval()(torch.zeros(3, 3, 2))[0].eq(0).all()


def test_an_empty_batch_runs():
    outputs, state = Recurrence(nn.GRUCell(3, 4), backend="eager")(torch.zeros(5, 0, 3))
    assert (outputs.shape, state.shape) == ((5, 0, 4), (0, 4))
