"""The derivative of each row operation, in row operations: one rule an operator.

A rule is given the builder, the node and the gradient `g` of its value, and returns that of each operand;
None where it is zero. `g` has the node's width, or width 1 where it is the same in every column. What a rule
returns may be as wide as the node: `derivative` sums it for an operand that was broadcast. At ties and at the
borders of their domains the rules agree with PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rnnlab_kernels.program import Node

from rnnlab.recurrence.simplify import Builder

Gradients = tuple[int | None, ...]
Rule = Callable[[Builder, Node, int], Gradients]


def _unary(slope: Callable[[Builder, int, int], int]) -> Rule:
    """A rule for y = f(x) from its slope, given as a function of the builder, x and y."""

    def rule(b: Builder, node: Node, g: int) -> Gradients:
        return (b.binary("mul", g, slope(b, node.inputs[0], node.value)),)

    return rule


def _mul(b: Builder, x: int, y: int) -> int:
    return b.binary("mul", x, y)


def _one_minus(b: Builder, x: int) -> int:
    return b.binary("sub", b.const(1), x)


def _neg(b: Builder, node: Node, g: int) -> Gradients:
    return (b.unary("neg", g),)


def _log(b: Builder, node: Node, g: int) -> Gradients:
    return (b.binary("div", g, node.inputs[0]),)


def _log1p(b: Builder, node: Node, g: int) -> Gradients:
    return (b.binary("div", g, b.binary("add", node.inputs[0], b.const(1))),)


def _sqrt(b: Builder, node: Node, g: int) -> Gradients:
    return (b.binary("div", g, _mul(b, b.const(2), node.value)),)


def _relu(b: Builder, node: Node, g: int) -> Gradients:
    # A comparison from below, so that NaN lets the gradient through, as in PyTorch.
    return (b.where(b.compare("le", node.value, b.const(0)), b.const(0), g),)


def _none(b: Builder, node: Node, g: int) -> Gradients:
    return (None,) * len(node.inputs)


def _add(b: Builder, node: Node, g: int) -> Gradients:
    return g, g


def _sub(b: Builder, node: Node, g: int) -> Gradients:
    return g, b.unary("neg", g)


def _product(b: Builder, node: Node, g: int) -> Gradients:
    x, y = node.inputs
    return _mul(b, g, y), _mul(b, g, x)


def _div(b: Builder, node: Node, g: int) -> Gradients:
    quotient = b.binary("div", g, node.inputs[1])
    return quotient, b.unary("neg", _mul(b, quotient, node.value))


def _extreme(lose: str, win: str) -> Rule:
    """maximum and minimum: the winner takes the gradient, equals share it."""

    def rule(b: Builder, node: Node, g: int) -> Gradients:
        x, y = node.inputs
        zero = b.const(0)
        shared = b.where(b.compare("eq", x, y), _mul(b, g, b.const(0.5)), g)
        return b.where(b.compare(lose, x, y), zero, shared), b.where(b.compare(win, x, y), zero, shared)

    return rule


def _pow(b: Builder, node: Node, g: int) -> Gradients:
    x, exponent = node.inputs
    zero, one = b.const(0), b.const(1)
    slope = _mul(b, exponent, b.binary("pow", x, b.binary("sub", exponent, one)))
    if b.number(exponent) is None:
        slope = b.where(b.compare("eq", exponent, zero), zero, slope)
    elif b.number(exponent) == 0:
        slope = zero
    if b.number(exponent) is not None:
        return _mul(b, g, slope), None
    # At x = 0 the result is constant for exponents from 0 on, where log(0) * 0 would be NaN.
    growth = _mul(b, node.value, b.unary("log", x))
    flat = b.where(b.compare("eq", x, zero), b.where(b.compare("ge", exponent, zero), zero, growth), growth)
    return _mul(b, g, slope), _mul(b, g, flat)


def _where(b: Builder, node: Node, g: int) -> Gradients:
    mask, zero = node.inputs[0], b.const(0)
    return None, b.where(mask, g, zero), b.where(mask, zero, g)


def _sum(b: Builder, node: Node, g: int) -> Gradients:
    return (g,)


def _amax(b: Builder, node: Node, g: int) -> Gradients:
    x, y = node.inputs[0], node.value
    zero, top = b.const(0), b.compare("eq", x, y)
    ties = b.sum(b.where(top, b.const(1), zero))
    return (b.binary("div", b.where(top, g, zero), ties),)


RULES: dict[str, Rule] = {
    "neg": _neg,
    "abs": _unary(lambda b, x, y: b.unary("sign", x)),
    "sign": _none,
    "exp": _unary(lambda b, x, y: y),
    "expm1": _unary(lambda b, x, y: b.binary("add", y, b.const(1))),
    "log": _log,
    "log1p": _log1p,
    "sqrt": _sqrt,
    "rsqrt": _unary(lambda b, x, y: _mul(b, b.const(-0.5), _mul(b, _mul(b, y, y), y))),
    "reciprocal": _unary(lambda b, x, y: b.unary("neg", _mul(b, y, y))),
    "sin": _unary(lambda b, x, y: b.unary("cos", x)),
    "cos": _unary(lambda b, x, y: b.unary("neg", b.unary("sin", x))),
    "tanh": _unary(lambda b, x, y: _one_minus(b, _mul(b, y, y))),
    "sigmoid": _unary(lambda b, x, y: _mul(b, y, _one_minus(b, y))),
    "relu": _relu,
    "erf": _unary(
        lambda b, x, y: _mul(
            b, b.const(2 / math.sqrt(math.pi)), b.unary("exp", b.unary("neg", _mul(b, x, x)))
        )
    ),
    "add": _add,
    "sub": _sub,
    "mul": _product,
    "div": _div,
    "maximum": _extreme("lt", "gt"),
    "minimum": _extreme("gt", "lt"),
    "pow": _pow,
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne"), _none),
    "const": _none,
    "where": _where,
    "sum": _sum,
    "amax": _amax,
}
