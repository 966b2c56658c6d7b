"""The Program: one step of a recurrence, and its adjoint, as plain data.

The compiler (`rnnlab.recurrence`) writes Programs; backends (`cpu`, `triton`) turn them into kernels and
know nothing else of a cell. A Program describes one step for one batch row. Every value is a *row vector*
of a fixed width; time and batch are the backend's business, so neither occurs here.

Legend: T time, B batch, K and N widths of a matrix.

One step of a forward Program, as `interpret` below defines it for every backend:

    restart   where resets[t, b] and t < lengths[b]: the states of row b become its initial states
    step      the nodes, in order
    store     each output's value to [t, b]; zero where t >= lengths[b]
    total     each total grows by its value, where t < lengths[b]
    carry     each state becomes its `next`; it stands still where t >= lengths[b]

An adjoint Program runs over the same steps in the opposite order. Its states are the gradients of the forward
states; instead of *restart* before a step it does this after it:

    restart   where resets[t, b] and t < lengths[b]: the gradients are added to those of the initial states,
              and become zero
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Kind = Literal[
    "unary", "binary", "compare", "where", "const", "slice", "cat", "sum", "amax", "matmul", "detach"
]

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "erf": torch.erf,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
}
COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
}
KINDS: dict[str, Kind] = {
    **dict.fromkeys(UNARY, "unary"),
    **dict.fromkeys(BINARY, "binary"),
    **dict.fromkeys(COMPARE, "compare"),
    "where": "where",
    "const": "const",
    "slice": "slice",
    "cat": "cat",
    "sum": "sum",
    "amax": "amax",
    "matmul": "matmul",
    "detach": "detach",
}


@dataclass(frozen=True)
class Input:
    """A tensor that the step reads and no node writes.

    per:
        "step"      a sequence [T, B, width]: an element each step and row
        "sequence"  [B, width]: the same at every step (a variational dropout mask)
        "call"      a parameter, the same for every row: [width] for pointwise use, or [rows, width] as the
                    right operand of a matmul, in whatever layout the cell keeps it
    """

    value: int
    name: str
    per: Literal["step", "sequence", "call"]
    width: int
    rows: int | None = None

    @property
    def is_matrix(self) -> bool:
        return self.rows is not None


@dataclass(frozen=True)
class State:
    """A carried row vector: `value` at the start of the step, `next` at its end."""

    value: int
    next: int
    name: str
    width: int


@dataclass(frozen=True)
class Node:
    """One operation on row vectors.

    Pointwise operands have the same width, or width 1 and are broadcast. Comparisons give masks, which only
    `where` (as its first operand) reads. `slice` takes columns [start, stop); `sum` and `amax` reduce a row
    to width 1; `const` has width 1. `matmul` multiplies a row [K] by a matrix input [K, N], or, with
    `transposed`, by the transpose of a matrix input [N, K]. `detach` is its operand, through which no
    gradient flows; the compiler removes it, and no backend is given it.
    """

    op: str
    inputs: tuple[int, ...]
    value: int
    width: int
    start: int = 0
    stop: int = 0
    number: float = 0.0
    transposed: bool = False
    source: str = ""

    @property
    def kind(self) -> Kind:
        return KINDS[self.op]


@dataclass(frozen=True)
class Output:
    """A value stored at every step, [T, B, width]. It may be any value: a node's, a state's or an input's."""

    value: int
    name: str
    width: int


