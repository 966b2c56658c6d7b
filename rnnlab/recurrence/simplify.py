"""Build Programs value by value, each computed once and in its simplest form.

`Builder` shares equal nodes, folds constants and applies algebra that changes no result beyond rounding: it
drops `x + 0` and `x * 1`, but keeps `x * 0`, which is NaN for an infinite x. `tidy` finishes a Program.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from rnnlab_kernels.program import BINARY, KINDS, UNARY, Input, Node, Output, Program, State

from rnnlab.recurrence import sums

# What `Builder.detach` writes: the same value, through which no gradient flows. No Program that is handed to
# a backend contains it.
DETACH = "detach"


class Builder:
    """Nodes in order, none of them twice."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.states: list[tuple[int, str, int]] = []
        self.nodes: list[Node] = []
        self.widths: dict[int, int] = {}
        self.defined: dict[int, Node] = {}
        self.source = ""
        self._known: dict[tuple[object, ...], int] = {}
        self._next = 0

    @staticmethod
    def of(program: Program) -> tuple[Builder, dict[int, int]]:
        """A builder that holds the inputs, states and nodes of a Program, and where each value went."""
        builder = Builder()
        moved: dict[int, int] = {}
        for item in program.inputs:
            moved[item.value] = builder.input(item.name, item.per, item.width, item.rows)
        for state in program.states:
            moved[state.value] = builder.state(state.name, state.width)
        for node in program.nodes:
            moved[node.value] = builder.again(node, tuple(moved[v] for v in node.inputs))
        return builder, moved

    def _new(self, width: int) -> int:
        value = self._next
        self._next += 1
        self.widths[value] = width
        return value

    def input(self, name: str, per: str, width: int, rows: int | None = None) -> int:
        """A new input, and its value."""
        value = self._new(width)
        self.inputs.append(Input(value, name, per, width, rows))  # type: ignore[arg-type]
        return value

    def state(self, name: str, width: int) -> int:
        """A new state, and its value at the start of the step."""
        value = self._new(width)
        self.states.append((value, name, width))
        return value

    def number(self, value: int) -> float | None:
        """The number that a constant is."""
        node = self.defined.get(value)
        return node.number if node is not None and node.op == "const" else None

    def node(
        self,
        op: str,
        inputs: tuple[int, ...],
        width: int,
        *,
        start: int = 0,
        stop: int = 0,
        number: float = 0.0,
        transposed: bool = False,
    ) -> int:
        """The value of an operation as it stands, computed now or before."""
        key = (op, inputs, start, stop, number.hex(), transposed)
        value = self._known.get(key)
        if value is None:
            value = self._known[key] = self._new(width)
            node = Node(op, inputs, value, width, start, stop, number, transposed, self.source)
            self.nodes.append(node)
            self.defined[value] = node
        return value

    def const(self, number: float) -> int:
        return self.node("const", (), 1, number=float(number))

    def detach(self, value: int) -> int:
        node = self.defined.get(value)
        if node is not None and node.op in ("const", DETACH):
            return value
        return self.node(DETACH, (value,), self.widths[value])

    def unary(self, op: str, x: int) -> int:
        number = self.number(x)
        if number is not None:
            return self.const(_fold(op, number))
        node = self.defined.get(x)
        if op == "neg" and node is not None:
            if node.op == "neg":
                return node.inputs[0]
            if node.op == "sub":
                return self.binary("sub", node.inputs[1], node.inputs[0])
        return self.node(op, (x,), self.widths[x])

    def binary(self, op: str, x: int, y: int) -> int:
        a, b = self.number(x), self.number(y)
        if a is not None and b is not None:
            return self.const(_fold(op, a, b))
        simpler = self._algebra(op, x, y, a, b)
        if simpler is not None:
            return simpler
        if op in ("add", "mul", "maximum", "minimum") and x > y:
            x, y = y, x
        return self.node(op, (x, y), max(self.widths[x], self.widths[y]))

    def _algebra(self, op: str, x: int, y: int, a: float | None, b: float | None) -> int | None:
        """A simpler value for a binary operation of which at most one operand is a number."""
        left, right = self.defined.get(x), self.defined.get(y)
        match op:
            case "add":
                if a == 0 or b == 0:
                    return y if a == 0 else x
                if right is not None and right.op == "neg":
                    return self.binary("sub", x, right.inputs[0])
                if left is not None and left.op == "neg":
                    return self.binary("sub", y, left.inputs[0])
            case "sub":
                if b == 0:
                    return x
                if a == 0:
                    return self.unary("neg", y)
                if right is not None and right.op == "neg":
                    return self.binary("add", x, right.inputs[0])
            case "mul":
                for number, other in ((a, y), (b, x)):
                    if number == 1:
                        return other
                    if number == -1:
                        return self.unary("neg", other)
                if left is not None and left.op == "neg" and right is not None and right.op == "neg":
                    return self.binary("mul", left.inputs[0], right.inputs[0])
            case "div":
                if b == 1:
                    return x
                if b == -1:
                    return self.unary("neg", x)
                if a == 1:
                    return self.unary("reciprocal", y)
                # Dividing by a power of two is exact as a product.
                if b is not None and abs(math.frexp(b)[0]) == 0.5 and 1e-30 < abs(b) < 1e30:
                    return self.binary("mul", x, self.const(1 / b))
            case "pow":
                return self._power(x, b)
        return None

    def _power(self, x: int, exponent: float | None) -> int | None:
        match exponent:
            case 1.0:
                return x
            case 2.0:
                return self.binary("mul", x, x)
            case 3.0:
                return self.binary("mul", self.binary("mul", x, x), x)
            case -1.0:
                return self.unary("reciprocal", x)
            case 0.5:
                return self.unary("sqrt", x)
            case -0.5:
                return self.unary("rsqrt", x)
        return None

    def compare(self, op: str, x: int, y: int) -> int:
        return self.node(op, (x, y), max(self.widths[x], self.widths[y]))

    def where(self, mask: int, x: int, y: int) -> int:
        if x == y and self.widths[x] >= self.widths[mask]:
            return x
        return self.node("where", (mask, x, y), max(self.widths[v] for v in (mask, x, y)))

    def sum(self, x: int) -> int:
        """The sum of a row; what is the same in all its columns is taken out of it."""
        if self.widths[x] == 1:
            return x
        node = self.defined.get(x)
        if node is not None and node.op == "neg":
            return self.unary("neg", self.sum(node.inputs[0]))
        if node is not None and node.op in ("mul", "div"):
            a, b = node.inputs
            if self.widths[b] == 1:
                return self.binary(node.op, sums.scaled(self, a, b), b)
            if self.widths[a] == 1 and node.op == "mul":
                return self.binary("mul", a, sums.scaled(self, b, a))
        split = sums.split(self, x)
        return self.node("sum", (x,), 1) if split is None else split

    def amax(self, x: int) -> int:
        return x if self.widths[x] == 1 else self.node("amax", (x,), 1)

    def slice(self, x: int, start: int, stop: int) -> int:
        width = self.widths[x]
        if (start, stop) == (0, width):
            return x
        node = self.defined.get(x)
        if node is not None and node.op == "slice":
            return self.slice(node.inputs[0], node.start + start, node.start + stop)
        if node is not None and node.op == "cat":
            pieces, first = [], 0
            for piece in node.inputs:
                last = first + self.widths[piece]
                low, high = max(start, first), min(stop, last)
                if low < high:
                    pieces.append(self.slice(piece, low - first, high - first))
                first = last
            return self.cat(pieces)
        return self.node("slice", (x,), stop - start, start=start, stop=stop)

    def cat(self, pieces: Sequence[int]) -> int:
        flat: list[int] = []
        for piece in pieces:
            node = self.defined.get(piece)
            for part in node.inputs if node is not None and node.op == "cat" else (piece,):
                before = self._columns(flat[-1]) if flat else None
                here = self._columns(part)
                if before is not None and before[0] == here[0] and before[2] == here[1]:
                    flat[-1] = self.slice(before[0], before[1], here[2])
                else:
                    flat.append(part)
        return flat[0] if len(flat) == 1 else self.node("cat", tuple(flat), sum(self.widths[p] for p in flat))

    def _columns(self, x: int) -> tuple[int, int, int]:
        """A value as columns [start, stop) of another."""
        node = self.defined.get(x)
        return (
            (node.inputs[0], node.start, node.stop)
            if node is not None and node.op == "slice"
            else (x, -1, -2)
        )

    def matmul(self, x: int, matrix: int, width: int, transposed: bool) -> int:
        return self.node("matmul", (x, matrix), width, transposed=transposed)

    def spread(self, value: int, width: int) -> int:
        """A value of width 1 as one of the given width, where a row of that width is called for."""
        if self.widths[value] == width:
            return value
        # Any wide value serves to give `where` its width: both of its branches are the same.
        given = [(v, w) for v, _, w in self.states] + [
            (i.value, i.width) for i in self.inputs if not i.is_matrix
        ]
        wide = next((v for v, w in given if w >= width), None)
        if wide is None or width <= 8:
            return self.cat([value] * width)
        wide = self.slice(wide, 0, width)
        return self.node("where", (self.compare("eq", wide, wide), value, value), width)

    def again(self, node: Node, inputs: Sequence[int]) -> int:
        """The same operation on other operands, simplified anew."""
        self.source = node.source
        match node.op:
            case "const":
                return self.const(node.number)
            case "slice":
                return self.slice(inputs[0], node.start, node.stop)
            case "cat":
                return self.cat(inputs)
            case "sum":
                return self.sum(inputs[0])
            case "amax":
                return self.amax(inputs[0])
            case "where":
                return self.where(*inputs)
            case "matmul":
                return self.matmul(inputs[0], inputs[1], node.width, node.transposed)
            case "detach":
                return self.detach(inputs[0])
            case op if op in UNARY:
                return self.unary(op, inputs[0])
            case op if op in BINARY:
                return self.binary(op, inputs[0], inputs[1])
            case op:
                return self.compare(op, inputs[0], inputs[1])

    def program(
        self,
        nexts: Sequence[int],
        outputs: Iterable[tuple[int, str]],
        *,
        adjoint: bool = False,
        totals: Iterable[tuple[int, str]] = (),
    ) -> Program:
        """What was built, as a Program: `nexts` for the states; `outputs`, `totals` by value and name."""
        states = [State(v, n, name, width) for (v, name, width), n in zip(self.states, nexts, strict=True)]
        stored, summed = (
            tuple([Output(v, name, self.widths[v]) for v, name in each]) for each in (outputs, totals)
        )
        return Program(tuple(self.inputs), tuple(states), tuple(self.nodes), stored, adjoint, summed)

    def like(self, program: Program, moved: Mapping[int, int]) -> Program:
        """What was built in place of a Program, given where each of its values went."""
        outputs, totals = (
            [(moved[o.value], o.name) for o in each] for each in (program.outputs, program.totals)
        )
        nexts = [moved[s.next] for s in program.states]
        built = self.program(nexts, outputs, adjoint=program.adjoint, totals=totals)
        return replace(built, inner=program.inner)


