"""How often gates are stuck: the share of activations at either end, in any cell.

The activations are found in the captured step of the cell, and computed on the states and inputs that the
network really had.

Legend: `B` batch, `N` recorded steps of all rows; `*` stands for any further dimensions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnlab.probes.record import Pass
from rnnlab.recurrence.compiler import find
from rnnlab.recurrence.graph import Operation, Rows, Trace, Value
from rnnlab.recurrence.regions import divide
from rnnlab.recurrence.trace import trace

aten = torch.ops.aten

# Where an activation counts as saturated: below and above. For a gate, as Karpathy, Johnson and Fei-Fei 2015.
LIMITS: dict[Any, tuple[str, float, float]] = {
    aten.sigmoid.default: ("sigmoid", 0.1, 0.9),
    aten.tanh.default: ("tanh", -0.9, 0.9),
    aten.relu.default: ("relu", 0.0, float("inf")),
}
_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.unsafe_split.Tensor)
_CHUNK = 8192
_NAMES = {"sigmoid": ("sigmoid", "expit"), "tanh": ("tanh",), "relu": ("relu",)}


@dataclass(frozen=True)
class Activation:
    """How one activation of a cell was used.

    Attributes:
        name: the user's own words for it, such as `sigmoid(f)`.
        kind: `sigmoid`, `tanh` or `relu`.
        source: the user's line.
        low: the share below 0.1 (sigmoid) or -0.9 (tanh), or equal to 0 (relu).
        high: the share above 0.9; 0 for relu.
        mean: the mean value.
        count: how many values there were.
    """

    name: str
    kind: str
    source: str
    low: float
    high: float
    mean: float
    count: int

    @property
    def saturated(self) -> float:
        """The share at either end."""
        return self.low + self.high

    def joined(self, other: Activation) -> Activation:
        """The same activation over the values of both."""
        count = self.count + other.count
        mine, its = self.count / count, other.count / count
        return replace(
            self,
            low=mine * self.low + its * other.low,
            high=mine * self.high + its * other.high,
            mean=mine * self.mean + its * other.mean,
            count=count,
        )


def saturation(done: Pass) -> list[Activation]:
    """How the activations of a cell were used over a recorded pass.

    A sigmoid below 0.1 or above 0.9 and a tanh beyond 0.9 count as saturated: their derivative is then at
    most 0.36 of its largest (sigmoid) or 0.19 (tanh). Of a relu, zeros are counted. Activations of parameters
    alone are left out.

    Raises:
        Unsupported: the step cannot be captured; the message says why.
    """
    first = done.steps[0]
    noise = [(item.value, item.per) for item in first.noise]
    captured = trace(done.cell, done.spec, first.x, first.before, noise)
    wanted = _activations(captured)
    if not wanted:
        return []
    x = torch.cat([item.x for item in done.steps])
    states = tuple(torch.cat(parts) for parts in zip(*(item.before for item in done.steps), strict=True))
    masks = [_joined(done, i) for i in range(len(first.noise))]
    sums = torch.zeros(len(wanted), 4, dtype=torch.float64)
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        values = _evaluate(
            captured,
            done.cell,
            x[rows],
            [part[rows] for part in states],
            [m if item.per == "call" else m[rows] for m, item in zip(masks, first.noise, strict=True)],
            [use.value for use in wanted],
        )
        for total, use, tensor in zip(sums, wanted, values, strict=True):
            total += _counted(use.kind, tensor if use.columns is None else tensor[..., use.columns])
    found = []
    for use, total in zip(wanted, sums, strict=True):
        count, low, high, whole = total.tolist()
        found.append(
            Activation(use.name, use.kind, use.source, low / count, high / count, whole / count, int(count))
        )
    return found


@dataclass(frozen=True)
class _Use:
    """An activation of the captured step, or the part of its columns that becomes a gate of its own."""

    value: Value
    kind: str
    name: str
    source: str
    columns: slice | None = None


def _activations(captured: Trace) -> list[_Use]:
    """The activations that differ between rows, in the order of the step, as the user calls them."""
    live = divide(captured)
    groups: dict[tuple[str, str], list[Operation]] = {}
    found: list[Operation] = []
    for operation in live:
        if operation.target in LIMITS and operation.outputs[0] is not None and operation.outputs[0].varies:
            found.append(operation)
            groups.setdefault((operation.source, LIMITS[operation.target][0]), []).append(operation)
    uses: list[_Use] = []
    unnamed = 0
    for operation in found:
        kind = LIMITS[operation.target][0]
        group = groups[operation.source, kind]
        value = operation.outputs[0]
        assert value is not None
        parts = _parts(value, live)
        labels = _labels(operation.source, kind, group.index(operation), len(group), len(parts))
        if labels is None:
            unnamed += 1
            labels = [f"{kind} {unnamed}" + (f"[{i}]" if len(parts) > 1 else "") for i in range(len(parts))]
        uses += [
            _Use(value, kind, label, operation.source, columns)
            for label, columns in zip(labels, parts, strict=True)
        ]
    return uses


def _parts(value: Value, live: Iterable[Operation]) -> list[slice | None]:
    """The columns of each gate of an activation that the step only reads split into gates."""
    readers = [operation for operation in live if value in operation.operands]
    if len(readers) != 1 or readers[0].target not in _SPLITS:
        return [None]
    axis = readers[0].args[2] if len(readers[0].args) > 2 else readers[0].kwargs.get("dim", 0)
    if axis % len(value.shape) != len(value.shape) - 1:
        return [None]
    sizes = [output.shape[-1] for output in readers[0].outputs if output is not None]
    if not all(isinstance(size, int) for size in sizes) or len(sizes) != len(readers[0].outputs):
        return [None]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]  # type: ignore[arg-type]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]  # type: ignore[operator]


def _labels(source: str, kind: str, index: int, among: int, parts: int) -> list[str] | None:
    """What the user's line calls the results of its `index`-th activation of a kind; None where unclear."""
    try:
        (statement,) = ast.parse(source.split(": ", 1)[-1]).body
    except (SyntaxError, ValueError):
        return None
    calls = [call for call in _calls(statement) if _called(call) in _NAMES[kind]]
    if not calls or among % len(calls):
        return None
    call = calls[index % len(calls)]
    again = f" #{index // len(calls) + 1}" if among > len(calls) else ""
    names = _targets(statement, call, parts)
    if names is not None:
        return [f"{name} = {kind}{again}" for name in names]
    inner = ast.unparse(call.args[0] if call.args else call.func.value)  # type: ignore[attr-defined]
    if len(inner) > 24:
        return None
    return [f"{kind}({inner}){again}" + (f"[{i}]" if parts > 1 else "") for i in range(parts)]


