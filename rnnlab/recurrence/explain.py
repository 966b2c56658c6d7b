"""`rnnlab explain`: how a cell is run, and why so.

For each layer and direction: the backend and the reasons against those preferred to it, which lines of the
cell run once a call, at all steps at once, or in the time loop, and what a step costs.

Legend: `T` time, `B` batch, `I` input, `H` hidden.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from rnnlab_kernels.program import Program
from torch import nn

from rnnlab.recurrence import choice
from rnnlab.recurrence import plan as plans
from rnnlab.recurrence.contract import Call
from rnnlab.recurrence.fused import kernel_dtype
from rnnlab.recurrence.layer import Recurrence
from rnnlab.recurrence.operators import Entry, executor
from rnnlab.recurrence.plan import Plan
from rnnlab.recurrence.regions import Region

_WHEN: dict[Region, str] = {
    "invariant": "of parameters alone: once a call",
    "parallel": "of the input alone: all steps at once",
    "recurrent": "of the state: step by step",
    "readout": "no next state needs it: all steps at once",
}


@dataclass(frozen=True)
class Line:
    """A line of the cell, and the operators that it came to."""

    source: str
    operators: tuple[str, ...]
    in_kernel: bool


@dataclass(frozen=True)
class Layer:
    """How one cell is run."""

    name: str
    cell: str
    backend: str
    reasons: dict[str, str]
    """Why no backend that is preferred to the chosen one runs the cell, or why it cannot be fused."""
    regions: dict[Region, tuple[Line, ...]] = field(default_factory=dict)
    flops_forward: int = 0
    """Floating-point operations of one step of one row, those of PyTorch's part left out."""
    flops_backward: int = 0
    kept_bytes: int = 0
    """What one step of one row keeps for the backward, beyond the output."""
    forward: Program | None = None
    adjoint: Program | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def code(self) -> str:
        """The source of the generated kernels, forward and backward; "" where there are none."""
        writer: Callable[[Program, torch.dtype], str] | None = getattr(executor(self.device), "source", None)
        programs = [p for p in (self.forward, self.adjoint) if p is not None]
        return "\n".join(writer(p, self.dtype) for p in programs) if writer is not None else ""

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.cell}" if self.name else self.cell, f"  backend    {self.backend}"]
        lines += [f"  not {name:<6} {reason}" for name, reason in self.reasons.items()]
        for region, found in self.regions.items():
            if found:
                lines.append(f"  {region:<10} {_WHEN[region]}")
            for line in found:
                where = "" if line.in_kernel else "   (in PyTorch)"
                names = ", ".join(line.operators)
                told = line.source if line.source and not line.source.endswith("(") else ""
                lines.append(f"             {told or f'{line.source} {names}'.strip()}{where}")
        if self.forward is not None:
            lines.append(
                f"  a step     {self.flops_forward:,} flop forward, {self.flops_backward:,} backward, "
                f"{self.kept_bytes:,} bytes kept for the backward, for each row"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """How a module's cells are run; printed, a text."""

    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.layers))

    def programs(self) -> str:
        """The Programs that are generated for, forward and backward."""
        found = [p for layer in self.layers for p in (layer.forward, layer.adjoint) if p is not None]
        return "\n\n".join(map(str, found))

    def code(self) -> str:
        """The source of all generated kernels."""
        return "\n".join(layer.code() for layer in self.layers)