# In numpy, since constants may be folded while PyTorch traces: a tensor would be taken for one of the model.
_FOLD: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "erf": math.erf,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
}


def _fold(op: str, *numbers: float) -> float:
    with np.errstate(all="ignore"):
        return float((_FOLD.get(op) or getattr(np, op))(*map(np.float64, numbers)))


def live(program: Program, keep_inputs: bool = True) -> Program:
    """The Program without nodes (and, unless kept, inputs) that nothing reads."""
    needed = set(program.results)
    nodes: list[Node] = []
    for node in reversed(program.nodes):
        if node.value in needed:
            nodes.append(node)
            needed.update(node.inputs)
    inputs = tuple(i for i in program.inputs if keep_inputs or i.value in needed)
    return replace(program, inputs=inputs, nodes=tuple(reversed(nodes)))


def rebuild(
    program: Program, rule: Callable[[Builder, Node, tuple[int, ...]], int] | None = None
) -> tuple[Program, dict[int, int]]:
    """The Program built anew, each node by `rule`; also where each old value went."""
    builder = Builder()
    moved: dict[int, int] = {}
    for item in program.inputs:
        moved[item.value] = builder.input(item.name, item.per, item.width, item.rows)
    for state in program.states:
        moved[state.value] = builder.state(state.name, state.width)
    for node in program.nodes:
        inputs = tuple(moved[v] for v in node.inputs)
        builder.source = node.source
        moved[node.value] = builder.again(node, inputs) if rule is None else rule(builder, node, inputs)
    return builder.like(program, moved), moved


