"""Compile a cell: one step captured, divided, lowered and differentiated.

    compiled = compile_cell(cell, x)              # x [T, B, *] or [B, *], for its shape and dtype
    print(compiled.program)                       # the forward Program
    derivative = compiled.derivative()            # .forward keeps what .adjoint reads
    print(derivative.adjoint, derivative.contractions)

`compiled.inputs(compiled.values(cell), x)` are the tensors for the Program's inputs, and `derivative.feeds`
tells what the adjoint's inputs are given. A compiled cell holds for every length and batch size, and for
every cell of the same structure: it refers to parameters by name and reads them at each call.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

    def values(self, cell: nn.Module) -> dict[Value, Tensor]:
        """The tensors of the step's parameters and constants now."""
        found = {v: v.tensor for v in self.trace.constants if v.tensor is not None}
        return found | {v: find(cell, v.path) for v in self.trace.parameters}

    def inputs(
        self,
        values: dict[Value, Tensor],
        x: Tensor,
        noise: Sequence[Noise] = (),
        rows: Tensor | None = None,
    ) -> list[Tensor]:
        """The tensors for the Program's inputs.

        Args:
            values: the tensors of the step's parameters and constants; those of its other arguments, and what
                eager PyTorch computes, are added to it.
            x: `[T, B, *]`.
            noise: the masks of the sequence.
            rows: the places in `[T*B]` that are no padding; None for all.
        """
        length, batch = x.shape[:2]
        values[self.trace.x] = x
        for value, mask in zip(self.trace.noise, noise, strict=True):
            values[value] = mask.value
        if self.lowered.invariant is not None:
            graph = self.lowered.invariant
            values.update(zip(graph.gives, graph.module(*[values[v] for v in graph.reads]), strict=True))
        if self.lowered.parallel is not None:
            self._run(self.lowered.parallel, values, length, batch, rows)
        tensors = []
        for value, item in zip(self.lowered.feeds, self.program.inputs, strict=True):
            tensor = values[value]
            if item.per == "step" and tensor.dim() != 3:
                tensor = tensor.reshape(length, batch, item.width)
            elif item.per == "sequence" and tensor.dim() != 2:
                tensor = tensor.reshape(batch, item.width)
            tensors.append(tensor)
        return tensors

    def output(
        self, values: dict[Value, Tensor], stored: Sequence[Tensor], rows: Tensor | None = None
    ) -> Tensor:
        """The step's outputs `[T, B, *]` from what the Program stored, and what `inputs` left in `values`."""
        length, batch = stored[0].shape[:2]
        if self.lowered.readout is None:
            y = stored[0]
        else:
            values.update(zip(self.lowered.stored, stored, strict=False))
            self._run(self.lowered.readout, values, length, batch, rows)
            y = values[self.lowered.output]
        shape = self.spec.output_shape
        return y if len(shape) == 1 and y.dim() == 3 else y.reshape(length, batch, *shape)

    def _run(
        self, graph: Graph, values: dict[Value, Tensor], length: int, batch: int, rows: Tensor | None
    ) -> None:
        """Run a part of the step at all steps at once, on those rows alone that are no padding."""
        arguments: list[Any] = []
        for value in graph.reads:
            tensor = values[value]
            if value.role == "noise" and value.per == "sequence":
                tensor = tensor.expand(length, *tensor.shape)
            if value.varies:
                tensor = tensor.reshape(length * batch, *value.tail)
                tensor = tensor if rows is None else tensor.index_select(0, rows)
            arguments.append(tensor)
        if graph.rows:
            arguments.append(length * batch if rows is None else rows.shape[0])
        for value, result in zip(graph.gives, graph.module(*arguments), strict=True):
            if rows is not None:
                empty = result.new_zeros(length * batch, *result.shape[1:])
                result = empty.index_copy(0, rows, result)
            values[value] = result.reshape(length, batch, *result.shape[1:])


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
