"""What goes into a task's model and what comes out, by name, with dimensions that are free.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.export.opaque import ExportError
from rnnlab.nn import DeepRNN

# A size of each that no width is likely to have.
EXAMPLE_STEPS, EXAMPLE_ROWS = 5, 3
INTEGERS = frozenset({"tokens", "symbols", "labels", "lengths"})


@dataclass(frozen=True)
class Signature:
    """How a model is called once it is exported.

    Attributes:
        module: takes the inputs in order, and returns the outputs in order, as a tuple.
        inputs: examples by name.
        free: the names of the free dimensions of each input, by their number.
        outputs: names.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    free: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]


class _Scores(nn.Module):
    """A task whose forward takes its inputs by position."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.task(*inputs),)


class _Stateful(nn.Module):
    """A language model that is given a state and returns the next, as flat tensors."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.network = task.network
        self.form = _state_of(self.network.rnn)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        read = self.network(inputs[0], _formed(self.form, iter(inputs[1:])))
        return (read.scores, *_leaves(read.state))


def signature(task: nn.Module) -> Signature:
    """The inputs and outputs of a task.

    Raises:
        ExportError: the task's forward takes something that is not known here.
    """
    names = [name for name in inspect.signature(task.forward).parameters if name != "self"]
    network = getattr(task, "network", None)
    if names[:1] == ["symbols"] and "state" in names and isinstance(getattr(network, "rnn", None), DeepRNN):
        return _language_model(task)
    inputs: dict[str, Tensor] = {}
    free: dict[str, dict[int, str]] = {}
    for name in names:
        example, dimensions = _example(task, name)
        inputs[name], free[name] = example, dimensions
    return Signature(_Scores(task), inputs, free, ("scores",))


def _example(task: Any, name: str) -> tuple[Tensor, dict[int, str]]:
    steps, rows = EXAMPLE_STEPS, EXAMPLE_ROWS
    if name == "lengths":
        return torch.tensor([steps, steps - 1, 1][:rows]), {0: "B"}
    if name == "labels":
        return torch.zeros(rows, dtype=torch.long), {0: "B"}
    both = {0: "T", 1: "B"}
    if name in ("symbols", "tokens") or (name == "inputs" and hasattr(task, "vocabulary")):
        return torch.ones(steps, rows, dtype=torch.long), both
    shape = _input_shape(task)
    if name in ("inputs", "frames", "known", "x") and shape is not None:
        context, step = shape[0], [size for size in shape[1:] if size is not None]
        dtype = torch.float32 if step else torch.long
        example = torch.zeros(context or steps, rows, *step, dtype=dtype)
        return example, {1: "B"} if context else both
    raise ExportError(
        f"{type(task).__name__} takes {name!r}, of which it is not known what it looks like: this task "
        "has no exported form yet; format=safetensors keeps its weights"
    )


def _input_shape(task: nn.Module) -> tuple[int | None, ...] | None:
    """Steps, None for any number, and the shape of one; that of the recurrent layers if a task is silent."""
    said: tuple[int | None, ...] | None = getattr(task, "input_shape", None)
    if said is not None:
        return said
    first = next((module for module in task.modules() if isinstance(module, DeepRNN)), None)
    return None if first is None else (None, first.input_size)


def _language_model(task: Any) -> Signature:
    module = _Stateful(task)
    state = _leaves(_filled(module.form, EXAMPLE_ROWS))
    inputs = {"symbols": torch.ones(EXAMPLE_STEPS, EXAMPLE_ROWS, dtype=torch.long)}
    free: dict[str, dict[int, str]] = {"symbols": {0: "T", 1: "B"}}
    names = [f"state{number}" for number in range(len(state))]
    for name, part, dim in zip(names, state, _batch_dims(module.form), strict=True):
        inputs[name], free[name] = part, {dim: "B"}
    outputs = ("scores", *(f"next_{name}" for name in names))
    return Signature(module, inputs, free, outputs)


def _state_of(rnn: DeepRNN) -> Any:
    """The structure of a network's state: shapes with None where the batch is."""
    with torch.no_grad():
        one, two = (rnn(torch.zeros(1, rows, rnn.input_size))[1] for rows in (1, 2))

    def shape(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor):
            return [None if m != n else m for m, n in zip(a.shape, b.shape, strict=True)]
        return tuple(shape(x, y) for x, y in zip(a, b, strict=True))

    return shape(one, two)


def _map(function: Callable[[list[int | None]], Any], form: Any) -> Any:
    return function(form) if isinstance(form, list) else tuple(_map(function, part) for part in form)


def _filled(form: Any, rows: int) -> Any:
    return _map(lambda shape: torch.zeros([rows if size is None else size for size in shape]), form)


def _formed(form: Any, parts: Any) -> Any:
    return _map(lambda _: next(parts), form)


def _batch_dims(form: Any) -> list[int]:
    if isinstance(form, list):
        return [form.index(None)]
    return [dim for part in form for dim in _batch_dims(part)]


def _leaves(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in _leaves(part)]