def with_restarts(program: Program) -> Program:
    """The Program with a restart of its own, from states that are not the initial ones.

    Behind its inputs it has one more per step, of width 1, which is not zero where a row restarts, and one
    per sequence for each state that it restarts from.
    """
    builder = Builder()
    moved: dict[int, int] = {}
    for item in program.inputs:
        moved[item.value] = builder.input(item.name, item.per, item.width, item.rows)
    mask = builder.compare("ne", builder.input("restart", "step", 1), builder.const(0))
    for state in program.states:
        carried = builder.state(state.name, state.width)
        first = builder.input(f"restart_{state.name}", "sequence", state.width)
        moved[state.value] = builder.where(mask, first, carried)
    for node in program.nodes:
        moved[node.value] = builder.again(node, tuple(moved[v] for v in node.inputs))
    return builder.like(program, moved)


def tidy(program: Program) -> Program:
    """The Program in the form that backends are given.

    Slices are taken of matmuls, inputs and states rather than of what is computed from them, so that all
    pointwise work has the width of a gate; chains of sums are put in the order of how often their terms
    change (parameters, then inputs, then states), so that the constant part is computed once.
    """
    program = live(rebuild(program)[0])
    for _ in range(8):
        before = _size(program)
        program = live(rebuild(program, _narrow(program))[0])
        program = live(rebuild(_regroup(program))[0])
        if _size(program) == before:
            break
    return program