def explain(
    module: nn.Module,
    input_size: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Explanation:
    """Say how a cell, or every cell of a network, is run and why so.

    Args:
        module: a cell, a `Recurrence`, or a module that holds some, such as a `DeepRNN`.
        input_size: I, where neither a cell nor its network tells it.
        dtype: of the input; that of the cell's parameters where None.
        backend: the backend to ask for; that of each `Recurrence` where None.

    Raises:
        ValueError: the width of a cell's input is not known, or the backend cannot run it.
    """
    layers = []
    for name, recurrence in _recurrences(module):
        layers.append(_layer(name, recurrence, input_size, dtype, backend or recurrence.backend))
    return Explanation(tuple(layers))


def _recurrences(module: nn.Module) -> Iterator[tuple[str, Recurrence]]:
    found = [(name, m) for name, m in module.named_modules() if isinstance(m, Recurrence)]
    yield from found or [("", Recurrence(module))]


def _layer(
    name: str, recurrence: Recurrence, input_size: int | None, dtype: torch.dtype | None, backend: str
) -> Layer:
    cell = recurrence.cell
    width = input_size if recurrence.input_size is None else recurrence.input_size
    if not isinstance(width, int):
        raise ValueError(
            f"{type(cell).__name__} has no attribute input_size: say how wide its input is, "
            "by input_size=... or --input-size"
        )
    parameter = next((p for p in cell.parameters() if p.is_floating_point()), torch.zeros(()))
    x = torch.zeros(1, 2, width, dtype=dtype or parameter.dtype, device=parameter.device)
    call = recurrence.call(x)
    chosen = choice.choose(backend, call).name
    reasons: dict[str, str] = {}
    for other in choice.names():
        if other == chosen:
            break
        able = f"{chosen} is faster here" if backend == "auto" else "another was asked for"
        reasons[other] = choice.find(other).refusal(call) or able
    title = f"{type(cell).__name__}, input {width}, {str(x.dtype).removeprefix('torch.')} on {x.device.type}"
    layer = Layer(name, title + (", reverse" if recurrence.reverse else ""), chosen, reasons)
    plan, _ = plans.find(call)
    if isinstance(plan, str):
        reasons.setdefault("fused", plan)
        return layer
    return _details(layer, plan, call)


def _details(layer: Layer, plan: Plan, call: Call) -> Layer:
    lowered = plan.compiled.lowered
    regions: dict[Region, tuple[Line, ...]] = {}
    graphs = (lowered.invariant, lowered.parallel, lowered.readout)
    run = {*lowered.in_program, *(o for graph in graphs if graph is not None for o in graph.operations)}
    for region in _WHEN:
        lines: dict[tuple[str, bool], list[str]] = {}
        for operation, its in lowered.regions.items():
            if its == region and operation in run:
                key = operation.source, operation in lowered.in_program
                lines.setdefault(key, []).append(operation.name.removeprefix("aten."))
        regions[region] = tuple(Line(source, tuple(ops), kernel) for (source, kernel), ops in lines.items())
    requires = tuple(v.dtype.is_floating_point for v in lowered.feeds)
    entry = Entry(plan.compiled.marked, requires, totals=plan.totals)
    dtype = kernel_dtype(call)
    assert entry.derivative is not None
    return Layer(
        layer.name,
        layer.cell,
        layer.backend,
        layer.reasons,
        regions,
        entry.program.flops(),
        entry.derivative.flops(),
        entry.kept_bytes(dtype.itemsize),
        entry.program,
        entry.derivative.adjoint,
        dtype,
        call.x.device.type,
    )


def main(words: Sequence[str]) -> int:
    """`rnnlab explain`; returns 0, or 2 if there was nothing to explain."""
    from rnnlab.recurrence.check import build
    from rnnlab.recurrence.locate import locate, settings

    parser = argparse.ArgumentParser(
        "rnnlab explain",
        description="Say how a cell is run: its regions, its backend, why, and what a step costs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cell", help="my_module:MyCell, path/to/file.py:MyCell, or a name of rnnlab.cells")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further arguments of the cell")
    parser.add_argument("--input-size", type=int, default=64, metavar="I")
    parser.add_argument("--hidden-size", type=int, default=128, metavar="H")
    parser.add_argument("--backend", default="auto", help="the backend to ask for")
    parser.add_argument("--program", action="store_true", help="print the Programs, too")
    parser.add_argument("--code", action="store_true", help="print the generated source, too")
    options = parser.parse_args(words)
    try:
        factory = partial(locate(options.cell), **settings(options.settings))
        cell = build(factory, options.input_size, options.hidden_size)
        found = explain(cell, options.input_size, backend=options.backend)
    except (ValueError, TypeError) as error:
        print(f"rnnlab explain: {error}", file=sys.stderr)
        return 2
    print(found)
    if options.program:
        print("", found.programs(), sep="\n")
    if options.code:
        print("", found.code(), sep="\n")
    return 0


EPILOG = """\
  rnnlab explain lstm
  rnnlab explain my_module:MyCell --hidden-size 256 --program
  rnnlab explain torch.nn:GRUCell --code > kernels.txt"""
