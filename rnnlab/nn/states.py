"""Recurrent states whatever their structure: a tensor, or tuples of tensors and tuples.

Legend: `B` batch, `I` input, `C` features of a condition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The same structure with `function` of each tensor; None stays None."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    return tuple(map_state(function, part) for part in state)


def detached(state: Any) -> Any:
    """The state without its history: where truncated backpropagation through time stops."""
    return map_state(Tensor.detach, state)


class InitialState(nn.Module):
    """The first state of a recurrent model as a function of a vector.

        s_0 = tanh(W c + b), one part of it for each state of each layer

    Args:
        model: called as `(x [T, B, I], state)`, such as `rnnlab.DeepRNN`; it is probed, and not kept.
        input_size: I.
        condition_size: C.
    """

    def __init__(self, model: nn.Module, input_size: int, condition_size: int) -> None:
        super().__init__()
        self._shapes, self._batch_dims = self._probe(model, input_size)
        # A shape holds 1 where the batch is.
        self._sizes = [shape.numel() for shape in _leaves(self._shapes)]
        self.linear = nn.Linear(condition_size, sum(self._sizes))

    @staticmethod
    def _probe(model: nn.Module, input_size: int) -> tuple[Any, list[int]]:
        """The structure with the shapes for one row, and where the batch stands in each."""
        first = next(model.parameters())
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                one, two = (model(first.new_zeros(1, rows, input_size))[1] for rows in (1, 2))
        finally:
            model.train(training)
        dims = [
            next(d for d, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if a != b)
            for x, y in zip(_leaves(one), _leaves(two), strict=True)
        ]
        return _shapes(one), dims

    def forward(self, condition: Tensor) -> Any:
        """Map `[B, C]` to a state of B rows."""
        parts = iter(torch.tanh(self.linear(condition)).split(self._sizes, dim=1))
        dims = iter(self._batch_dims)
        return _filled(self._shapes, parts, dims, condition.shape[0])

    def choose_rows(self, state: Any, rows: Tensor) -> Any:
        """These rows `[N]` of a state, as a state of N rows."""
        dims = iter(self._batch_dims)
        return map_state(lambda part: part.index_select(next(dims), rows), state)


def _leaves(state: Any) -> list[Any]:
    if isinstance(state, Tensor | torch.Size):
        return [state]
    return [leaf for part in state for leaf in _leaves(part)]


def _shapes(state: Any) -> Any:
    return state.shape if isinstance(state, Tensor) else tuple(_shapes(part) for part in state)


def _filled(shapes: Any, parts: Any, dims: Any, rows: int) -> Any:
    if not isinstance(shapes, torch.Size):
        return tuple(_filled(shape, parts, dims, rows) for shape in shapes)
    dim = next(dims)
    rest = [*shapes[:dim], *shapes[dim + 1 :]]
    return next(parts).reshape(rows, *rest).movedim(0, dim).contiguous()