def _size(program: Program) -> Counter[tuple[str, int]]:
    """What changes as long as a pass still finds something to do."""
    return Counter((node.op, node.width) for node in program.nodes)


def _narrow(program: Program) -> Callable[[Builder, Node, tuple[int, ...]], int]:
    """A rule that moves slices towards the operands of pointwise operations that are read by slices alone."""
    readers: dict[int, list[Node]] = {}
    for node in program.nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    kept = set(program.results)
    sliced = {
        node.value: node
        for node in program.nodes
        if KINDS.get(node.op) in ("unary", "binary", "compare", "where")
        and node.value not in kept
        and readers.get(node.value)
        and all(reader.op == "slice" for reader in readers[node.value])
        and _disjoint(readers[node.value])
    }
    # The widths of operands decide which of them are sliced; a width of 1 is broadcast.
    moved: dict[int, tuple[int, ...]] = {}

    def rule(builder: Builder, node: Node, inputs: tuple[int, ...]) -> int:
        if node.value in sliced:
            moved[node.value] = inputs
        if node.op == "slice" and node.inputs[0] in sliced:
            wide = sliced[node.inputs[0]]
            parts = [
                v if builder.widths[v] == 1 else builder.slice(v, node.start, node.stop)
                for v in moved[wide.value]
            ]
            return builder.again(wide, parts)
        return builder.again(node, inputs)

    return rule


def _disjoint(slices: Sequence[Node]) -> bool:
    ranges = sorted((s.start, s.stop) for s in slices)
    return all(a[1] <= b[0] for a, b in pairwise(ranges))


def _regroup(program: Program) -> Program:
    """Chains of additions in the order parameters, inputs, states."""
    uses = Counter(v for node in program.nodes for v in node.inputs)
    uses.update(program.results)
    defined = {node.value: node for node in program.nodes}
    invariant, stateful = program.invariant, program.stateful

    def rank(value: int) -> int:
        return 0 if value in invariant else 2 if value in stateful else 1

    def terms(value: int, sign: int, top: bool) -> list[tuple[int, int]]:
        node = defined.get(value)
        if node is None or node.op not in ("add", "sub") or not (top or uses[value] == 1):
            return [(sign, value)]
        first, second = node.inputs
        return terms(first, sign, False) + terms(second, sign if node.op == "add" else -sign, False)

    inner: set[int] = set()
    for node in program.nodes:
        if node.op in ("add", "sub"):
            inner.update(
                v for v in node.inputs if uses[v] == 1 and v in defined and defined[v].op in ("add", "sub")
            )

    def rule(builder: Builder, node: Node, inputs: tuple[int, ...]) -> int:
        if node.op not in ("add", "sub"):
            return builder.again(node, inputs)
        if node.value in inner:
            return builder.again(node, inputs)
        chain = terms(node.value, 1, True)
        ranks = [rank(v) for _, v in chain]
        if (
            len(chain) < 3
            or len(set(ranks)) == 1
            or max(ranks.count(0), ranks.count(1)) < 2
            or node.width == 1
        ):
            return builder.again(node, inputs)
        return _sum(builder, [(s, moved[v]) for s, v in sorted(chain, key=lambda item: rank(item[1]))])

    builder = Builder()
    moved: dict[int, int] = {}
    for item in program.inputs:
        moved[item.value] = builder.input(item.name, item.per, item.width, item.rows)
    for state in program.states:
        moved[state.value] = builder.state(state.name, state.width)
    for node in program.nodes:
        builder.source = node.source
        moved[node.value] = rule(builder, node, tuple(moved[v] for v in node.inputs))
    return builder.like(program, moved)


def _sum(builder: Builder, chain: Sequence[tuple[int, int]]) -> int:
    """The terms added in their order, with signs."""
    total: int | None = None
    for sign, value in chain:
        if total is None:
            total = value if sign > 0 else builder.unary("neg", value)
        else:
            total = builder.binary("add" if sign > 0 else "sub", total, value)
    assert total is not None
    return total
