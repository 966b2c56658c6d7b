"""Divide one step of a cell by what its operators depend on, and lower what belongs into the loop.

    region      depends on                 runs
    invariant   parameters alone           once a call, in eager PyTorch under autograd
    parallel    the input, but no state    in the Program, at all steps at once; in eager PyTorch over
                                           [T*B, *] where no row operation does the same
    recurrent   a state                    in the Program's loop
    readout     a state, and no next       in the Program; in eager PyTorch over [T*B, *] where it multiplies
                state depends on it        matrices or where no row operation does the same

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from rnnlab_kernels.program import Program
from torch import fx

from rnnlab.recurrence.graph import Operation, Rows, Trace, Unsupported, Value
from rnnlab.recurrence.lowering import Lowering
from rnnlab.recurrence.rows import Row, batch_axis
from rnnlab.recurrence.simplify import Builder

aten = torch.ops.aten

Region = Literal["invariant", "parallel", "recurrent", "readout"]

_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)


@dataclass(frozen=True)
class Graph:
    """A part of the step that runs in eager PyTorch.

    `reads` are the values that it takes, in order, and `gives` those that it returns. Where `rows` is set,
    its last argument is the number of rows, which stands for the batch size.
    """

    module: fx.GraphModule
    reads: tuple[Value, ...]
    gives: tuple[Value, ...]
    rows: bool
    operations: tuple[Operation, ...] = field(repr=False)

    @cached_property
    def arguments(self) -> tuple[tuple[int, Literal["step", "sequence", "call"], tuple[int, ...]], ...]:
        """For each value that it reads: its number, how often it changes, and the shape of one row."""
        found = []
        for value in self.reads:
            per: Literal["step", "sequence", "call"] = "call"
            if value.varies:
                per = value.per if value.role == "noise" else "step"
            found.append((value.number, per, value.tail))
        return tuple(found)

    @cached_property
    def results(self) -> tuple[int, ...]:
        """The numbers of the values that it gives."""
        return tuple(value.number for value in self.gives)


@dataclass(frozen=True)
class Lowered:
    """A step divided into its regions.

    `feeds[i]` is the value of the step that is given to input i of the Program; `output` is the value of the
    step that the Program's output 0 holds, or, with a `readout`, what that returns of the outputs' values.
    """

    program: Program
    feeds: tuple[Value, ...]
    invariant: Graph | None
    parallel: Graph | None
    readout: Graph | None
    stored: tuple[Value, ...]
    output: Value
    regions: dict[Operation, Region] = field(repr=False)
    in_program: frozenset[Operation] = field(repr=False, default=frozenset())


def divide(trace: Trace) -> dict[Operation, Region]:
    """The region of each operation that the results depend on."""
    varies: dict[Value, Literal["state", "input", "batch"]] = {trace.x: "input"}
    varies |= dict.fromkeys(trace.states, "state")
    varies |= {noise: "input" for noise in trace.noise if noise.per != "call"}
    regions: dict[Operation, Region] = {}
    for operation in _needed(trace.operations, (trace.output, *trace.next_states)):
        found = {varies[v] for v in operation.operands if v in varies}
        kind = "state" if "state" in found else "input" if "input" in found else None
        if kind is None and (found or any(v.varies for v in operation.outputs if v is not None)):
            kind = "batch"
        if kind is not None:
            varies |= {v: kind for v in operation.outputs if v is not None}  # type: ignore[misc]
        regions[operation] = "invariant" if kind is None else "recurrent" if kind == "state" else "parallel"
    core = set(_needed(trace.operations, trace.next_states))
    for operation, region in regions.items():
        if region == "recurrent" and operation not in core:
            regions[operation] = "readout"
    return regions


def lower(trace: Trace, dtype: torch.dtype) -> Lowered:
    """The regions of a step, and the Program of what runs in the loop.

    Raises:
        Unsupported: an operator that the loop needs is no row operation; the message names it and its line.
    """
    regions = divide(trace)
    readout = [o for o, region in regions.items() if region == "readout"]
    eager: set[Operation] = set()
    if any(o.target in _PRODUCTS for o in readout):
        eager.update(readout)
    while True:
        try:
            return _lower(trace, dtype, regions, eager)
        except _Refused as refusal:
            region = regions[refusal.operation]
            if region == "parallel":
                more = {o for o in _needed(trace.operations, refusal.operation.operands) if o in regions}
                more = {o for o in more if regions[o] == "parallel"} | {refusal.operation}
            elif region == "readout":
                more = set(readout)
            else:
                raise Unsupported(str(refusal)) from None
            if more <= eager:
                raise Unsupported(str(refusal)) from None
            eager |= more


class _Refused(Exception):
    def __init__(self, operation: Operation, reason: str) -> None:
        super().__init__(reason)
        self.operation = operation


def _lower(
    trace: Trace, dtype: torch.dtype, regions: dict[Operation, Region], eager: set[Operation]
) -> Lowered:
    builder = Builder()
    feeds: list[Value] = []
    extra: list[Operation] = []
    inputs: dict[Value, int] = {}
    in_eager = {v for o in eager for v in o.outputs if v is not None}

    def feed(value: Value, per: str, width: int, rows: int | None = None) -> int:
        if value not in inputs:
            inputs[value] = builder.input(value.name, per, width, rows)
            feeds.append(value)
        return inputs[value]

    def outside(value: Value) -> Row:
        """The row of an argument, of a parameter, or of what eager mode computes."""
        if value.role == "state":
            return lowering.given(states[value], value.shape)
        varies = value in in_eager or value.role == "x" or (value.role == "noise" and value.per != "call")
        if varies:
            if value.dtype != dtype:
                raise Unsupported(f"{value} is {value.dtype}, and the states are {dtype}")
            if batch_axis(value.shape) != 0:
                raise Unsupported("an input without the batch in front")
            per = value.per if value.role == "noise" else "step"
            return lowering.given(feed(value, per, _width(value)), value.shape)
        if value.dtype == torch.bool:
            row = lowering.given(feed(_prepared(value, dtype, extra), "call", _width(value)), value.shape)
            row = lowering.point(lambda v: builder.compare("ne", v[0], builder.const(0)), [row], value.shape)
            return Row(row.codes, row.axis, mask=True)
        return lowering.given(feed(_prepared(value, dtype, extra), "call", _width(value)), value.shape)

    def matrix(value: Value) -> tuple[int, bool] | None:
        """The matrix input for a value made of parameters alone; its transpose where that is what is kept."""
        if _varies(value, regions, trace) or len(value.shape) != 2 or value.dtype != dtype:
            return None
        transposed = False
        while value.node is not None and _is_transpose(value.node):
            value, transposed = value.node.args[0], not transposed
        rows, width = value.shape
        assert isinstance(rows, int) and isinstance(width, int)
        return feed(value, "call", width, rows), transposed

    def matrices(value: Value) -> list[tuple[int, bool]] | None:
        """The matrix inputs for a stack of matrices made of parameters alone."""
        if _varies(value, regions, trace) or len(value.shape) != 3 or value.dtype != dtype:
            return None
        parts = _operation(aten.unbind.int, (value,), [value.shape[1:]] * int(value.shape[0]), dtype, extra)  # type: ignore[arg-type]
        return [m for m in (matrix(part) for part in parts) if m is not None]

    lowering = Lowering(builder, dtype, outside, matrix, matrices)
    states = {s: builder.state(s.name, _width(s)) for s in trace.states}
    for value in trace.states:
        if value.dtype != dtype:
            raise Unsupported(f"states of {value.dtype} and {dtype}")
    in_program: set[Operation] = set()
    for operation, region in regions.items():
        if region == "invariant" or operation in eager:
            continue
        try:
            lowering.lower(operation)
        except Unsupported as error:
            raise _Refused(operation, str(error)) from None
        in_program.add(operation)
    nexts = [lowering.vector(lowering.row(v).columns.reshape(-1)) for v in trace.next_states]
    nexts = [builder.spread(v, _width(s)) for v, s in zip(nexts, trace.states, strict=True)]
    readout = [o for o in regions if o in eager and regions[o] == "readout"]
    stored: list[Value] = [trace.output]
    if readout:
        made = {v for o in readout for v in o.outputs if v is not None}
        read = dict.fromkeys(v for o in readout for v in o.operands if v not in made)
        stored = [v for v in read if v.role == "state" or (v.node in in_program and v.varies)]
    outputs: list[tuple[int, str]] = []
    for value in stored:
        row = lowering.row(value)
        if row.mask or batch_axis(value.shape) != 0:
            culprit = readout[0] if readout else None
            raise Unsupported(
                f"an output that is no row of numbers{f' ({culprit.source})' if culprit else ''}"
            )
        vector = lowering.vector(row.columns.reshape(-1))
        outputs.append((builder.spread(vector, _width(value)), value.name))
    program = builder.program(nexts, outputs)
    # What no node reads (a parameter that only a readout uses) is no input of the Program; but something must
    # tell how many steps and rows there are.
    read_values = {v for n in program.nodes for v in n.inputs} | {v for v, _ in outputs} | set(nexts)
    steps = [item.value for item in program.inputs if item.per == "step"]
    if read_values.isdisjoint(steps):
        read_values.add(steps[0] if steps else _unread(trace.x, dtype, feed))
        program = builder.program(nexts, outputs)
    kept = [i for i, item in enumerate(program.inputs) if item.value in read_values]
    program = Program(tuple(program.inputs[i] for i in kept), program.states, program.nodes, program.outputs)
    fed = [feeds[i] for i in kept]
    parallel_ops = [o for o in regions if o in eager and regions[o] == "parallel"]
    parallel_made = {v for o in parallel_ops for v in o.outputs}
    readout_reads = {v for o in readout for v in o.operands}
    gives = [v for v in parallel_made if v is not None and (v in fed or v in readout_reads)]
    parallel = _graph(parallel_ops, gives) if parallel_ops else None
    invariant_ops = [o for o, region in regions.items() if region == "invariant"] + extra
    made_invariant = {v for o in invariant_ops for v in o.outputs if v is not None}
    read_later = {*fed, *readout_reads, *(parallel.reads if parallel else ())}
    wanted = [v for v in _ordered(made_invariant, invariant_ops) if v in read_later]
    invariant_ops = _needed(invariant_ops, wanted)
    return Lowered(
        program,
        tuple(fed),
        _graph(invariant_ops, wanted) if wanted else None,
        parallel,
        _graph(readout, [trace.output]) if readout else None,
        tuple(stored),
        trace.output,
        regions,
        frozenset(in_program),
    )


def _is_transpose(operation: Operation) -> bool:
    """Whether it exchanges the two dimensions of a matrix, and does nothing else."""
    if operation.detached:
        return False
    if operation.target is aten.permute.default:
        return [axis % 2 for axis in operation.args[1]] == [1, 0]
    if operation.target is aten.transpose.int:
        return {axis % 2 for axis in operation.args[1:]} == {0, 1}
    return operation.target is aten.t.default


def _unread(x: Value, dtype: torch.dtype, feed: Callable[[Value, str, int], int]) -> int:
    """The input of a step that reads none."""
    if x.dtype != dtype:
        raise Unsupported(f"a step that reads nothing of its input, and {x.dtype} at that")
    return feed(x, "step", _width(x))


def _ordered(values: set[Value], operations: Iterable[Operation]) -> list[Value]:
    return [v for o in operations for v in o.outputs if v is not None and v in values]


def _varies(value: Value, regions: dict[Operation, Region], trace: Trace) -> bool:
    """Whether a value differs between steps or rows."""
    if value.node is not None and value.role == "node":
        return regions.get(value.node, "invariant") != "invariant"
    return value.role in ("x", "state") or (value.role == "noise" and value.per != "call")


def _prepared(value: Value, dtype: torch.dtype, extra: list[Operation]) -> Value:
    """A value made of parameters, as a vector of the Program's data type."""
    if value.varies:
        raise Unsupported(f"{value} of shape {list(value.shape)}")
    if value.dtype != dtype:
        if value.dtype.is_floating_point and value.shape and value.dtype.itemsize > dtype.itemsize:
            raise Unsupported(f"{value} is {value.dtype}, and the states are {dtype}")
        (value,) = _operation(aten._to_copy.default, (value,), [value.shape], dtype, extra, {"dtype": dtype})
    if len(value.shape) != 1:
        (value,) = _operation(aten.reshape.default, (value, [-1]), [(_width(value),)], dtype, extra)
    return value


