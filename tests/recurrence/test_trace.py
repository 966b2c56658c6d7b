"""Capturing a step: what is written down, and what is refused with a reason."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.recurrence.contract import StepSpec, probe
from rnnlab.recurrence.graph import Rows, Trace, Unsupported
from rnnlab.recurrence.trace import trace


class Step(nn.Module):
    """h' = f(module, x, h), for a function of the test."""

    def __init__(self, function: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden_size = 4
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(4))
        self.calls: list[int] = []
        self.last: Tensor | None = None
        self.function = function

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.function(self, x, h)


SPEC = StepSpec(((4,),), (4,), True, "state", False, False)


def capture(function: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Trace:
    cell = Step(function)
    x = torch.randn(2, 4)
    return trace(cell, SPEC, x, [torch.randn(2, 4)])


def names(step: Trace) -> list[str]:
    return [str(o.target).removeprefix("aten.") for o in step.operations]


def test_operators_arguments_and_lines() -> None:
    step = capture(lambda m, x, h: torch.tanh(m.linear(x) + h))
    assert names(step) == ["t.default", "addmm.default", "add.Tensor", "tanh.default"]
    assert [v.path for v in step.operations[1].operands if v.role == "parameter"] == ["linear.bias"]
    assert step.operations[1].operands[1] is step.x
    assert step.operations[2].operands[1] is step.states[0]
    assert step.output is step.next_states[0] is step.operations[-1].outputs[0]
    assert "test_trace.py" in step.operations[-1].source
    assert "torch.tanh(m.linear(x) + h)" in step.operations[-1].source


def test_the_batch_is_told_from_widths() -> None:
    step = capture(
        lambda m, x, h: (x[:, None] * h[:, :, None]).reshape(-1, 4).reshape(x.shape[0], 4, 4).sum(1)
    )
    assert step.x.shape == (Rows(1), 4)
    reshapes = [o for o in step.operations if o.target is torch.ops.aten.view.default]
    assert [o.outputs[0].shape for o in reshapes if o.outputs[0]] == [(Rows(4), 4), (Rows(1), 4, 4)]
    assert reshapes[1].args[1] == [Rows(1), 4, 4]


def test_operators_in_place_are_written_as_values() -> None:
    def inplace(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        new = m.linear(x)
        new += h
        return new.tanh_().mul_(0.5)

    step = capture(inplace)
    assert names(step) == ["t.default", "addmm.default", "add.Tensor", "tanh.default", "mul.Tensor"]
    assert step.output is step.operations[-1].outputs[0]


def test_chunks_may_be_changed_apart() -> None:
    def chunks(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        a, b = torch.cat([x, h], 1).chunk(2, 1)
        return a.sigmoid_() * b.tanh_()

    assert names(capture(chunks))[-1] == "mul.Tensor"


def test_composite_operators_are_decomposed() -> None:
    assert set(names(capture(lambda m, x, h: F.layer_norm(F.silu(x) + F.softplus(h), (4,))))) <= {
        *("sigmoid.default", "mul.Tensor", "mul.Scalar", "log1p.default", "exp.default", "clamp.default"),
        *("div.Tensor", "gt.Scalar", "where.self", "add.Tensor", "add.Scalar", "mean.dim", "sub.Tensor"),
        "rsqrt.default",
    }


def test_where_no_gradient_flows() -> None:
    def stopped(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
        with torch.no_grad():
            gate = torch.sigmoid(h)
        return gate * x + h.detach()

    found = {str(o.target): o.detached for o in capture(stopped).operations}
    assert found == {
        "aten.sigmoid.default": True,
        "aten.mul.Tensor": False,
        "aten.detach.default": True,
        "aten.add.Tensor": False,
    }


class Spike(torch.autograd.Function):
    """A threshold with a gradient of its own, as spiking cells have."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def _remember(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    m.last = h
    return h + x


def _append(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    m.calls.append(1)
    return h + x


def _stale(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    both = torch.cat([x, h], 1)
    both[:, :4].mul_(2)
    return both[:, 2:6]


def _own_batch(m: nn.Module, x: Tensor, h: Tensor) -> Tensor:
    return h * x if x.shape[0] == 3 else h + x


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x, h: h if h.sum() > 0 else x, "depends on the values of a tensor"),
        (lambda m, x, h: h[h > 0].sum() + x, "depends on the values|raises"),
        (
            lambda m, x, h: h * float(np.abs(x.detach().numpy()).max()) + x,
            r"Tensor\.numpy: .* leaves PyTorch",
        ),
        (lambda m, x, h: torch.from_numpy(np.tanh(h.detach())) + x, r"Tensor\.__array__: .* leaves PyTorch"),
        (
            lambda m, x, h: h * float(np.from_dlpack(x.detach()).max()),
            r"Tensor\.__dlpack__: .* leaves PyTorch",
        ),
        (lambda m, x, h: F.dropout(h, 0.5, True) + x, "draws random numbers"),
        (lambda m, x, h: Spike.apply(h) + x, "derivative of its own"),
        (lambda m, x, h: m.count.add_(1) * h + x, "changes a parameter or an argument"),
        (lambda m, x, h: h.mul_(0.5) + x, "changes a parameter or an argument"),
        (_remember, r"changes Step\.last"),
        (_append, r"changes Step\.calls"),
        (_stale, "after a part of it was changed"),
        (_own_batch, "another course for another batch size"),
        (lambda m, x, h: h * math.sqrt(x.shape[0]) + x, "batch size beyond shapes"),
        (lambda m, x, h: h[:, :2] + x[:, :2], r"shape \['B', 4\] becomes \['B', 2\]"),
        (lambda m, x, h: h @ x, "raises RuntimeError"),
    ],
)
def test_refuses_with_a_reason(function: Callable[..., Tensor], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        capture(function)


def test_the_reason_quotes_the_users_line() -> None:
    with pytest.raises(Unsupported, match=r"test_trace\.py:\d+: .*F\.dropout"):
        capture(lambda m, x, h: F.dropout(h, 0.5, True) + x)


@pytest.mark.parametrize("function", [lambda m, x, h: m.linear(h) + x, _remember, _append])
def test_the_cell_is_left_as_it_was(function: Callable[..., Tensor]) -> None:
    cell = Step(function)
    before = {n: id(p) for n, p in cell.named_parameters()}
    state = torch.get_rng_state()
    x = torch.randn(2, 4)
    torch.set_rng_state(state)
    try:
        trace(cell, SPEC, x, [torch.randn(2, 4)])
    except Unsupported:
        assert function is not None
    assert {n: id(p) for n, p in cell.named_parameters()} == before
    assert all(isinstance(p, nn.Parameter) for p in cell.parameters())
    assert cell.last is None
    assert not any(p.grad is not None for p in cell.parameters())


def test_torch_cells_in_inference_mode_and_autocast() -> None:
    cell, x = nn.LSTMCell(4, 4), torch.randn(2, 4)
    spec, states = probe(cell, x), [torch.zeros(2, 4)] * 2
    plain = names(trace(cell, spec, x, states))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert names(trace(cell, spec, x, states)) == plain
