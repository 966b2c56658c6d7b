"""A task whose recurrences are each one call, so that what surrounds them can be captured.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.recurrence.contract import Lengths, State, StepSpec, initial_state
from rnnlab.recurrence.layer import Recurrence

# Runs a cell over time: cell, spec, x [T, B, *], states, lengths [B] or None, reverse.
Run = Callable[[nn.Module, StepSpec, Tensor, State, Tensor | None, bool], tuple[Tensor, State]]


class ExportError(ValueError):
    """A model, or an operator in it, that a format cannot hold; says which and what would do."""


def frozen(task: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, whose recurrent layers keep no choice of a backend."""
    trainer = getattr(task, "_trainer", None)
    if trainer is not None:
        task._trainer = None  # type: ignore[assignment]
    try:
        copied = copy.deepcopy(task).cpu().eval()
    finally:
        if trainer is not None:
            task._trainer = trainer
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, Recurrence):
            module.backend = "eager"
    return copied


@contextmanager
def replaced(run: Run) -> Iterator[None]:
    """Let every recurrence call `run`, and nothing look at the values of lengths."""

    def forward(
        self: Recurrence,
        x: Tensor,
        state: Any = None,
        *,
        lengths: Tensor | Lengths | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        if resets is not None:
            raise ExportError("a recurrence with resets has no exported form")
        spec = self.spec(torch.zeros(1, *x.shape[2:]))
        states = (
            initial_state(self.cell, spec, x.shape[1], x)
            if state is None
            else ((state,) if isinstance(state, Tensor) else tuple(state))
        )
        values = lengths.values if isinstance(lengths, Lengths) else lengths
        outputs, final = run(self.cell, spec, x, states, values, self.reverse)
        return outputs, final[0] if spec.single else final

    original = Recurrence.forward
    Recurrence.forward = forward  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Recurrence.forward = original  # type: ignore[method-assign]


@contextmanager
def torchs_own_warnings_aside() -> Iterator[None]:
    """PyTorch's exporter uses what PyTorch has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", module=r"torch\b")
        yield


class Calls:
    """Captures each recurrence as one call of the operator `rnnlab_export::recurrence`, by its number."""

    def __init__(self) -> None:
        self.cells: list[tuple[nn.Module, StepSpec, bool]] = []

    def __call__(
        self, cell: nn.Module, spec: StepSpec, x: Tensor, state: State, lengths: Tensor | None, reverse: bool
    ) -> tuple[Tensor, State]:
        self.cells.append((cell, spec, reverse))
        outputs, *final = torch.ops.rnnlab_export.recurrence(
            x, list(state), lengths, len(self.cells) - 1, list(spec.output_shape)
        )
        return outputs, tuple(final)


_library = torch.library.Library("rnnlab_export", "FRAGMENT")
_library.define(
    "recurrence(Tensor x, Tensor[] state, Tensor? lengths, int number, int[] output_shape) -> Tensor[]"
)


def _like(
    x: Tensor, state: list[Tensor], lengths: Tensor | None, number: int, output_shape: list[int]
) -> list[Tensor]:
    outputs = state[0].new_empty((x.shape[0], x.shape[1], *output_shape))
    return [outputs, *(torch.empty_like(part) for part in state)]


torch.library.register_fake("rnnlab_export::recurrence", _like, lib=_library)
