"""Operators of PyTorch as nodes of ONNX: one function each, for graphs and for the steps of cells alike.

A function is given the emitter, the operator's arguments with `Val` for tensors and `Dyn` for sizes that are
free, its keyword arguments, and the dtype of its first result. It returns the name of the result, or a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from rnnlab.export.onnx_emit import Dyn, Emitter, Val

aten = torch.ops.aten
Rule = Callable[[Emitter, tuple[Any, ...], dict[str, Any], torch.dtype], Any]
RULES: dict[Any, Rule] = {}
# The end of a slice that goes to the end.
LAST = 2**63 - 1


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """The function serves these operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


def _as(e: Emitter, item: Any, dtype: torch.dtype) -> str:
    """An operand, a tensor or a number, in a dtype."""
    if isinstance(item, Val):
        return e.cast(item, item.dtype, dtype)
    if isinstance(item, Dyn):
        return e.cast(e.scalar(item), torch.int64, dtype)
    return e.constant(item, dtype)


def _common(*items: Any) -> torch.dtype:
    """The dtype in which operands meet."""
    tensors = [item.dtype for item in items if isinstance(item, Val)]
    found = tensors[0] if tensors else torch.int64
    for dtype in tensors[1:]:
        found = torch.promote_types(found, dtype)
    if not found.is_floating_point and any(isinstance(item, float) for item in items):
        return torch.get_default_dtype()
    return found


