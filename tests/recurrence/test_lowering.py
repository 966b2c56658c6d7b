"""Operators that move elements, compute, reduce and multiply, lowered to row operations: the same values."""

from collections.abc import Callable

import pytest
import torch
from rnnlab_kernels.program import interpret
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.recurrence.compiler import compile_cell
from rnnlab.recurrence.contract import StepSpec

STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "transposes": lambda x, h: (x.view(-1, 2, 3).transpose(1, 2) + h.view(-1, 3, 2)).reshape(-1, 6),
    "batch behind": lambda x, h: (x.t() * 2 + h.t()).t(),
    "permutes": lambda x, h: x.view(-1, 2, 3).permute(2, 0, 1).permute(1, 0, 2).flatten(1) + h,
    "stacks": lambda x, h: torch.stack([x, h], 1).sum(1),
    "stacks last": lambda x, h: torch.stack([x, h], -1).flatten(1)[:, 3:9],
    "unbinds": lambda x, h: torch.stack([v * h[:, 0] for v in x.unbind(1)], 1),
    "strides": lambda x, h: torch.cat([x[:, ::2], h[:, 1::2]], 1),
    "flips and rolls": lambda x, h: x.flip(1) + h.roll(2, 1),
    "repeats": lambda x, h: x[:, :2].repeat(1, 3) + h[:, :3].repeat_interleave(2, 1),
    "expands": lambda x, h: x[:, :1].expand(-1, 6) * h + h[:, 2:3],
    "selects": lambda x, h: x[:, 4, None] - h,
    "fills": lambda x, h: torch.cat([torch.zeros_like(x)[:, :3], torch.ones(h.shape[0], 3).to(h)], 1) + h,
    "new": lambda x, h: h.new_full((h.shape[0], 6), 0.5) + x,
    "heads broadcast": lambda x, h: (x.view(-1, 2, 3) * h.view(-1, 2, 3).mean(-1, keepdim=True)).flatten(1),
    "sums over heads": lambda x, h: (
        x.view(-1, 2, 3).sum(1).repeat(1, 2) + h.view(-1, 3, 2).amax((1, 2))[:, None]
    ),
    "reduces all": lambda x, h: h - x.mean(-1, keepdim=True) - x.amin(1, keepdim=True),
    "softmax": lambda x, h: torch.softmax(x, -1) + torch.log_softmax(h, 1),
    "norms": lambda x, h: F.layer_norm(x, (6,)) + F.group_norm(h, 3) + F.rms_norm(x, (6,)),
    "statistics": lambda x, h: (
        (x - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + x.var(1, keepdim=True))
    ),
    "unit length": lambda x, h: F.normalize(x, dim=-1) + h / h.norm(dim=-1, keepdim=True),
    "cumulates": lambda x, h: x.cumsum(-1) * torch.softmax(h, -1).cumsum(1),
    "outer": lambda x, h: (x[:, :3, None] * h[:, None, :2]).flatten(1),
    "products of rows": lambda x, h: (
        torch.bmm(x.view(-1, 2, 3), h.view(-1, 3, 2)).flatten(1).repeat(1, 2)[:, :6]
    ),
    "inner": lambda x, h: torch.einsum("bi,bi->b", x, h)[:, None] + h,
    "logic": lambda x, h: torch.where((x > 0) & ~(h > 0.5) | (x < -1), x, h),
    "xor": lambda x, h: torch.where((x > 0) ^ (h > 0), x, h) * (x >= h),
    "masks": lambda x, h: h.masked_fill(x > 0.3, -0.5).clamp(min=-0.4) + x.clamp(-0.2, 0.3).clamp_max(0.1),
    "bounds of rows": lambda x, h: (
        torch.clamp(x, min=h - 1, max=h) + torch.maximum(x, h) - torch.minimum(x, h)
    ),
    "powers": lambda x, h: x**2 + (x.abs() + 0.1) ** -0.5 + 2**h + x.abs().sqrt() + torch.rsqrt(h.abs() + 1),
    "scaled sums": lambda x, h: torch.add(x, h, alpha=0.3) - torch.sub(x, h, alpha=2) + torch.rsub(x, h),
    "activations": lambda x, h: F.silu(x) + F.gelu(h) + F.gelu(x, approximate="tanh") + F.elu(h) + F.selu(x),
    "more activations": lambda x, h: (
        F.mish(x) + F.hardsigmoid(h) + F.hardswish(x) + F.leaky_relu(h) + F.relu6(x)
    ),
    "soft activations": lambda x, h: (
        F.softplus(x * 9, 2) + F.logsigmoid(h * 9) + F.softsign(x) + F.softshrink(h)
    ),
    "exponentials": lambda x, h: (
        torch.logaddexp(x, h) + torch.logsumexp(x, 1, keepdim=True) + h.exp().log1p()
    ),
    "lerp": lambda x, h: torch.lerp(x, h, torch.sigmoid(h)) + torch.lerp(x, h, 0.3) + torch.addcmul(x, h, h),
    "glu": lambda x, h: F.glu(torch.cat([x, h], 1), 1),
    "trigonometry": lambda x, h: (
        torch.sin(x) * torch.cos(h) + torch.tan(x / 3) + torch.sinh(h) + torch.erf(x)
    ),
    "own types": lambda x, h: x.to(h.dtype) + h.type_as(x) + (x > 0).to(h.dtype) + torch.tensor(0.5),
}


class Step(nn.Module):
    """h' = f(x, h)."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.function(x, h)


SPEC = StepSpec(((6,),), (6,), True, "state", False, False)


@pytest.mark.parametrize("name", STEPS)
def test_same_values_and_gradients(name: str) -> None:
    x = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    h = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    cell = Step(STEPS[name])
    found = compile_cell(cell, x, [h], spec=SPEC)
    assert found.lowered.parallel is None, "an operator was left to PyTorch"
    found.program.validate()
    (y, *_), _ = interpret(found.program, found.inputs(found.values(cell), x), [h])
    wanted = STEPS[name](x[0], h)
    torch.testing.assert_close(y[0], wanted)
    cotangent = torch.randn_like(wanted)
    gradients = torch.autograd.grad(y[0], [x, h], cotangent, materialize_grads=True)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(wanted, [x, h], cotangent, materialize_grads=True)
    )
    derivative = found.derivative()
    derivative.forward.validate()
    derivative.adjoint.validate()


@pytest.mark.parametrize(
    "function", [lambda x, W: x @ W, lambda x, W: F.linear(x, W.t()), lambda x, W: (W.t() @ x.t()).t()]
)
def test_products_with_parameters(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return function(x, self.weight) + function(h, self.weight)

    cell, x, h = Product(), torch.randn(1, 4, 6), torch.randn(4, 6)
    found = compile_cell(cell, x, [h], spec=SPEC)
    assert found.lowered.invariant is None, "the parameter itself is the matrix"
    assert sum(n.op == "matmul" for n in found.program.nodes) == 2
    (y, *_), _ = interpret(found.program, found.inputs(found.values(cell), x), [h])
    torch.testing.assert_close(y[0], cell(x[0], h))