def _targets(statement: ast.stmt, call: ast.Call, parts: int) -> list[str] | None:
    """The names that a statement gives to the results of a call, if that is all it does with them."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    target, value = statement.targets[0], statement.value
    names = [target] if isinstance(target, ast.Name) else list(getattr(target, "elts", []))
    if not names or not all(isinstance(name, ast.Name) for name in names):
        return None
    texts = [name.id for name in names if isinstance(name, ast.Name)]
    if parts > 1:
        return texts if len(texts) == parts and any(node is call for node in ast.walk(value)) else None
    if value is call and len(texts) == 1:
        return texts
    if isinstance(value, ast.Tuple) and len(value.elts) == len(texts) and call in value.elts:
        return [texts[value.elts.index(call)]]
    return None


def _calls(node: ast.AST) -> Iterable[ast.Call]:
    """The calls of a statement in the order in which they are made."""
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)
    if isinstance(node, ast.Call):
        yield node


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _counted(kind: str, values: Tensor) -> Tensor:
    """How many values there are, and how many of them are low and high, and their sum."""
    low, high = next((low, high) for name, low, high in LIMITS.values() if name == kind)
    below = values <= low if kind == "relu" else values < low
    return torch.tensor(
        [values.numel(), float(below.sum()), float((values > high).sum()), float(values.double().sum())],
        dtype=torch.float64,
    )


def _joined(done: Pass, index: int) -> Tensor:
    """One of the masks for all steps one after the other."""
    item = done.steps[0].noise[index]
    if item.per == "call":
        return item.value
    return torch.cat([step.noise[index].value for step in done.steps])


@torch.no_grad()
def _evaluate(
    captured: Trace,
    cell: nn.Module,
    x: Tensor,
    states: Sequence[Tensor],
    noise: Sequence[Tensor],
    wanted: Sequence[Value],
) -> list[Tensor]:
    """Some values of a captured step for `N` rows."""
    known: dict[Value, Tensor] = {captured.x: x}
    known |= dict(zip(captured.states, states, strict=True)) | dict(zip(captured.noise, noise, strict=True))
    known |= {value: find(cell, value.path) for value in captured.parameters}
    known |= {value: value.tensor for value in captured.constants if value.tensor is not None}

    def given(item: Any) -> Any:
        if isinstance(item, Value):
            return known[item]
        if isinstance(item, Rows):
            return item.multiple * len(x)
        if isinstance(item, tuple | list):
            return type(item)(given(part) for part in item)
        if isinstance(item, dict):
            return {key: given(part) for key, part in item.items()}
        return item

    missing = set(wanted)
    for operation in captured.operations:
        if not missing:
            break
        result = operation.target(*given(operation.args), **given(operation.kwargs))
        results = result if isinstance(result, tuple | list) else (result,)
        for value, tensor in zip(operation.outputs, results, strict=True):
            if value is not None:
                known[value] = tensor
                missing.discard(value)
    return [known[value] for value in wanted]