def _binary(kind: str) -> Rule:
    def write(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
        right = _as(e, args[1], out)
        if (alpha := kwargs.get("alpha", args[2] if len(args) > 2 else 1)) != 1:
            right = e.op("Mul", right, e.constant(alpha, out))
        return str(e.op(kind, _as(e, args[0], out), right))

    return write


for _kind, _targets in {
    "Add": (aten.add.Tensor, aten.add.Scalar),
    "Sub": (aten.sub.Tensor, aten.sub.Scalar),
    "Mul": (aten.mul.Tensor, aten.mul.Scalar),
    "Div": (aten.div.Tensor, aten.div.Scalar),
    "Pow": (aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar),
    "Max": (aten.maximum.default,),
    "Min": (aten.minimum.default,),
}.items():
    rule(*_targets)(_binary(_kind))


@rule(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Sub", _as(e, args[1], out), _as(e, args[0], out)))


def _compare(kind: str, negated: bool = False) -> Rule:
    def write(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
        dtype = _common(*args)
        found = e.op(kind, _as(e, args[0], dtype), _as(e, args[1], dtype))
        return str(e.op("Not", found) if negated else found)

    return write


for _name, _kind, _negated in (
    ("lt", "Less", False),
    ("le", "LessOrEqual", False),
    ("gt", "Greater", False),
    ("ge", "GreaterOrEqual", False),
    ("eq", "Equal", False),
    ("ne", "Equal", True),
):
    rule(getattr(aten, _name).Tensor, getattr(aten, _name).Scalar)(_compare(_kind, _negated))


def _logical(kind: str) -> Rule:
    return lambda e, args, kwargs, out: e.op(kind, *(_as(e, item, torch.bool) for item in args))


for _kind, _targets in {
    "And": (aten.logical_and.default, aten.bitwise_and.Tensor),
    "Or": (aten.logical_or.default, aten.bitwise_or.Tensor),
    "Xor": (aten.logical_xor.default, aten.bitwise_xor.Tensor),
    "Not": (aten.logical_not.default, aten.bitwise_not.default),
}.items():
    rule(*_targets)(_logical(_kind))


def _unary(kind: str) -> Rule:
    return lambda e, args, kwargs, out: e.op(kind, _as(e, args[0], out))


for _name, _kind in {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "exp": "Exp",
    "log": "Log",
    "neg": "Neg",
    "abs": "Abs",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "sign": "Sign",
}.items():
    rule(getattr(aten, _name).default)(_unary(_kind))


@rule(
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
    aten.native_dropout.default,
    aten.dropout.default,
)
def _same(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(args[0].name)


@rule(aten._to_copy.default, aten.to.dtype)
def _cast(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return e.cast(args[0], args[0].dtype, out)


@rule(aten.rsqrt.default)
def _rsqrt(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Reciprocal", e.op("Sqrt", args[0])))


@rule(aten.log1p.default)
def _log1p(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Log", e.op("Add", args[0], e.constant(1, out))))


@rule(aten.expm1.default)
def _expm1(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Sub", e.op("Exp", args[0]), e.constant(1, out)))


@rule(aten.square.default)
def _square(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Mul", args[0], args[0]))


@rule(aten.silu.default)
def _silu(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Mul", args[0], e.op("Sigmoid", args[0])))


@rule(aten.gelu.default)
def _gelu(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    if kwargs.get("approximate", "none") != "none":
        raise NotImplementedError("approximate gelu")
    inner = e.op("Erf", e.op("Mul", args[0], e.constant(math.sqrt(0.5), out)))
    half = e.op("Mul", args[0], e.constant(0.5, out))
    return str(e.op("Mul", half, e.op("Add", inner, e.constant(1.0, out))))


@rule(aten.leaky_relu.default)
def _leaky(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("LeakyRelu", args[0], alpha=float(args[1] if len(args) > 1 else 0.01)))


@rule(aten.elu.default)
def _elu(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    if len(args) > 2:
        raise NotImplementedError("elu with a scale")
    return str(e.op("Elu", args[0], alpha=float(args[1] if len(args) > 1 else 1.0)))


@rule(aten.softplus.default)
def _softplus(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    if len(args) > 1 and args[1] != 1:
        raise NotImplementedError("softplus with a slope")
    return str(e.op("Softplus", args[0]))


@rule(aten.clamp.default, aten.hardtanh.default, aten.clamp_min.default)
def _clamp(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    high = kwargs.get("max", args[2] if len(args) > 2 else None)
    found = _as(e, args[0], out)
    if low is not None:
        found = e.op("Max", found, _as(e, low, out))
    return str(found if high is None else e.op("Min", found, _as(e, high, out)))


@rule(aten.clamp_max.default)
def _clamp_max(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Min", _as(e, args[0], out), _as(e, args[1], out)))


@rule(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther)
def _where(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Where", args[0], _as(e, args[1], out), _as(e, args[2], out)))


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Where", args[1], _as(e, args[2], out), args[0]))


@rule(aten.mm.default, aten.bmm.default, aten.matmul.default, aten.mv.default)
def _mm(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("MatMul", args[0], args[1]))


@rule(aten.addmm.default, aten.baddbmm.default)
def _addmm(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
    product: Any = e.op("MatMul", args[1], args[2])
    if alpha != 1:
        product = e.op("Mul", product, e.constant(alpha, out))
    added: Any = args[0] if beta == 1 else e.op("Mul", args[0], e.constant(beta, out))
    return str(e.op("Add", product, added))


@rule(aten.linear.default)
def _linear(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    product = e.op("MatMul", args[0], e.op("Transpose", args[1], perm=[1, 0]))
    bias = args[2] if len(args) > 2 else None
    return str(product if bias is None else e.op("Add", product, bias))


@rule(aten.softmax.int, aten._softmax.default)
def _softmax(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Softmax", args[0], axis=args[1]))


@rule(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("LogSoftmax", args[0], axis=args[1]))


@rule(aten.native_layer_norm.default)
def _layer_norm(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> list[str]:
    x, shape, weight, bias, eps = args
    if weight is None:
        shape = [size for size in shape if isinstance(size, int)]
        weight = e.op("Expand", e.constant(1.0, out), e.constant(shape))
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return [e.op("LayerNormalization", *inputs, axis=-len(args[1]), epsilon=float(eps)), "", ""]


def _reduced(kind: str) -> Rule:
    def write(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> Any:
        x = args[0]
        dims = args[1] if len(args) > 1 else None
        dims = [dims] if isinstance(dims, int) else list(dims or range(x.rank))
        keep = int(bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False)))
        source = e.cast(x, x.dtype, out)
        if kind == "ReduceSum":  # the one whose axes are an input in this opset
            return e.op(kind, source, e.constant(dims), keepdims=keep)
        return e.op(kind, source, axes=dims, keepdims=keep)

    return write


for _kind, _targets in {
    "ReduceSum": (aten.sum.dim_IntList, aten.sum.default),
    "ReduceMean": (aten.mean.dim, aten.mean.default),
    "ReduceMax": (aten.amax.default,),
    "ReduceMin": (aten.amin.default,),
    "ReduceLogSumExp": (aten.logsumexp.default,),
}.items():
    rule(*_targets)(_reduced(_kind))


@rule(aten.max.dim)
def _max_dim(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> list[str]:
    keep = int(bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False)))
    values = e.op("ReduceMax", args[0], axes=[args[1]], keepdims=keep)
    return [values, e.op("ArgMax", args[0], axis=args[1], keepdims=keep)]


@rule(aten.argmax.default)
def _argmax(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    keep = int(bool(args[2] if len(args) > 2 else kwargs.get("keepdim", False)))
    return str(e.op("ArgMax", args[0], axis=args[1], keepdims=keep))


@rule(aten.convolution.default)
def _convolution(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    if transposed:
        raise NotImplementedError("a transposed convolution")
    inputs = [x, weight] if bias is None else [x, weight, bias]
    pads = [*padding, *padding]
    made = e.op("Conv", *inputs, group=groups, strides=list(stride), pads=pads, dilations=list(dilation))
    return str(made)


@rule(aten.cumsum.default)
def _cumsum(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("CumSum", _as(e, args[0], out), e.constant(args[1])))
