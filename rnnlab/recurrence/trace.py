"""Capture one step of a cell as a graph of core operators.

The step is run on the cell's own parameters with two tiny batches, beneath a `TorchDispatchMode` that sees
every operator PyTorch really executes. Where the two runs differ, and only there, a number is the batch size,
so the graph holds for every batch. It takes milliseconds, where an export takes a second, and it sees what an
export erases: `detach`, `no_grad` and an autograd function of the user's own.

Legend: `B` batch.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from rnnlab.recurrence import decompositions
from rnnlab.recurrence.contract import StepSpec, step

# Two batch sizes without a common multiple below any real width; their difference tells a batch from a width.
_BATCHES = (3, 5)
_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


class Unsupported(Exception):
    """A step that cannot be compiled: the message says which operator, and where the user wrote it."""


@dataclass(frozen=True)
class Rows:
    """A number that is `multiple` times the batch size."""

    multiple: int = 1

    def __repr__(self) -> str:
        return "B" if self.multiple == 1 else f"{self.multiple}*B"


Size = int | Rows


@dataclass(eq=False)
class Value:
    """A tensor of the step. `shape` may hold `Rows` where the batch is."""

    name: str
    shape: tuple[Size, ...]
    dtype: torch.dtype
    role: Literal["parameter", "constant", "x", "state", "noise", "node"]
    per: Literal["step", "sequence", "call"] = "step"
    index: int = 0
    tensor: Tensor | None = None
    """The tensor itself where it belongs to no module (role "constant")."""
    path: str = ""
    """Where the cell keeps it (roles "parameter" and, if an attribute holds it, "constant")."""
    node: Operation | None = None
    requires_grad: bool = False

    def __repr__(self) -> str:
        return self.name


@dataclass(eq=False)
class Operation:
    """One executed operator. `args` and `kwargs` hold `Value` for tensors and `Rows` for batch sizes."""

    target: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value | None, ...]
    source: str
    detached: bool
    """No gradient flows through it: `detach`, or written under `no_grad`."""

    @property
    def operands(self) -> list[Value]:
        """The tensors it reads, in order."""
        found: list[Value] = []
        _visit((self.args, self.kwargs), found)
        return found

    @property
    def name(self) -> str:
        return str(self.target)


@dataclass(eq=False)
class Trace:
    """One step of a cell: its operators in order, from `x`, states and noise to the output and new states."""

    x: Value
    states: tuple[Value, ...]
    noise: tuple[Value, ...]
    parameters: tuple[Value, ...]
    constants: tuple[Value, ...]
    operations: tuple[Operation, ...]
    output: Value
    next_states: tuple[Value, ...]


def trace(
    cell: nn.Module,
    spec: StepSpec,
    x: Tensor,
    states: Sequence[Tensor],
    noise: Sequence[tuple[Tensor, Literal["step", "sequence", "call"]]] = (),
) -> Trace:
    """Capture one step of a cell.

    Args:
        cell: the cell, whose parameters are read and not written.
        spec: what its step looks like.
        x: `[B, *]`, for its shape, dtype and device alone, as all that follow.
        states: `[B, *]` each.
        noise: one step's masks `[B, *]`, or of any shape if per "call".

    Raises:
        Unsupported: the step depends on the values of tensors, changes a tensor or an attribute in place,
            draws random numbers, or calls an autograd function of its own.
    """
    first, second = (_run(cell, spec, x, states, noise, batch) for batch in _BATCHES)
    return _generalise(first, second)


def _run(
    cell: nn.Module,
    spec: StepSpec,
    x: Tensor,
    states: Sequence[Tensor],
    noise: Sequence[tuple[Tensor, Literal["step", "sequence", "call"]]],
    batch: int,
) -> Trace:
    def sample(like: Tensor, rows: bool = True) -> Tensor:
        shape = (batch, *like.shape[1:]) if rows else tuple(like.shape)
        return torch.ones(shape, dtype=like.dtype, device=like.device)

    device = x.device.type
    autocast = (
        torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    )
    with torch.inference_mode(False), torch.enable_grad(), autocast, _frozen(cell) as parameters:
        recorder = _Recorder(cell, parameters)
        x_t = sample(x)
        states_t = tuple(sample(s) for s in states)
        noise_t = tuple(sample(value, per != "call") for value, per in noise)
        recorder.known(x_t, "x", "x")
        for i, (state, given) in enumerate(zip(states_t, states, strict=True)):
            recorder.known(state, f"state{i}", "state", index=i)
            assert given.dim() > 0
        for i, (value, (_, per)) in enumerate(zip(noise_t, noise, strict=True)):
            recorder.known(value, f"noise{i}", "noise", per=per, index=i)
        with recorder:
            output, new = step(cell, spec, x_t, states_t, noise_t)
        return recorder.finish(x_t, states_t, noise_t, output, new)


@contextmanager
def _frozen(cell: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The cell with detached aliases of its parameters, so that nothing is recorded for autograd.

    Attributes that a step sets are put back, and reported as `Unsupported`.
    """
    kept = [
        (module, dict(module.__dict__), dict(module._parameters), dict(module._buffers))
        for module in cell.modules()
    ]
    named = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    aliases: dict[str, Tensor] = {}
    for module, _, parameters, _ in kept:
        for name, parameter in parameters.items():
            if parameter is not None:
                module._parameters[name] = parameter.detach()  # type: ignore[assignment]
    changed = ""
    try:
        aliases = {**named}
        yield aliases
    finally:
        for module, attributes, parameters, buffers in kept:
            for name in {*module.__dict__, *attributes}:
                if module.__dict__.get(name) is not attributes.get(name, module):
                    changed = changed or f"{type(module).__name__}.{name}"
            if any(module._buffers.get(name) is not buffer for name, buffer in buffers.items()):
                changed = changed or f"a buffer of {type(module).__name__}"
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
    if changed:
        raise Unsupported(f"a step sets the attribute {changed}")