def _operation(
    target: Any,
    args: tuple[Any, ...],
    shapes: Sequence[tuple[int | Rows, ...]],
    dtype: torch.dtype,
    extra: list[Operation],
    kwargs: dict[str, Any] | None = None,
) -> tuple[Value, ...]:
    """An operation that the cell did not write: the same one again where it was added before."""
    for known in extra:
        if known.target is target and known.args[0] is args[0]:
            return tuple(v for v in known.outputs if v is not None)
    operation = Operation(target, args, kwargs or {}, (), "", False)
    values = tuple(
        Value(f"{args[0].name}_{i}", shape, dtype, "node", node=operation) for i, shape in enumerate(shapes)
    )
    operation.outputs = values
    extra.append(operation)
    return values


def _width(value: Value) -> int:
    """How many numbers a row of a value has."""
    width = 1
    for size in value.shape:
        width *= size.multiple if isinstance(size, Rows) else size
    return width


def _needed(operations: Sequence[Operation], values: Iterable[Value]) -> list[Operation]:
    """The operations that some values depend on, in order."""
    wanted = set(values)
    found: list[Operation] = []
    for operation in reversed(operations):
        if any(v in wanted for v in operation.outputs):
            found.append(operation)
            wanted.update(operation.operands)
    return found[::-1]


