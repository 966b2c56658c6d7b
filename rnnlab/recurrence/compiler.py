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
from dataclasses import dataclass
from typing import Any

import torch
from rnnlab_kernels.program import Program
from torch import Tensor, nn

from rnnlab.recurrence.contract import Noise, StepSpec, probe
from rnnlab.recurrence.derivative import Derivative, differentiate, strip
from rnnlab.recurrence.graph import Trace
from rnnlab.recurrence.regions import Graph, Lowered, lower
from rnnlab.recurrence.simplify import tidy
from rnnlab.recurrence.trace import trace


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

    def __post_init__(self) -> None:
        step, lowered = self.trace, self.lowered
        self._paths = [(v.number, v.path) for v in step.parameters]
        self._constants = {v.number: v.tensor for v in step.constants if v.tensor is not None}
        self._x = step.x.number
        self._noise = [v.number for v in step.noise]
        self._feeds = [
            (value.number, item.per, item.width)
            for value, item in zip(lowered.feeds, self.program.inputs, strict=True)
        ]
        self._stored = [v.number for v in lowered.stored]
        self._output = lowered.output.number
        graphs = (lowered.invariant, lowered.parallel, lowered.readout)
        for graph in graphs:
            if graph is not None:
                _ = graph.arguments, graph.results
        self._invariant, self._parallel, self._readout = graphs

    @property
    def has_rows(self) -> bool:
        """Whether a part of the step runs in eager PyTorch over the rows of all steps."""
        return self._parallel is not None or self._readout is not None

    def derivative(self, requires: Sequence[bool] | None = None) -> Derivative:
        """The adjoint for the inputs that require a gradient; for all of them where None."""
        wanted = tuple(requires) if requires is not None else (True,) * len(self.program.inputs)
        return differentiate(self.marked, wanted)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where a cell keeps the tensors that the step reads."""
        return tuple([path for _, path in self._paths])

    def bind(self, tensors: Sequence[Tensor]) -> dict[int, Tensor]:
        """The tensors of `paths`, and the step's constants, by the numbers of their values."""
        return self._constants | {n: t for (n, _), t in zip(self._paths, tensors, strict=True)}

    def values(self, cell: nn.Module) -> dict[int, Tensor]:
        """The same of a cell as it is now."""
        return self.bind([find(cell, path) for _, path in self._paths])

    def inputs(
        self,
        values: dict[int, Tensor],
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
        values[self._x] = x
        if self._noise:
            for number, mask in zip(self._noise, noise, strict=True):
                values[number] = mask.value
        if self._invariant is not None:
            arguments = [values[number] for number, _, _ in self._invariant.arguments]
            for number, result in zip(
                self._invariant.results, self._invariant.module(*arguments), strict=True
            ):
                values[number] = result
        if self._parallel is not None:
            _over_rows(self._parallel, values, length, batch, rows)
        tensors = []
        for number, per, width in self._feeds:
            tensor = values[number]
            if per == "step" and tensor.dim() != 3:
                tensor = tensor.reshape(length, batch, width)
            elif per == "sequence" and tensor.dim() != 2:
                tensor = tensor.reshape(batch, width)
            tensors.append(tensor)
        return tensors

    def output(
        self, values: dict[int, Tensor], stored: Sequence[Tensor], rows: Tensor | None = None
    ) -> Tensor:
        """The step's outputs `[T, B, *]` from what the Program stored, and what `inputs` left in `values`."""
        y = stored[0]
        shape = self.spec.output_shape
        if self._readout is None and len(shape) == 1:
            return y
        length, batch = y.shape[:2]
        if self._readout is not None:
            for number, tensor in zip(self._stored, stored, strict=False):
                values[number] = tensor
            _over_rows(self._readout, values, length, batch, rows)
            y = values[self._output]
        return y if len(shape) == 1 and y.dim() == 3 else y.reshape(length, batch, *shape)


def _over_rows(graph: Graph, values: dict[int, Tensor], length: int, batch: int, rows: Tensor | None) -> None:
    """Run a part of the step at all steps at once, on those rows alone that are no padding.

    `rows` are their places, or a mask `[T*B]` of them: padding is then computed with a row's first step, and
    dropped.
    """
    arguments: list[Any] = []
    count = length * batch
    masked = rows is not None and rows.dtype == torch.bool
    for number, per, tail in graph.arguments:
        tensor = values[number]
        if per == "sequence":
            tensor = tensor.expand(length, *tensor.shape)
        if per != "call":
            tensor = tensor.reshape(count, *tail)
            if masked and rows is not None:
                first = tensor[:batch].repeat(length, *[1] * len(tail))
                tensor = torch.where(rows.view(-1, *[1] * len(tail)), tensor, first)
            elif rows is not None:
                tensor = tensor.index_select(0, rows)
        arguments.append(tensor)
    if graph.rows:
        arguments.append(count if rows is None or masked else rows.shape[0])
    for number, result in zip(graph.results, graph.module(*arguments), strict=True):
        if masked and rows is not None:
            result = torch.where(rows.view(-1, *[1] * (result.dim() - 1)), result, 0)
        elif rows is not None:
            empty = result.new_zeros(count, *result.shape[1:])
            result = empty.index_copy(0, rows, result)
        values[number] = result.reshape(length, batch, *result.shape[1:])


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
