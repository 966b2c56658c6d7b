"""The adjoint of a Program: reverse mode over its nodes, and what it keeps from the forward loop.

The gradients of a step are written behind the step itself, into one Builder. What they read of the step is
then either kept by the forward loop or computed again in the adjoint loop, whichever a minimum cut finds to
take the fewest bytes. Gradients of matrices are not summed step by step: the adjoint loop stores what they
are made of, and one contraction over the whole sequence follows it. So are those of vectors, but where the
backend can sum them up in the loop itself, as totals.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from rnnlab_kernels.program import COMPARE, Contraction, Node, Operand, Output, Program

from rnnlab.recurrence.mincut import cheapest
from rnnlab.recurrence.rules import RULES
from rnnlab.recurrence.simplify import DETACH, Builder, live, tidy


@dataclass(frozen=True)
class Feed:
    """What an input of an adjoint Program is given: number `index` of one of the forward Program's lists.

    kind: "input" the forward Program's own input; "output" what it stored; "gradient" that of its output.
    """

    kind: Literal["input", "output", "gradient"]
    index: int


@dataclass(frozen=True)
class Total:
    """A parameter's gradient that the adjoint loop sums up: total `index`, for the columns from `start`."""

    parameter: int
    index: int
    start: int = 0


@dataclass(frozen=True)
class Derivative:
    """A Program that keeps what its adjoint needs, and the adjoint."""

    forward: Program
    """The Program with the values to keep as further outputs, behind its own."""
    adjoint: Program
    feeds: tuple[Feed, ...]
    """What each input of the adjoint is given."""
    rows: tuple[tuple[int, int], ...]
    """(input of the forward Program, output of the adjoint that is its gradient [T, B, width])."""
    contractions: tuple[Contraction, ...]
    """`parameter` is the number of the forward Program's input that the gradient belongs to."""
    totals: tuple[Total, ...]
    marked: Program
    """`forward` with the marks where no gradient flows, for `without`."""

    def flops(self) -> int:
        """Floating-point operations of the backward for one step of one row, the contractions included."""
        total = self.adjoint.flops() + sum(output.width for output in self.adjoint.totals)
        for contraction in dict.fromkeys(replace(c, parameter=0, start=0) for c in self.contractions):
            right = self.width(contraction.right)
            if contraction.kind == "sum" or contraction.left is None:
                total += right
            else:
                total += 2 * right * (self.width(contraction.left) if contraction.kind == "outer" else 1)
        return total

    def width(self, operand: Operand) -> int:
        """The width of what a contraction reads."""
        if operand.width is not None:
            return operand.width
        adjoint = self.adjoint
        return (adjoint.inputs if operand.source == "input" else adjoint.outputs)[operand.index].width

    def without(self, requires: Sequence[bool], given: Sequence[bool], totals: bool = False) -> Derivative:
        """The adjoint for outputs of which some have no gradient, from what this one's forward loop keeps.

        `given` tells of each of the Program's own outputs whether it has one; the rest is as for
        `differentiate`.
        """
        program = self.marked
        given = [*given, *[False] * (len(program.outputs) - len(given))]
        return _Adjoint(program, requires, given).derivative(totals, {o.value for o in program.outputs})


@dataclass(frozen=True)
class _Part:
    """A part of a gradient: of columns [start, stop), `right`, or `left * right` where there is a left."""

    start: int
    stop: int
    right: int
    left: int | None = None
    transposed: bool = False
    """The matrix that the gradient belongs to is transposed where it is used."""


@dataclass(frozen=True)
class _Sum:
    """A parameter's gradient: a part, to be summed over all steps and rows."""

    kind: Literal["outer", "sum", "product"]
    input: int
    part: _Part

    @property
    def operands(self) -> list[int]:
        return [v for v in (self.part.left, self.part.right) if v is not None]


