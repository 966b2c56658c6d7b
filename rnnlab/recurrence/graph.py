"""One captured step of a cell: its operators and values, before anything is made of them.

Legend: `B` batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor
from torch._ops import OpOverload


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
    number: int = field(default_factory=count().__next__)
    """Of its own among all values of all steps."""

    @property
    def varies(self) -> bool:
        """Whether each row of the batch has its own: the batch is among its dimensions."""
        return any(isinstance(size, Rows) for size in self.shape)

    @property
    def tail(self) -> tuple[int, ...]:
        """The shape of one row, where the batch comes first."""
        return tuple(size for size in self.shape[1:] if isinstance(size, int))

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


def _visit(item: Any, found: list[Value]) -> None:
    if isinstance(item, Value):
        found.append(item)
    elif isinstance(item, tuple | list):
        for i in item:
            _visit(i, found)
    elif isinstance(item, dict):
        for i in item.values():
            _visit(i, found)