@dataclass(frozen=True)
class Program:
    """One step of a recurrence. Each value has a number of its own; nodes are in order."""

    inputs: tuple[Input, ...]
    states: tuple[State, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    adjoint: bool = False
    totals: tuple[Output, ...] = ()
    """Values that are summed up over all steps and rows, [width]; for backends whose `TOTALS` says so."""
    inner: int = 0
    """How many outputs, the last ones, the compiler alone reads: a backend may use their memory again."""

    @cached_property
    def results(self) -> tuple[int, ...]:
        """The values that leave a step: next states, outputs and totals."""
        return (*(s.next for s in self.states), *(o.value for o in (*self.outputs, *self.totals)))

    @cached_property
    def first_step(self) -> int:
        """Which input is the first that varies with the step; all of them have the same T and B."""
        return next(number for number, item in enumerate(self.inputs) if item.per == "step")

    @cached_property
    def widths(self) -> dict[int, int]:
        """The width of every value."""
        defined: tuple[Input | State | Node, ...] = (*self.inputs, *self.states, *self.nodes)
        return {item.value: item.width for item in defined}

    @cached_property
    def key(self) -> str:
        """A digest of what the Program computes: names and source lines do not count."""
        body = (
            [(i.value, i.per, i.width, i.rows) for i in self.inputs],
            [(s.value, s.next, s.width) for s in self.states],
            [
                (n.op, n.inputs, n.value, n.width, n.start, n.stop, n.number.hex(), n.transposed)
                for n in self.nodes
            ],
            [(o.value, o.width) for o in self.outputs],
            self.adjoint,
            *([(o.value, o.width) for o in self.totals],) * bool(self.totals),
        )
        return hashlib.sha256(repr(body).encode()).hexdigest()

    @cached_property
    def carried(self) -> frozenset[int]:
        """The values that some next state depends on; the others may run outside the time loop."""
        needed = {state.next for state in self.states}
        for node in reversed(self.nodes):
            if node.value in needed:
                needed.update(node.inputs)
        return frozenset(needed)

    @cached_property
    def invariant(self) -> frozenset[int]:
        """The values made of parameters and constants alone: a backend finds them once a call."""
        found = {item.value for item in self.inputs if item.per == "call"}
        for node in self.nodes:
            if found.issuperset(node.inputs):
                found.add(node.value)
        return frozenset(found)

    @cached_property
    def stateful(self) -> frozenset[int]:
        """The values that depend on a state; the others may run for all steps at once."""
        found = {state.value for state in self.states}
        for node in self.nodes:
            if not found.isdisjoint(node.inputs):
                found.add(node.value)
        return frozenset(found)

    def flops(self) -> int:
        """Floating-point operations of a step for one row; a pointwise operation counts as one."""
        total = 0
        for node in self.nodes:
            if node.kind == "matmul":
                total += 2 * self.widths[node.inputs[0]] * node.width
            elif node.kind in ("sum", "amax"):
                total += self.widths[node.inputs[0]]
            elif node.kind in ("unary", "binary", "compare", "where"):
                total += node.width
        return total

    def validate(self) -> None:
        """Check that the Program is well formed.

        Raises:
            AssertionError: it is not; a Program that breaks these rules is a defect of the compiler.
        """
        matrices = {i.value: i for i in self.inputs if i.is_matrix}
        widths: dict[int, int] = {}
        masks: set[int] = set()
        given_items: tuple[Input | State, ...] = (*self.inputs, *self.states)
        for item in given_items:
            assert item.value not in widths, f"value {item.value} is defined twice"
            assert item.width > 0, f"{item.name} has width {item.width}"
            widths[item.value] = item.width
        for node in self.nodes:
            assert node.value not in widths, f"value {node.value} is defined twice"
            assert all(v in widths for v in node.inputs), f"{node} reads a value before it is defined"
            vectors = node.inputs[:1] if node.kind == "matmul" else node.inputs
            assert not any(v in matrices for v in vectors), f"{node} reads a matrix as a row"
            vectors = node.inputs[1:] if node.kind == "where" else vectors
            assert masks.isdisjoint(vectors), f"{node} reads a mask as a number"
            given = [widths[v] for v in node.inputs]
            match node.kind:
                case "unary":
                    assert given == [node.width], node
                case "binary" | "compare" | "where":
                    assert len(given) == (3 if node.kind == "where" else 2), node
                    assert node.width == max(given) and set(given) <= {1, node.width}, node
                    assert node.kind != "where" or node.inputs[0] in masks, node
                case "const":
                    assert given == [] and node.width == 1, node
                case "slice":
                    assert 0 <= node.start < node.stop <= given[0] and node.width == node.stop - node.start, (
                        node
                    )
                case "cat":
                    assert node.width == sum(given) and given, node
                case "sum" | "amax":
                    assert len(given) == 1 and node.width == 1, node
                case "matmul":
                    assert node.inputs[1] in matrices, node
                    matrix = matrices[node.inputs[1]]
                    shape = (matrix.width, matrix.rows) if node.transposed else (matrix.rows, matrix.width)
                    assert shape == (given[0], node.width), node
                case "detach":
                    raise AssertionError(f"{node} is for the compiler alone")
            if node.kind == "compare":
                masks.add(node.value)
            widths[node.value] = node.width
        for state in self.states:
            assert widths.get(state.next) == state.width, f"{state} changes its width"
            assert state.next not in masks and state.next not in matrices, state
        for output in (*self.outputs, *self.totals):
            assert widths.get(output.value) == output.width, output
            assert output.value not in masks and output.value not in matrices, output

    def __str__(self) -> str:
        names = {i.value: i.name for i in self.inputs} | {s.value: s.name for s in self.states}

        def name(value: int) -> str:
            return names.get(value, f"%{value}")

        lines = ["adjoint program" if self.adjoint else "program"]
        for item in self.inputs:
            shape = f"[{item.rows}, {item.width}]" if item.is_matrix else f"[{item.width}]"
            lines.append(f"  input  {item.name} {shape} per {item.per}")
        lines += [f"  state  {s.name} [{s.width}]" for s in self.states]
        for node in self.nodes:
            operands = [name(v) for v in node.inputs]
            match node.kind:
                case "const":
                    operands = [f"{node.number:g}"]
                case "slice":
                    operands.append(f"{node.start}:{node.stop}")
                case "matmul" if node.transposed:
                    operands[1] += ".T"
            line = f"  %{node.value} [{node.width}] = {node.op}({', '.join(operands)})"
            lines.append(f"{line:<60}  # {node.source}" if node.source else line)
        lines += [f"  next   {s.name} = {name(s.next)}" for s in self.states]
        lines += [f"  store  {o.name} = {name(o.value)}" for o in self.outputs]
        lines += [f"  total  {o.name} = {name(o.value)}" for o in self.totals]
        return "\n".join(lines)


@dataclass(frozen=True)
class Contraction:
    """A parameter's gradient: a sum over all steps and rows, taken once after the adjoint loop.

    kind:
        "outer"    left[T*B, K]^T right[T*B, N], the gradient [K, N] of a matmul's matrix; with `transposed`
                   its transpose [N, K], computed as right^T left so that it is contiguous
        "sum"      the column sums of right
        "product"  the column sums of left * right (a peephole weight)

    `parameter` is a number that the compiler gives to what receives the gradient. The result belongs to its
    columns from `start` on (all of it where the widths agree); contractions for the same columns are added.
    """

    kind: Literal["outer", "sum", "product"]
    parameter: int
    left: "Operand | None"
    right: "Operand"
    transposed: bool = False
    start: int = 0


@dataclass(frozen=True)
class Operand:
    """What a contraction reads, [T, B, width]: number `index` of the adjoint Program's inputs or outputs.

    With `width`, it is the columns [start, start + width) alone.
    """

    source: Literal["input", "output"]
    index: int
    start: int = 0
    width: int | None = None


def interpret(
    program: Program,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a Program step by step in PyTorch: the definition that every backend is held to.

    Args:
        program: forward or adjoint.
        inputs: one tensor for each of `program.inputs`, shaped as `Input` says.
        states: initial states [B, width] (for an adjoint: the gradients of the final states).
        lengths: [B] valid steps of each row; all T where None.
        resets: [T, B] boolean, where the forward recurrence restarts before a step.
        reverse: whether the forward recurrence runs from the last step to the first. An adjoint Program takes
            the forward's value and goes the other way.

    Returns:
        The outputs [T, B, width] and behind them the totals [width], and the final states [B, width] (for an
        adjoint: the gradients of the initial states).
    """
    steps = [tensor for tensor, item in zip(inputs, program.inputs, strict=True) if item.per == "step"]
    first = steps[0]
    length, batch = first.shape[:2]
    outputs: list[list[Tensor]] = [[first.new_zeros(batch, o.width)] * length for o in program.outputs]
    totals = [first.new_zeros(o.width) for o in program.totals]
    initial = [state.expand(batch, -1) for state in states]
    current = list(initial)
    initial_gradients = [torch.zeros_like(state) for state in initial]
    backwards = reverse != program.adjoint
    for t in reversed(range(length)) if backwards else range(length):
        valid = None if lengths is None else (t < lengths)[:, None]
        if resets is not None and not program.adjoint:
            restart = resets[t, :, None] if valid is None else resets[t, :, None] & valid
            current = [torch.where(restart, i, c) for i, c in zip(initial, current, strict=True)]
        values = {
            item.value: tensor[t] if item.per == "step" else tensor
            for item, tensor in zip(program.inputs, inputs, strict=True)
        }
        values |= {state.value: c for state, c in zip(program.states, current, strict=True)}
        for node in program.nodes:
            values[node.value] = evaluate(node, [values[v] for v in node.inputs], first)
        for output, stored in zip(program.outputs, outputs, strict=True):
            value = values[output.value].expand(batch, -1)
            stored[t] = value if valid is None else torch.where(valid, value, 0)
        for number, output in enumerate(program.totals):
            value = values[output.value].expand(batch, -1)
            value = value if valid is None else torch.where(valid, value, 0)
            totals[number] = totals[number] + value.sum(0)
        after = [values[state.next].expand(batch, -1) for state in program.states]
        if valid is not None:
            after = [torch.where(valid, a, c) for a, c in zip(after, current, strict=True)]
        if resets is not None and program.adjoint:
            restart = resets[t, :, None] if valid is None else resets[t, :, None] & valid
            initial_gradients = [
                torch.where(restart, g + a, g) for g, a in zip(initial_gradients, after, strict=True)
            ]
            after = [torch.where(restart, 0, a) for a in after]
        current = after
    if program.adjoint:
        current = [g + c for g, c in zip(initial_gradients, current, strict=True)]
    return [*(torch.stack(steps) for steps in outputs), *totals], current


def evaluate(node: Node, operands: list[Tensor], like: Tensor) -> Tensor:
    """The value of one node, for operands [*, width]."""
    match node.kind:
        case "unary":
            return UNARY[node.op](operands[0])
        case "binary":
            return BINARY[node.op](operands[0], operands[1])
        case "compare":
            return COMPARE[node.op](operands[0], operands[1])
        case "where":
            return torch.where(operands[0], operands[1], operands[2])
        case "const":
            return like.new_full((1,), node.number)
        case "slice":
            return operands[0][..., node.start : node.stop]
        case "cat":
            rows = torch.broadcast_shapes(*(operand.shape[:-1] for operand in operands))
            return torch.cat([operand.expand(*rows, -1) for operand in operands], dim=-1)
        case "sum":
            return operands[0].sum(-1, keepdim=True)
        case "amax":
            return operands[0].amax(-1, keepdim=True)
        case "detach":
            return operands[0].detach()
        case "matmul":
            return operands[0] @ (operands[1].T if node.transposed else operands[1])


def contract(contraction: Contraction, left: Tensor | None, right: Tensor) -> Tensor:
    """A parameter's gradient from whole sequences, in PyTorch."""
    flat = right.flatten(0, 1)
    match contraction.kind:
        case "sum":
            return flat.sum(0)
        case "product":
            assert left is not None
            return (left.flatten(0, 1) * flat).sum(0)
        case "outer":
            assert left is not None
            flat_left = left.flatten(0, 1)
            return flat.T @ flat_left if contraction.transposed else flat_left.T @ flat


def contract_all(
    contractions: Sequence[Contraction],
    lefts: Sequence[Tensor | None],
    rights: Sequence[Tensor],
    rows: Tensor | None = None,
) -> list[Tensor]:
    """Several parameters' gradients: a backend may find those that share a factor together.

    `rows` are the places in [T*B] that are summed up, in order; all of them where None.
    """
    taken: dict[int, Tensor] = {}

    def take(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or rows is None:
            return tensor
        if id(tensor) not in taken:
            taken[id(tensor)] = tensor.flatten(0, 1).index_select(0, rows)[:, None]
        return taken[id(tensor)]

    factors = zip(contractions, map(take, lefts), map(take, rights), strict=True)
    return [contract(contraction, left, right) for contraction, left, right in factors if right is not None]
