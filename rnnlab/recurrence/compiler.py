"""Compile a cell: one step captured, divided, lowered and differentiated.

    compiled = compile_cell(cell, x)              # x [T, B, *] or [B, *], for its shape and dtype
    print(compiled.program)                       # the forward Program
    derivative = compiled.derivative()            # .forward keeps what .adjoint reads
    print(derivative.adjoint, derivative.contractions)

`compiled.inputs(x)` are the tensors for the Program's inputs, and `derivative.feeds` tells what the adjoint's
inputs are given. A compiled cell holds for every length and batch size, and for every cell of the same
structure: it refers to parameters by name and reads them at each call.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from rnnlab_kernels.program import Program
from torch import Tensor, nn

from rnnlab.recurrence.contract import Noise, StepSpec, probe
from rnnlab.recurrence.derivative import Derivative, differentiate, strip
from rnnlab.recurrence.regions import Graph, Lowered, lower
from rnnlab.recurrence.simplify import tidy
from rnnlab.recurrence.trace import Trace, Value, trace


@dataclass(eq=False)
class Compiled:
    """One step of a cell as a Program, with the parts of it that run in eager PyTorch."""

    spec: StepSpec
    trace: Trace
    lowered: Lowered
    marked: Program
    """The forward Program, in which `simplify.DETACH` marks where no gradient flows."""
    program: Program
    """The forward Program."""
    _derivatives: dict[tuple[bool, ...], Derivative] = field(default_factory=dict, repr=False)

    def derivative(self, requires: Sequence[bool] | None = None) -> Derivative:
        """The adjoint for the inputs that require a gradient; for all of them where None."""
        key = tuple(requires) if requires is not None else (True,) * len(self.program.inputs)
        found = self._derivatives.get(key)
        if found is None:
            found = self._derivatives[key] = differentiate(self.marked, key)
        return found

    def inputs(self, cell: nn.Module, x: Tensor, noise: Sequence[Noise] = ()) -> list[Tensor]:
        """The tensors for the Program's inputs: `x` is `[T, B, *]`."""
        return self.values(cell, x, noise)[0]

    def values(
        self, cell: nn.Module, x: Tensor, noise: Sequence[Noise] = ()
    ) -> tuple[list[Tensor], dict[Value, Tensor]]:
        """The tensors for the Program's inputs, and all that eager PyTorch has computed for them."""
        length, batch = x.shape[:2]
        lowered, known = self.lowered, _Known(cell, self.trace, noise)
        known.run(lowered.invariant, None)
        if lowered.parallel is not None:
            rows = _Known(cell, self.trace, ())
            rows.values = dict(known.values)
            rows.values[self.trace.x] = x.flatten(0, 1)
            for value, mask in zip(self.trace.noise, noise, strict=True):
                if mask.per == "step":
                    rows.values[value] = mask.value.flatten(0, 1)
                elif mask.per == "sequence":
                    rows.values[value] = mask.value.expand(length, *mask.value.shape).flatten(0, 1)
            rows.run(lowered.parallel, length * batch)
            known.values |= {v: rows.values[v] for v in lowered.parallel.gives}
        known.values[self.trace.x] = x
        tensors = []
        for value, item in zip(lowered.feeds, self.program.inputs, strict=True):
            tensor = known.get(value)
            if item.per == "step":
                tensor = tensor.reshape(length, batch, item.width)
            elif item.per == "sequence":
                tensor = tensor.reshape(batch, item.width)
            tensors.append(tensor)
        return tensors, known.values


class _Known:
    """The tensors of a step's values at one call."""

    def __init__(self, cell: nn.Module, step: Trace, noise: Sequence[Noise]) -> None:
        self.cell = cell
        self.values: dict[Value, Tensor] = {v: n.value for v, n in zip(step.noise, noise, strict=bool(noise))}

    def get(self, value: Value) -> Tensor:
        found = self.values.get(value)
        if found is None:
            found = self.values[value] = (
                value.tensor if value.tensor is not None else find(self.cell, value.path)
            )
        return found

    def run(self, graph: Graph | None, rows: int | None) -> None:
        if graph is None:
            return
        arguments = [self.get(v) for v in graph.reads]
        results = graph.module(*arguments, rows) if graph.rows else graph.module(*arguments)
        self.values.update(zip(graph.gives, results, strict=True))


def find(cell: nn.Module, path: str) -> Tensor:
    """The tensor that a module holds under a dotted path now."""
    *parents, name = path.split(".")
    module = cell
    for parent in parents:
        module = getattr(module, parent)
    return getattr(module, name)


def compile_cell(
    cell: nn.Module,
    x: Tensor,
    states: Sequence[Tensor] | None = None,
    noise: Sequence[Noise] = (),
    *,
    spec: StepSpec | None = None,
) -> Compiled:
    """Compile one step of a cell.

    Args:
        cell: the cell.
        x: `[T, B, *]`, for its shape, dtype and device alone.
        states: `[B, *]` each, likewise; of the dtype of `x` where None.
        noise: the masks of a sequence, likewise.
        spec: what the step looks like, where it is known.

    Raises:
        Unsupported: the cell cannot be compiled; the message says why and where.
    """
    spec = probe(cell, x[0]) if spec is None else spec
    if states is None:
        states = [
            torch.zeros(x.shape[1], *shape, dtype=x.dtype, device=x.device) for shape in spec.state_shapes
        ]
    masks = [(n.value[0] if n.per == "step" else n.value, n.per) for n in noise]
    step = trace(cell, spec, x[0], states, masks)
    lowered = lower(step, states[0].dtype)
    marked = tidy(lowered.program)
    return Compiled(spec, step, lowered, marked, strip(marked))
