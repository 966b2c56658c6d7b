"""Random cells: a recipe of numbers, which hypothesis can draw and shrink, made into a module.

A recipe is a list of instructions. Each picks an operator and its operands among the values made so far, by
numbers taken modulo what there is, so that every list of numbers is a cell. States are of several widths,
values stay of moderate size, and each new state is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class Recipe:
    """What a random cell is made of."""

    input_size: int
    widths: tuple[int, ...]
    """Of the states."""
    instructions: tuple[Instruction, ...]
    seed: int
    output: bool = False
    """Whether the step returns an output beside its new state."""


recipes = st.builds(
    Recipe,
    input_size=st.integers(1, 6),
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    instructions=st.lists(st.tuples(*[st.integers(0, 99)] * 4), min_size=1, max_size=14).map(tuple),
    seed=st.integers(0, 2**16),
    output=st.booleans(),
)

UNARY: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.sigmoid,
    torch.relu,
    torch.sin,
    torch.cos,
    torch.erf,
    torch.neg,
    torch.abs,
    F.softplus,
    F.silu,
    F.gelu,
    F.elu,
    lambda x: torch.exp(-x.abs()),
    lambda x: torch.log1p(x.abs()),
    lambda x: torch.sqrt(x * x + 0.5),
    lambda x: torch.rsqrt(x.abs() + 0.5),
    lambda x: 1 / (x * x + 1),
    lambda x: torch.clamp(x, -0.7, 0.9),
    lambda x: F.hardtanh(x, -0.8, 0.6),
    lambda x: F.leaky_relu(x, 0.1),
    lambda x: x**2 - x**3 / 4,
    lambda x: (x.abs() + 0.1) ** 1.5,
    lambda x: 1 - x,
    lambda x: torch.expm1(-x.abs()),
    lambda x: torch.log(x.abs() + 0.3),
    lambda x: x.detach() * x,
)
BINARY: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.sub,
    torch.mul,
    lambda x, y: x / (y * y + 0.5),
    torch.maximum,
    torch.minimum,
    lambda x, y: torch.where(x > y, x, 0.5 * y),
    lambda x, y: torch.where(x.abs() <= 0.5, y, x + y),
    lambda x, y: torch.lerp(x, y, torch.sigmoid(x)),
    lambda x, y: torch.addcmul(x, y, y, value=0.3),
)
REDUCE: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.sum(-1, keepdim=True),
    lambda x: x.mean(-1, keepdim=True),
    lambda x: x.amax(-1, keepdim=True),
    lambda x: torch.logsumexp(x, -1, keepdim=True),
    lambda x: x.var(-1, keepdim=True, correction=0),
    lambda x: torch.softmax(x, -1),
    lambda x: F.layer_norm(x, x.shape[-1:]),
    lambda x: x / (x.norm(dim=-1, keepdim=True) + 1),
)


class RandomCell(nn.Module):
    """The cell of a recipe; its parameters are found by running it once."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.input_size = recipe.input_size
        self.weights = nn.ParameterList()
        self._generator: torch.Generator | None = torch.Generator().manual_seed(recipe.seed)
        self(torch.zeros(1, recipe.input_size), self.initial_state(1))
        self._generator = None

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        like = self.weights[0] if len(self.weights) else torch.zeros(())
        return tuple(like.new_zeros(batch, width) for width in self.recipe.widths)

    def _weight(self, number: int, *shape: int) -> Tensor:
        if self._generator is not None:
            values = torch.randn(*shape, generator=self._generator) / max(shape) ** 0.5
            self.weights.append(nn.Parameter(values))
        return self.weights[number]

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> object:
        used = 0

        def weight(*shape: int) -> Tensor:
            nonlocal used
            used += 1
            return self._weight(used - 1, *shape)

        def linear(value: Tensor, width: int) -> Tensor:
            return F.linear(value, weight(width, value.shape[1]), weight(width))

        values: list[Tensor] = [x, *state]
        for kind, first, second, third in self.recipe.instructions:
            a = values[first % len(values)]
            width = a.shape[1]
            fitting = [v for v in values if v.shape[1] in (1, width) or width == 1]
            b = fitting[second % len(fitting)]
            match kind % 9:
                case 0 | 1:
                    new = UNARY[third % len(UNARY)](a)
                case 2 | 3:
                    new = BINARY[third % len(BINARY)](a, b)
                case 4:
                    new = REDUCE[third % len(REDUCE)](a)
                case 5:
                    new = linear(a, 1 + third % 6)
                case 6:
                    new = a * weight(width) + b
                case 7:
                    start = second % width
                    new = a[:, start : start + 1 + third % (width - start)]
                case _:
                    new = torch.cat([b, a], 1)[:, : 1 + third % 8]
            values.append(new)
        fresh = [
            torch.tanh(linear(values[-1 - i % len(values)], width) + linear(x, width)) + 0.2 * old
            for i, (old, width) in enumerate(zip(state, self.recipe.widths, strict=True))
        ]
        if not self.recipe.output:
            return tuple(fresh)
        return linear(torch.cat([fresh[0], values[-1]], 1), 2), tuple(fresh)