def _graph(operations: Sequence[Operation], gives: Sequence[Value]) -> Graph:
    """Operations as a module of PyTorch."""
    graph = fx.Graph()
    made = {v for o in operations for v in o.outputs if v is not None}
    reads = list(dict.fromkeys(v for o in operations for v in o.operands if v not in made))
    for edge in (*reads, *gives):
        if edge.varies and edge.shape[0] != Rows(1):
            raise Unsupported(f"a value of shape {list(edge.shape)} between two parts of the step")
    nodes: dict[Value, fx.Node] = {v: graph.placeholder(f"v{i}") for i, v in enumerate(reads)}
    rows = any(_mentions_rows((o.args, o.kwargs)) for o in operations)
    number = graph.placeholder("rows") if rows else None

    def convert(item: Any) -> Any:
        if isinstance(item, Value):
            return nodes[item]
        if isinstance(item, Rows):
            assert number is not None
            return number if item.multiple == 1 else graph.call_function(_times, (number, item.multiple))
        if isinstance(item, tuple | list):
            return type(item)(convert(i) for i in item)
        if isinstance(item, dict):
            return {k: convert(v) for k, v in item.items()}
        return item

    for operation in operations:
        result = graph.call_function(operation.target, convert(operation.args), convert(operation.kwargs))
        if (
            len(operation.target._schema.returns) == 1
            and str(operation.target._schema.returns[0].type) == "Tensor"
        ):
            parts = [result]
        else:
            parts = [graph.call_function(_item, (result, i)) for i in range(len(operation.outputs))]
        for value, part in zip(operation.outputs, parts, strict=True):
            if value is not None:
                nodes[value] = (
                    graph.call_function(aten.detach.default, (part,)) if operation.detached else part
                )
    graph.output(tuple(nodes[v] for v in gives))
    graph.eliminate_dead_code()
    return Graph(
        fx.GraphModule(torch.nn.Module(), graph), tuple(reads), tuple(gives), rows, tuple(operations)
    )


def _item(items: Any, index: int) -> Any:
    return items[index]


def _times(number: int, multiple: int) -> int:
    return number * multiple


def _mentions_rows(item: Any) -> bool:
    if isinstance(item, tuple | list):
        return any(_mentions_rows(i) for i in item)
    if isinstance(item, dict):
        return any(_mentions_rows(i) for i in item.values())
    return isinstance(item, Rows)