class _Stores:
    """The outputs of an adjoint: none of them twice, and none that is a part of another."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.values: dict[int, str] = {}
        self.parts: dict[int, Operand] = {}

    def whole(self, value: int, name: str) -> int:
        """The number of the output that holds a value."""
        if value not in self.values:
            self.values[value] = name
            node = self.builder.defined.get(value)
            start = 0
            for part in node.inputs if node is not None and node.op == "cat" else ():
                width = self.builder.widths[part]
                self.parts.setdefault(part, Operand("output", len(self.values) - 1, start, width))
                start += width
        return list(self.values).index(value)

    def operand(self, value: int, name: str) -> Operand:
        """Where a contraction finds a value."""
        found = self.parts.get(value)
        return Operand("output", self.whole(value, name)) if found is None or value in self.values else found


def strip(program: Program) -> Program:
    """The Program without the marks where no gradient flows: what a backend runs."""
    moved: dict[int, int] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        inputs = tuple(moved.get(v, v) for v in node.inputs)
        if node.op == DETACH:
            moved[node.value] = inputs[0]
        else:
            nodes.append(replace(node, inputs=inputs))
    return Program(
        program.inputs,
        tuple(replace(s, next=moved.get(s.next, s.next)) for s in program.states),
        tuple(nodes),
        tuple(replace(o, value=moved.get(o.value, o.value)) for o in program.outputs),
        program.adjoint,
        tuple(replace(o, value=moved.get(o.value, o.value)) for o in program.totals),
        program.inner,
    )


def differentiate(program: Program, requires: Sequence[bool], totals: bool = False) -> Derivative:
    """The adjoint of a forward Program as `tidy` leaves it.

    Args:
        program: the Program, in which `simplify.DETACH` may mark where no gradient flows.
        requires: for each input, whether its gradient is asked for.
        totals: whether the adjoint loop may sum up gradients of parameter vectors itself, which then need no
            sequence of their own in memory.
    """
    return _Adjoint(program, requires, [True] * len(program.outputs)).derivative(totals)


class _Adjoint:
    """A step and, behind it in the same builder, its gradients."""

    def __init__(self, program: Program, requires: Sequence[bool], given: Sequence[bool]) -> None:
        self.program = program
        self.builder, self.moved = Builder.of(program)
        build, moved = self.builder, self.moved
        self.step = list(build.nodes)
        self.inputs = {moved[item.value]: i for i, item in enumerate(program.inputs)}
        self.invariant = {moved[v] for v in program.invariant}
        self.active = self._active(requires)
        self.parts: dict[int, list[_Part]] = {}
        self.gradients: dict[int, int] = {}
        """The input that holds the gradient of an output, and the output's number."""
        for i, output in enumerate(program.outputs):
            if given[i]:
                value = build.input(f"grad_{output.name}", "step", output.width)
                self.gradients[value] = i
                self._add(moved[output.value], value)
        self.states: list[int] = []
        for state in program.states:
            value = build.state(f"grad_{state.name}", state.width)
            self.states.append(value)
            self._add(moved[state.next], value)
        for node in reversed(self.step):
            build.source = node.source
            if node.op != DETACH and node.value in self.active and node.value in self.parts:
                self._reverse(node)

    def _active(self, requires: Sequence[bool]) -> set[int]:
        """The values whose gradient is needed for one that is asked for."""
        active = {self.moved[i.value] for i, on in zip(self.program.inputs, requires, strict=True) if on}
        active |= {self.moved[s.value] for s in self.program.states}
        for node in self.step:
            if node.op != DETACH and not active.isdisjoint(node.inputs):
                active.add(node.value)
        return active

    # Gradients of values, in parts.

    def _add(self, value: int, right: int, left: int | None = None, transposed: bool = False) -> None:
        """Add to the gradient of all of a value."""
        part = _Part(0, self.builder.widths[value], right, left, transposed)
        self.parts.setdefault(value, []).append(part)

    def _narrow(self, operand: int, width: int, gradient: int) -> None:
        """Add a gradient of `width` columns for an operand, which may have been broadcast to them."""
        build = self.builder
        if build.widths[operand] == 1 and width > 1:
            if build.widths[gradient] == 1:
                gradient = build.binary("mul", gradient, build.const(width))
            else:
                gradient = build.sum(gradient)
        self._add(operand, gradient)

    def _total(self, value: int, parts: Sequence[_Part] | None = None) -> int:
        """The sum of parts, all of a value's by default: of its width, or of width 1 for all columns."""
        build, width = self.builder, self.builder.widths[value]
        parts = self.parts.get(value, []) if parts is None else parts
        rights = [p.right if p.left is None else build.binary("mul", p.left, p.right) for p in parts]
        edges = sorted({0, width, *(p.start for p in parts), *(p.stop for p in parts)})
        pieces: list[int] = []
        for start, stop in pairwise(edges):
            total = build.const(0)
            for part, right in zip(parts, rights, strict=True):
                if part.start <= start and stop <= part.stop:
                    wide = build.widths[right] > 1
                    term = build.slice(right, start - part.start, stop - part.start) if wide else right
                    total = build.binary("add", total, term)
            pieces.append(total)
        if len(pieces) == 1:
            return pieces[0]
        return build.cat([build.spread(p, b - a) for p, (a, b) in zip(pieces, pairwise(edges), strict=True)])

    def _reverse(self, node: Node) -> None:
        """Pass the gradient of a node on to its operands."""
        build, widths, parts = self.builder, self.builder.widths, self.parts[node.value]
        if node.op == "slice":
            moved = [replace(p, start=p.start + node.start, stop=p.stop + node.start) for p in parts]
            self.parts.setdefault(node.inputs[0], []).extend(moved)
            return
        if (
            node.op == "add"
            and node.value in self.invariant
            and widths[node.inputs[0]] == widths[node.inputs[1]]
        ):
            # Sums of parameters pass the parts on as they are, so that each can become a contraction.
            for operand in node.inputs:
                if operand in self.active:
                    self.parts.setdefault(operand, []).extend(parts)
            return
        gradient = self._total(node.value)
        if node.op == "cat":
            start = 0
            for operand in node.inputs:
                stop = start + widths[operand]
                if operand in self.active:
                    self._add(
                        operand, build.slice(gradient, start, stop) if widths[gradient] > 1 else gradient
                    )
                start = stop
            return
        if node.op == "matmul":
            row, matrix = node.inputs
            gradient = build.spread(gradient, node.width)
            if row in self.active:
                self._add(row, build.matmul(gradient, matrix, widths[row], not node.transposed))
            if matrix in self.active:
                self._add(matrix, gradient, row, node.transposed)
            return
        if node.op == "mul" and node.inputs[0] == node.inputs[1]:
            twice = build.binary("mul", gradient, build.const(2))
            self._add(node.inputs[0], build.binary("mul", twice, node.inputs[0]))
            return
        if node.op == "mul":
            for operand, other in (node.inputs, node.inputs[::-1]):
                if operand not in self.active:
                    continue
                same = widths[operand] == widths[other] == widths[gradient] == node.width
                if same and operand in self.invariant and other not in self.invariant:
                    self._add(operand, gradient, other)
                else:
                    self._narrow(operand, node.width, build.binary("mul", gradient, other))
            return
        results = RULES[node.op](build, node, gradient)
        if len(results) == 2 and node.inputs[0] == node.inputs[1] and None not in results:
            # Added up before others join: large ones may cancel, as of x less its mean, for a row of one.
            results = (build.binary("add", *(r for r in results if r is not None)), None)
        for operand, result in zip(node.inputs, results, strict=True):
            if result is not None and operand in self.active:
                self._narrow(operand, node.width, result)

    # The two Programs.

    def derivative(self, totals: bool, kept: set[int] | None = None) -> Derivative:
        """The forward Program that keeps what its adjoint reads, and the adjoint, with `totals` if it may.

        `kept` are the values that the forward loop keeps, in the Program's numbers; chosen where None.
        """
        build, program = self.builder, self.program
        nexts = [build.spread(self._total(self.moved[s.value]), s.width) for s in program.states]
        rows: list[tuple[int, int]] = []
        sums: list[_Sum] = []
        for value, i in self.inputs.items():
            item = program.inputs[i]
            if value not in self.active or value not in self.parts:
                continue
            if item.is_matrix:
                sums += [_Sum("outer", i, part) for part in self.parts[value]]
            elif item.per == "call":
                sums += [
                    _Sum("sum" if p.left is None else "product", i, p) for p in self._vector_parts(value)
                ]
            else:
                rows.append((i, build.spread(self._total(value), item.width)))
        results = [*nexts, *(v for _, v in rows), *(v for s in sums for v in s.operands)]
        chosen = self._kept(set(results)) if kept is None else {self.moved[v] for v in kept}
        # Column sums of what a contraction turns over come with it.
        apart = {s.part.right for s in sums if s.kind == "outer" and s.part.transposed}
        inside = [s for s in sums if totals and s.kind != "outer"]
        inside = [s for s in inside if s.kind == "product" or s.part.right not in apart]
        sums = self._together([s for s in sums if s not in inside], chosen)
        forward, stored = self._forward(chosen)
        return self._assemble(forward, stored, nexts, rows, sums, inside)

    def _vector_parts(self, value: int) -> list[_Part]:
        """The parts of a parameter vector's gradient, with one for all that need no product."""
        build, width = self.builder, self.builder.widths[value]
        plain = [part for part in self.parts[value] if part.left is None]
        products = [part for part in self.parts[value] if part.left is not None]
        spans = sorted({(p.start, p.stop) for p in plain})
        if plain and [0, *(b for _, b in spans)] == [*(a for a, _ in spans), width]:
            plain = [_Part(0, width, self._total(value, plain))]
        return [*products, *(replace(p, right=build.spread(p.right, p.stop - p.start)) for p in plain)]

    def _together(self, sums: Sequence[_Sum], chosen: set[int]) -> list[_Sum]:
        """Products for neighbouring columns of one parameter in one, where their factors must be stored."""
        build = self.builder
        result = [s for s in sums if s.kind != "product"]
        for i in dict.fromkeys(s.input for s in sums if s.kind == "product"):
            products = [s for s in sums if s.kind == "product" and s.input == i]
            products.sort(key=lambda s: s.part.start)
            lefts = [s.part.left for s in products if s.part.left is not None]
            rights = [s.part.right for s in products]
            meet = all(a.part.stop == b.part.start for a, b in pairwise(products))
            if len(products) > 1 and meet and not any(v in chosen or v in self.inputs for v in lefts):
                first, last = products[0].part, products[-1].part
                part = _Part(first.start, last.stop, build.cat(rights), build.cat(lefts))
                products = [_Sum("product", i, part)]
            result += products
        return result

    def _late(self) -> set[int]:
        """The values that depend on a gradient: the adjoint loop alone can compute them."""
        late = {*self.gradients, *self.states}
        for node in self.builder.nodes:
            if not late.isdisjoint(node.inputs):
                late.add(node.value)
        return late

    def _kept(self, results: set[int]) -> set[int]:
        """The values of the step that the forward loop keeps: those of the fewest bytes that suffice."""
        late, widths = self._late(), self.builder.widths
        needed = set(results)
        for node in reversed(self.builder.nodes):
            if node.value in needed and node.value in late:
                needed.update(node.inputs)
        early = [node for node in self.builder.nodes if node.value not in late]
        states = {self.moved[s.value]: self.moved[s.next] for s in self.program.states}
        stored = {self.moved[o.value] for o in self.program.outputs}
        reads: dict[int, tuple[int, ...]] = {
            **dict.fromkeys(states, ()),
            **{n.value: n.inputs for n in early},
        }
        masks = {n.value for n in early if n.op in COMPARE}
        # A stored output is kept anyway, and so is, one step later, the state that it becomes.
        cost = {
            value: 0.0 if value in stored or states.get(value) in stored else float(widths[value])
            for value in reads
            if value not in masks
        }
        # A sum over a row takes a pass of its own, and the number that it gives next to nothing to keep.
        fixed = [*states, *(n.value for n in early if n.op in ("matmul", "sum", "amax"))]
        return cheapest(reads, cost, fixed, [v for v in needed if v in reads])

    def _forward(self, chosen: set[int]) -> tuple[Program, dict[int, int]]:
        """The step with what is chosen among its outputs, and the output that holds each value."""
        program, build = self.program, self.builder
        late = self._late()
        stored = {self.moved[o.value]: i for i, o in enumerate(program.outputs)}
        outputs = [replace(o, value=self.moved[o.value]) for o in program.outputs]
        for value in sorted(chosen - set(stored)):
            stored[value] = len(outputs)
            outputs.append(Output(value, f"kept{len(outputs)}", build.widths[value]))
        states = [replace(s, value=self.moved[s.value], next=self.moved[s.next]) for s in program.states]
        nodes = [node for node in build.nodes if node.value not in late]
        inputs = build.inputs[: len(program.inputs)]
        forward = Program(tuple(inputs), tuple(states), tuple(nodes), tuple(outputs))
        return live(replace(forward, inner=len(outputs) - len(program.outputs))), stored

    def _assemble(
        self,
        forward: Program,
        stored: dict[int, int],
        nexts: Sequence[int],
        rows: Sequence[tuple[int, int]],
        sums: Sequence[_Sum],
        inside: Sequence[_Sum],
    ) -> Derivative:
        program, old, new = self.program, self.builder, Builder()
        nodes = {node.value: node for node in old.nodes}
        at: dict[int, int] = {}
        feeds: list[Feed] = []
        fed: dict[int, int] = {}
        for value, state in zip(self.states, program.states, strict=True):
            at[value] = new.state(f"grad_{state.name}", state.width)

        def read(value: int) -> bool:
            """Make a value an input of the adjoint if it is given to it."""
            if value in at:
                return True
            per, matrix = "step", None
            if value in stored:
                feed, name = Feed("output", stored[value]), forward.outputs[stored[value]].name
            elif value in self.inputs:
                feed = Feed("input", self.inputs[value])
                item = program.inputs[feed.index]
                name, per, matrix = item.name, item.per, item.rows
            elif value in self.gradients:
                feed = Feed("gradient", self.gradients[value])
                name = f"grad_{program.outputs[feed.index].name}"
            else:
                return False
            at[value] = new.input(name, per, old.widths[value], matrix)
            fed[value] = len(feeds)
            feeds.append(feed)
            return True

        needed: set[int] = set()
        stack = [*nexts, *(v for _, v in rows), *(v for s in (*sums, *inside) for v in s.operands)]
        while stack:
            value = stack.pop()
            if value not in needed:
                needed.add(value)
                if not read(value):
                    stack.extend(nodes[value].inputs)
        if not any(item.per == "step" for item in new.inputs):
            # Something must tell how many steps and rows there are.
            read(next(value for value, i in self.inputs.items() if program.inputs[i].per == "step"))
        for node in old.nodes:
            if node.value in needed and node.value not in at:
                at[node.value] = new.again(node, tuple(at[v] for v in node.inputs))
        stores = _Stores(new)

        def operand(value: int, name: str) -> Operand:
            if value in fed and new.inputs[fed[value]].per == "step":
                return Operand("input", fed[value])
            return stores.operand(at[value], name)

        row_outputs = tuple((i, stores.whole(at[v], f"grad_{program.inputs[i].name}")) for i, v in rows)
        shown = len(stores.values)
        # The widest first, so that those of single gates are found to be columns of theirs.
        order = sorted(range(len(sums)), key=lambda i: -old.widths[sums[i].part.right])
        contractions = {}
        for number in order:
            item = sums[number]
            name, part = program.inputs[item.input].name, item.part
            right = operand(part.right, f"right_{name}")
            left = None if part.left is None else operand(part.left, f"left_{name}")
            contractions[number] = Contraction(
                item.kind, item.input, left, right, part.transposed, part.start
            )
        summed: dict[int, str] = {}
        totals: dict[Total, None] = {}
        for item in inside:
            part, name = item.part, program.inputs[item.input].name
            value = at[part.right]
            if part.left is not None:
                value = new.binary("mul", at[part.left], value)
            summed.setdefault(value, f"total_{name}")
            totals[Total(item.input, list(summed).index(value), part.start)] = None
        adjoint = new.program(
            [at[v] for v in nexts], stores.values.items(), adjoint=True, totals=summed.items()
        )
        return Derivative(
            strip(forward),
            replace(tidy(strip(adjoint)), inner=len(adjoint.outputs) - shown),
            tuple(feeds),
            row_outputs,
            tuple(dict.fromkeys(contractions[i] for i in range(len(sums)))),
            tuple(totals),
            forward,
        )
