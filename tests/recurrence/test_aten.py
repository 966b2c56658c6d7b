"""PyTorch's kernels as a backend agree with the reference, and refuse what they cannot do."""

import pytest
import torch
from agreement import assert_agree
from torch import nn

from rnnlab import cells
from rnnlab.recurrence import Noise, Recurrence, aten

# PyTorch says once that its projected LSTM is not the fastest one.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


F64 = torch.float64

MAKERS = {
    "rnn": cells.RNNCell,
    "rnn_relu": lambda i, h, **k: cells.RNNCell(i, h, nonlinearity="relu", **k),
    "lstm": cells.LSTMCell,
    "lstm_single_bias": lambda i, h, **k: cells.LSTMCell(i, h, "single", **k),
    "lstm_no_bias": lambda i, h, **k: cells.LSTMCell(i, h, False, **k),
    "projected_lstm": lambda i, h, **k: cells.ProjectedLSTMCell(i, h, proj_size=2, **k),
    "gru": cells.GRUCell,
    "torch_rnn": nn.RNNCell,
    "torch_lstm": nn.LSTMCell,
    "torch_gru": lambda i, h, **k: nn.GRUCell(i, h, bias=False, **k),
}


@pytest.mark.parametrize("lengths", [None, [2, 5, 1, 5], [3, 3, 2, 1]])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_agrees_with_the_reference(name, reverse, lengths):
    cell = MAKERS[name](3, 4, dtype=F64)
    fast, slow = (Recurrence(cell, reverse=reverse, backend=b) for b in ("aten", "eager"))
    x = torch.randn(5, 4, 3, dtype=F64, requires_grad=True)
    spec = fast.spec(x[0])
    parts = tuple(torch.randn(4, *shape, dtype=F64, requires_grad=True) for shape in spec.state_shapes)
    for state in (None, spec.to_cell(parts)):
        assert_agree(
            lambda state=state: fast(x, state, lengths=lengths),
            lambda state=state: slow(x, state, lengths=lengths),
            [x, *parts, *cell.parameters()] if state is not None else [x, *cell.parameters()],
        )


@pytest.mark.parametrize("reverse", [False, True])
def test_nan_in_the_padding_stays_there(reverse):
    layer = Recurrence(cells.GRUCell(3, 4), reverse=reverse, backend="aten")
    x = torch.randn(4, 2, 3)
    x[2:, 1] = float("nan")
    x.requires_grad_()
    outputs, state = layer(x, lengths=[4, 2])
    gradients = torch.autograd.grad(outputs.sum() + state.sum(), [x, *layer.parameters()])
    assert all(g.isfinite().all() for g in (outputs, state, *gradients))


def test_autocast_keeps_the_states_dtype():
    layer = Recurrence(cells.LSTMCell(3, 4), backend="aten")
    with torch.autocast("cpu", torch.bfloat16):
        outputs, (h, c) = layer(torch.randn(5, 2, 3))
    assert {t.dtype for t in (outputs, h, c)} == {torch.float32}


class Derived(cells.GRUCell):
    def forward(self, x, h):
        return super().forward(x, h) / 2


def hooked():
    cell = cells.GRUCell(3, 4)
    cell.register_forward_hook(lambda *_: None)
    return cell


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (Derived(3, 4), {}, "kernels for the RNN, LSTM and GRU cells alone"),
        (hooked(), {}, "the cell has hooks"),
        (cells.GRUCell(3, 4), {"resets": torch.zeros(5, 2, dtype=torch.bool)}, "no resets"),
        (cells.GRUCell(3, 4, dtype=F64), {}, "the inputs are torch.float32, the parameters torch.float64"),
    ],
)
def test_refuses_with_a_reason(cell, options, reason):
    layer = Recurrence(cell, backend="aten")
    layer.spec(torch.randn(2, 3, dtype=next(cell.parameters()).dtype))
    with pytest.raises(ValueError, match=reason):
        layer(torch.randn(5, 2, 3), **options)


def test_refuses_noise_inside_the_recurrence():
    layer = Recurrence(cells.GRUCell(3, 4))
    call = layer.call(torch.randn(5, 2, 3))
    noisy = type(call)(call.cell, call.spec, call.x, call.state, noise=(Noise(torch.ones(2, 1), "sequence"),))
    assert aten.Aten().refusal(call) is None
    assert "no noise" in aten.Aten().refusal(noisy)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["rnn_relu", "projected_lstm", "gru"])
def test_a_torch_module_has_the_sizes_of_its_stack(name, bidirectional):
    directions = 2 if bidirectional else 1
    first = MAKERS[name](3, 4)
    width = 2 if name == "projected_lstm" else 4
    stack = [first, *(MAKERS[name](3, 4) for _ in range(directions - 1))]
    stack += [MAKERS[name](directions * width, 4) for _ in range(directions)]
    module = aten.torch_module(stack, bidirectional=bidirectional)
    assert module.mode == aten.mode(first)
    wanted = [weight.shape for cell in stack for weight in aten.weights(cell)]
    assert [parameter.shape for parameter in module.parameters()] == wanted
