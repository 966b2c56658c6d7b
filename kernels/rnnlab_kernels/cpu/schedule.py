"""What a plan is made of: a Program's values as pieces, in passes, in stages; `planner` makes it.

Legend: H a width, K the width of a matmul's row operand. Three phases run over a chunk of time steps:

    pre    what no state reaches and a matmul feeds (input projections), for all rows of the chunk
    loop   the recurrence, step by step
    post   what nothing carried depends on (a gradient with respect to an input), for all rows of the chunk

Slices and concatenations cost nothing: every value is cut into *pieces* at their borders, so that the four
gates of an LSTM are four pieces [H] that line up in one pass over the columns, and stay in registers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from rnnlab_kernels.program import Node, Program

Phase = Literal["pre", "loop", "post"]
PHASES: tuple[Phase, ...] = ("pre", "loop", "post")

MAX_PIECES = 24
"""A value cut finer than this is stored whole instead, and its slices are read back from memory."""

SMALL_WEIGHTS = 20_000
"""Matmuls outside the recurrence with fewer weights than this join the loop: they cost less than a buffer."""


@dataclass(frozen=True)
class Leaf:
    """Columns [start, start + width) of an input or a state, or a constant."""

    kind: Literal["input", "state", "const"]
    index: int
    start: int
    width: int
    number: float = 0.0


@dataclass(eq=False)
class Buffer:
    """A row vector kept between passes. In a chunk buffer every step of the chunk has rows of its own."""

    index: int
    width: int
    chunk: bool = False


@dataclass(frozen=True)
class Place:
    """Where a row stands: at column `start` of a buffer or of a state."""

    kind: Literal["buffer", "state"]
    index: int
    start: int


@dataclass(frozen=True)
class Term:
    """One product that an accumulator sums up: row `place` [K] by columns of a matrix input."""

    place: Place
    depth: int
    matrix: int
    transposed: bool
    start: int

    @property
    def product(self) -> tuple[Place, int, int, bool]:
        """What terms have in common that one matrix product can compute."""
        return self.place, self.depth, self.matrix, self.transposed


@dataclass(eq=False)
class Piece:
    """One operation on a range of columns that is never divided."""

    op: str
    operands: list["Leaf | Piece"]
    width: int
    order: int
    number: float = 0.0
    rows: list["Row"] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    products: list[tuple[int, int, bool, int]] = field(default_factory=list)
    stateful: bool = False
    carried: bool = False
    phase: Phase = "loop"
    level: int = 0
    buffer: Buffer | None = None
    joined: bool = False
    """A reduction that is found by the passes that compute its row, which need not be stored then."""
    stores: list[tuple[Buffer, int]] = field(default_factory=list)
    nexts: list[tuple[int, int]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    totals: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_matmul(self) -> bool:
        return self.op == "matmul"

    @property
    def is_reduction(self) -> bool:
        return self.op in ("sum", "amax")


Ref = Leaf | Piece


@dataclass(eq=False)
class Row:
    """A whole row vector that a matmul or a reduction reads: its parts, from left to right."""

    parts: list[Ref]
    width: int
    place: Place | None = None


@dataclass(eq=False)
class Pass:
    """One loop over columns, for pieces of one width at one level."""

    phase: Phase
    level: int
    width: int
    pieces: list[Piece]

    @property
    def matmuls(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.is_matmul]

    @property
    def reductions(self) -> list[Piece]:
        """Those that read a row from memory: a pass of their own."""
        return [piece for piece in self.pieces if piece.is_reduction and not piece.joined]

    @property
    def joined(self) -> list[Piece]:
        """Those of rows of which this pass computes the last part."""
        return [piece for piece in self.pieces if piece.joined]


@dataclass(eq=False)
class Stage:
    """Passes that run together: one with matmuls, or several without, row by row."""

    phase: Phase
    passes: list[Pass]

    @property
    def splits_columns(self) -> bool:
        """Whether threads may share its columns; otherwise they share its rows."""
        return len(self.passes) == 1 and not any(p.is_reduction for p in self.passes[0].pieces)


@dataclass(eq=False)
class Plan:
    """A Program in the order in which the CPU runs it."""

    program: Program
    stages: list[Stage]
    buffers: list[Buffer]


class Pieces:
    """The Program's values cut into pieces."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = {node.value: node for node in program.nodes}
        self.order = {node.value: number for number, node in enumerate(program.nodes)}
        self.inputs = {item.value: number for number, item in enumerate(program.inputs)}
        self.states = {state.value: number for number, state in enumerate(program.states)}
        self.made: dict[tuple[int, int, int], Piece] = {}
        self.rows: dict[int, Row] = {}
        self.whole: set[int] = set()
        self.cuts = self._cut()

    def _cut(self) -> dict[int, set[int]]:
        """The columns where each node's value is cut; where that gets out of hand, slices read whole rows."""
        cuts: dict[int, set[int]] = {node.value: {0, node.width} for node in self.program.nodes}
        changed = True
        while changed:
            before = sum(map(len, cuts.values()))
            for node in self.program.nodes:
                self._share_cuts(node, cuts)
            changed = sum(map(len, cuts.values())) > before
            if max(map(len, cuts.values()), default=0) > MAX_PIECES + 1:
                self.whole = {node.inputs[0] for node in self.program.nodes if node.kind == "slice"}
                self.whole -= set(self.inputs) | set(self.states)
                self.whole |= {node.value for node in self.program.nodes if node.kind == "cat"}
                return {node.value: {0, node.width} for node in self.program.nodes}
        return cuts

    def _share_cuts(self, node: Node, cuts: dict[int, set[int]]) -> None:
        own = cuts[node.value]
        match node.kind:
            case "unary" | "binary" | "compare" | "where":
                operands = [cuts[v] for v in node.inputs if v in cuts and self.nodes[v].width == node.width]
                union = own.union(*operands)
                for each in (own, *operands):
                    each |= union
            case "slice" if node.inputs[0] in cuts:
                source = cuts[node.inputs[0]]
                own |= {c - node.start for c in source if node.start <= c <= node.stop}
                source |= {c + node.start for c in own}
            case "cat":
                offset = 0
                for v in node.inputs:
                    width = self.program.widths[v]
                    own.add(offset)
                    if v in cuts:
                        own |= {c + offset for c in cuts[v]}
                        cuts[v] |= {c - offset for c in own if offset <= c <= offset + width}
                    offset += width

    def ref(self, value: int, start: int, stop: int) -> Ref:
        """Columns [start, stop) of a value, which no cut divides."""
        if value in self.inputs:
            return Leaf("input", self.inputs[value], start, stop - start)
        if value in self.states:
            return Leaf("state", self.states[value], start, stop - start)
        node = self.nodes[value]
        if node.kind == "const":
            return Leaf("const", 0, 0, 1, node.number)
        if node.kind == "slice":
            if node.inputs[0] in self.whole:
                return self._piece(node, start, stop)
            return self.ref(node.inputs[0], start + node.start, stop + node.start)
        if node.kind == "cat" and value not in self.whole:
            offset = 0
            for v in node.inputs:
                width = self.program.widths[v]
                if offset <= start and stop <= offset + width:
                    return self.ref(v, start - offset, stop - offset)
                offset += width
        return self._piece(node, start, stop)

    def _piece(self, node: Node, start: int, stop: int) -> Piece:
        key = (node.value, start, stop)
        if key in self.made:
            return self.made[key]
        piece = Piece(node.op, [], stop - start, self.order[node.value], node.number)
        self.made[key] = piece
        match node.kind:
            case "slice":
                piece.op = "window"
                piece.rows = [self.row(node.inputs[0])]
                piece.number = node.start + start
            case "cat":
                piece.op = "window"
                piece.rows = [self.row(node.value)]
                piece.number = start
            case "matmul":
                piece.rows = [self.row(node.inputs[0])]
                piece.products = [(0, self.inputs[node.inputs[1]], node.transposed, start)]
            case "sum" | "amax":
                piece.rows = [self.row(node.inputs[0])]
            case _:
                for v in node.inputs:
                    wide = self.program.widths[v] == node.width
                    piece.operands.append(self.ref(v, start, stop) if wide else self.ref(v, 0, 1))
        return piece

    def parts(self, value: int, start: int, stop: int) -> list[Ref]:
        """Columns [start, stop) of a value as pieces."""
        node = self.nodes.get(value)
        if node is None or node.kind == "const":
            return [self.ref(value, start, stop)]
        if node.kind == "slice" and node.inputs[0] not in self.whole:
            return self.parts(node.inputs[0], start + node.start, stop + node.start)
        if node.kind == "cat" and value not in self.whole:
            found: list[Ref] = []
            offset = 0
            for v in node.inputs:
                width = self.program.widths[v]
                low, high = max(start, offset), min(stop, offset + width)
                if low < high:
                    found += self.parts(v, low - offset, high - offset)
                offset += width
            return found
        borders = sorted({start, stop, *(c for c in self.cuts[value] if start < c < stop)})
        return [self.ref(value, a, b) for a, b in pairwise(borders)]

    def row(self, value: int) -> Row:
        """A whole value, as the operand of a matmul or a reduction."""
        if value not in self.rows:
            width = self.program.widths[value]
            self.rows[value] = row = Row([], width)
            node = self.nodes.get(value)
            if value in self.whole and node is not None and node.kind == "cat":
                for v in node.inputs:
                    row.parts += self.parts(v, 0, self.program.widths[v])
            else:
                row.parts = self.parts(value, 0, width)
        return self.rows[value]


def inner(piece: Piece) -> Iterator[Ref]:
    """What a piece reads directly, comparisons seen through: they are evaluated where they are used."""
    for operand in piece.operands:
        if isinstance(operand, Piece) and operand.op in COMPARISONS:
            yield from inner(operand)
        else:
            yield operand


def reads(piece: Piece) -> Iterator[Ref]:
    """What a piece depends on."""
    yield from inner(piece)
    for row in piece.rows:
        yield from row.parts


COMPARISONS = frozenset(("lt", "le", "gt", "ge", "eq", "ne"))
