"""Composite operators written out in simpler ones, as PyTorch defines them.

The tracer replaces each operator named here by its function, so that neither the lowering nor the derivative
rules know them. Arguments are those of the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

TABLE: dict[Any, Callable[..., Any]] = {}


def _decomposes(*operators: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for operator in operators:
            TABLE[operator] = function
        return function

    return enter


@_decomposes(aten.silu.default, aten.silu_.default)
def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@_decomposes(aten.gelu.default, aten.gelu_.default)
def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


@_decomposes(aten.softplus.default)
def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    scaled = x * beta
    # Bounded from above, so that exp overflows in neither the value nor the gradient that `where` drops.
    small = torch.log1p(torch.exp(torch.clamp(scaled, max=threshold))) / beta
    return torch.where(scaled > threshold, x, small)


@_decomposes(aten.log_sigmoid_forward.default)
def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    decay = torch.exp(-torch.abs(x))
    return torch.clamp(x, max=0) - torch.log1p(decay), decay


@_decomposes(aten.leaky_relu.default, aten.leaky_relu_.default)
def _leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, x * negative_slope)


@_decomposes(aten._prelu_kernel.default)
def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * weight)


@_decomposes(aten.elu.default, aten.elu_.default)
def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    negative = torch.expm1(torch.clamp(x, max=0) * input_scale) * (alpha * scale)
    return torch.where(x > 0, x * scale, negative)


@_decomposes(aten.hardtanh.default, aten.hardtanh_.default)
def _hardtanh(x: Tensor, min_val: float = -1, max_val: float = 1) -> Tensor:
    # The gradient of hardtanh is zero at both bounds, unlike that of clamp.
    inside = torch.where(x >= max_val, max_val, x)
    return torch.where(x <= min_val, min_val, inside)


@_decomposes(aten.hardsigmoid.default, aten.hardsigmoid_.default)
def _hardsigmoid(x: Tensor) -> Tensor:
    return _hardtanh(x + 3, 0, 6) / 6


@_decomposes(aten.hardswish.default, aten.hardswish_.default)
def _hardswish(x: Tensor) -> Tensor:
    return x * torch.clamp(x + 3, 0, 6) / 6


@_decomposes(aten.mish.default, aten.mish_.default)
def _mish(x: Tensor) -> Tensor:
    return x * torch.tanh(_softplus(x))


@_decomposes(aten.softshrink.default)
def _softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    return torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, x * 0))


@_decomposes(aten.threshold.default, aten.threshold_.default)
def _threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    return torch.where(x > threshold, x, value)


@_decomposes(aten._softmax.default)
def _softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    weights = torch.exp(x - torch.amax(x, dim, keepdim=True).detach())
    return weights / weights.sum(dim, keepdim=True)


@_decomposes(aten._log_softmax.default)
def _log_softmax(x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    shifted = x - torch.amax(x, dim, keepdim=True).detach()
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


@_decomposes(aten.logsumexp.default)
def _logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    top = torch.amax(x, dim, keepdim=True).detach()
    total = torch.log(torch.exp(x - top).sum(dim, keepdim=True)) + top
    return total if keepdim else total.squeeze(dim)


@_decomposes(aten.logaddexp.default)
def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    # Equal infinities have no finite difference: their sum is themselves.
    gap = torch.where(x == y, 0.0, -torch.abs(x - y))
    return torch.maximum(x, y) + torch.log1p(torch.exp(gap))


@_decomposes(aten.native_layer_norm.default)
def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(-len(shape), 0))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    scale = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    normal = centred * scale
    if weight is not None:
        normal = normal * weight
    return (normal if bias is None else normal + bias), mean, scale


@_decomposes(aten._fused_rms_norm.default)
def _rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None
) -> tuple[Tensor, Tensor]:
    dims = list(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scale = torch.rsqrt((x * x).mean(dims, keepdim=True) + eps)
    return (x * scale if weight is None else x * scale * weight), scale


@_decomposes(aten.native_group_norm.default)
def _group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: int,
    channels: int,
    size: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grouped = x.reshape(rows, groups, channels // groups * size)
    mean = grouped.mean(-1, keepdim=True)
    centred = grouped - mean
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
    normal = (centred * scale).reshape(rows, channels, size)
    if weight is not None:
        normal = normal * weight.reshape(channels, 1)
    if bias is not None:
        normal = normal + bias.reshape(channels, 1)
    return normal.reshape(x.shape), mean.squeeze(-1), scale.squeeze(-1)


@_decomposes(aten.var.correction)
def _var(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


@_decomposes(aten.std.correction)
def _std(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return torch.sqrt(_var(x, dim, correction=correction, keepdim=keepdim))


@_decomposes(aten.var_mean.correction)
def _var_mean(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(range(x.dim())) if dim is None else list(dim)
    count = math.prod(x.shape[d] for d in dims)
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    total = (centred * centred).sum(dims, keepdim=keepdim)
    return total / (count - (1 if correction is None else correction)), mean if keepdim else mean.squeeze(
        dims
    )


@_decomposes(aten.linalg_vector_norm.default)
def _vector_norm(
    x: Tensor, ord: float = 2, dim: list[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    if ord != 2 or dim is None:
        raise NotImplementedError("norms other than the Euclidean one of some dimensions")
    total = (x * x).sum(dim, keepdim=keepdim)
    # The gradient at zero is zero, as PyTorch defines it, and not 0/0.
    return torch.where(total == 0, 0.0, torch.sqrt(torch.where(total == 0, 1.0, total)))


@_decomposes(aten.lerp.Tensor)
def _lerp(x: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    small = x + weight * (end - x)
    return torch.where(torch.abs(weight) < 0.5, small, end - (end - x) * (1 - weight))


@_decomposes(aten.lerp.Scalar)
def _lerp_scalar(x: Tensor, end: Tensor, weight: float) -> Tensor:
    return x + weight * (end - x) if abs(weight) < 0.5 else end - (end - x) * (1 - weight)


@_decomposes(aten.addcmul.default)
def _addcmul(x: Tensor, first: Tensor, second: Tensor, *, value: float = 1) -> Tensor:
    return x + value * first * second if value != 1 else x + first * second


@_decomposes(aten.addcdiv.default)
def _addcdiv(x: Tensor, first: Tensor, second: Tensor, *, value: float = 1) -> Tensor:
    return x + value * (first / second) if value != 1 else x + first / second


@_decomposes(aten.hypot.default)
def _hypot(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y)


@_decomposes(aten.glu.default)
def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.split(x.shape[dim] // 2, dim)
    return value * torch.sigmoid(gate)


@_decomposes(aten.sinh.default)
def _sinh(x: Tensor) -> Tensor:
    return 0.5 * (torch.exp(x) - torch.exp(-x))


@_decomposes(aten.cosh.default)
def _cosh(x: Tensor) -> Tensor:
    return 0.5 * (torch.exp(x) + torch.exp(-x))


@_decomposes(aten.tan.default)
def _tan(x: Tensor) -> Tensor:
    return torch.sin(x) / torch.cos(x)


@_decomposes(aten.exp2.default)
def _exp2(x: Tensor) -> Tensor:
    return torch.exp(x * math.log(2))


@_decomposes(aten.log2.default)
def _log2(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / math.log(2))


@_decomposes(aten._thnn_fused_lstm_cell.default)
def _fused_lstm(
    inputs: Tensor, hidden: Tensor, c: Tensor, bias_ih: Tensor | None = None, bias_hh: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = inputs + hidden
    for bias in (bias_ih, bias_hh):
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.split(gates.shape[1] // 4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c, gates


@_decomposes(aten._thnn_fused_gru_cell.default)
def _fused_gru(
    inputs: Tensor, hidden: Tensor, h: Tensor, bias_ih: Tensor | None = None, bias_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    inputs = inputs if bias_ih is None else inputs + bias_ih
    hidden = hidden if bias_hh is None else hidden + bias_hh
    x_r, x_z, x_n = inputs.split(inputs.shape[1] // 3, 1)
    h_r, h_z, h_n = hidden.split(hidden.shape[1] // 3, 1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    # The workspace beside the result is read by no step.
    return n + z * (h - n), torch.cat([r, z, n], 1)
