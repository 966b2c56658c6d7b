"""Orders a Program for the CPU: which pieces share a pass, in which phase, and what is kept between passes.

See `schedule` for the phases and for what a plan is made of.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from rnnlab_kernels.cpu.schedule import (
    COMPARISONS,
    PHASES,
    SMALL_WEIGHTS,
    Buffer,
    Leaf,
    Pass,
    Phase,
    Piece,
    Pieces,
    Place,
    Plan,
    Ref,
    Row,
    Stage,
    Term,
    inner,
    reads,
)
from rnnlab_kernels.program import Program

Target = Literal["next", "output", "total"]
PassKey = tuple[Phase, int, int, Piece | None]
"""Phase, level and width of a pass, and the reduction where it has a pass of its own."""


def plan(program: Program) -> Plan:
    """Order a Program for the CPU."""
    return _Planner(program).plan()


class _Planner:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.pieces = Pieces(program)
        self.buffers: list[Buffer] = []
        self.copies: dict[tuple[Ref, Phase], Piece] = {}
        self.all: list[Piece] = []

    def plan(self) -> Plan:
        self._collect()
        self._merge_products()
        self._mark()
        self._place_rows()
        self._level()
        self._keep()
        return Plan(self.program, self._stages(), self.buffers)

    def _collect(self) -> None:
        """Every piece that an output or a next state needs, in order."""
        pieces, widths = self.pieces, self.program.widths
        self.targets: list[tuple[Ref, Target, int, int]] = []
        for number, state in enumerate(self.program.states):
            self._target(pieces.parts(state.next, 0, widths[state.next]), "next", number)
        for number, output in enumerate(self.program.outputs):
            self._target(pieces.parts(output.value, 0, output.width), "output", number)
        for number, total in enumerate(self.program.totals):
            self._target(pieces.parts(total.value, 0, total.width), "total", number)
        self._reach(ref for ref, *_ in self.targets)

    def _target(self, parts: list[Ref], kind: Target, number: int) -> None:
        start = 0
        for part in parts:
            self.targets.append((part, kind, number, start))
            start += part.width

    def _reach(self, roots: Iterable[Ref]) -> None:
        seen: dict[Piece, None] = {}
        stack = [ref for ref in roots if isinstance(ref, Piece)]
        while stack:
            piece = stack.pop()
            if piece not in seen:
                seen[piece] = None
                stack += [ref for ref in reads(piece) if isinstance(ref, Piece)]
        self.all = sorted(seen, key=lambda piece: piece.order)

    def _merge_products(self) -> None:
        """Sum the products of an addition in one accumulator, where nothing else reads them."""
        uses: dict[Piece, int] = {}
        for ref in [r for piece in self.all for r in reads(piece)] + [r for r, *_ in self.targets]:
            if isinstance(ref, Piece):
                uses[ref] = uses.get(ref, 0) + 1

        def terms(ref: Ref, top: bool) -> list[Ref]:
            if not isinstance(ref, Piece) or ref.op != "add" or not (top or uses[ref] == 1):
                return [ref]
            if all(o.width == ref.width for o in ref.operands):
                return [t for o in ref.operands for t in terms(o, False)]
            return [ref]

        absorbed: set[Piece] = set()
        for piece in reversed(self.all):
            if piece.op != "add" or piece in absorbed:
                continue
            leaves = terms(piece, True)
            products = [t for t in leaves if isinstance(t, Piece) and t.is_matmul and uses[t] == 1]
            together = [t for t in products if self._outside(t) == self._outside(products[0])]
            if len(together) < 2:
                continue
            first = together[0]
            for other in together[1:]:
                first.products += [(i + len(first.rows), m, t, s) for i, m, t, s in other.products]
                first.rows += other.rows
            rest: list[Ref] = [t for t in leaves if t not in together]
            inner_adds = self._inner_adds(piece, uses)
            absorbed |= inner_adds
            chain: Ref = first
            for number, term in enumerate(rest):
                last = number == len(rest) - 1
                link = piece if last else Piece("add", [], piece.width, piece.order)
                link.operands = [chain, term]
                chain = link
            if not rest:
                piece.op, piece.operands = "copy", [first]
        self._reach(ref for ref, *_ in self.targets)

    def _inner_adds(self, piece: Piece, uses: dict[Piece, int]) -> set[Piece]:
        found: set[Piece] = set()
        for operand in piece.operands:
            if isinstance(operand, Piece) and operand.op == "add" and uses[operand] == 1:
                found |= {operand} | self._inner_adds(operand, uses)
        return found

    def _outside(self, piece: Piece) -> tuple[bool, bool]:
        """Whether a large matmul belongs before or after the loop: only those of one phase may be summed."""
        value = self.program.nodes[piece.order].value
        small = self._weights(piece) < SMALL_WEIGHTS
        return (value not in self.program.stateful and not small, self._free(value) and not small)

    def _free(self, value: int) -> bool:
        return value in self.program.stateful and value not in self.program.carried

    def _weights(self, piece: Piece) -> int:
        node = self.program.nodes[piece.order]
        return self.program.widths[node.inputs[0]] * node.width

    def _mark(self) -> None:
        """Give every piece its phase."""
        stateful: set[Piece] = set()
        heavy: set[Piece] = set()
        topological = self._topological()
        for piece in topological:
            for ref in reads(piece):
                if ref in stateful or (isinstance(ref, Leaf) and ref.kind == "state"):
                    stateful.add(piece)
                if ref in heavy:
                    heavy.add(piece)
            if piece.is_matmul or piece.is_reduction:
                heavy.add(piece)
        carried: set[Piece] = set()
        for ref, kind, *_ in self.targets:
            if kind == "next" and isinstance(ref, Piece):
                carried.add(ref)
        for piece in reversed(topological):
            if piece in carried:
                carried.update(r for r in reads(piece) if isinstance(r, Piece))
        first_part = [p for p in topological if p not in stateful and p in heavy]
        weights = sum(self._depth(p) * p.width for p in first_part if p.is_matmul)
        if weights >= SMALL_WEIGHTS:
            feeding = set(first_part)
            for piece in reversed(topological):
                if piece in feeding:
                    feeding.update(r for r in reads(piece) if isinstance(r, Piece))
            for piece in feeding:
                piece.phase = "pre"
        last = {p for p in topological if p.is_matmul and p in stateful and p not in carried}
        if sum(self._depth(p) * p.width for p in last) >= SMALL_WEIGHTS:
            for piece in topological:
                if piece in last or any(r in last for r in reads(piece) if isinstance(r, Piece)):
                    last.add(piece)
                    piece.phase = "post"

    @staticmethod
    def _depth(piece: Piece) -> int:
        return sum(row.width for row in piece.rows)

    def _topological(self) -> list[Piece]:
        done: dict[Piece, None] = {}

        def visit(piece: Piece) -> None:
            stack: list[tuple[Piece, Iterator[Ref]]] = [(piece, reads(piece))]
            open_pieces = {piece}
            while stack:
                top, rest = stack[-1]
                for ref in rest:
                    if isinstance(ref, Piece) and ref not in done and ref not in open_pieces:
                        open_pieces.add(ref)
                        stack.append((ref, reads(ref)))
                        break
                else:
                    done[top] = None
                    stack.pop()

        for piece in self.all:
            if piece not in done:
                visit(piece)
        return list(done)

    def _copy(self, ref: Ref, phase: Phase) -> Piece:
        """A piece that only reads another place, so that it can be stored."""
        key = (ref, phase)
        if key not in self.copies:
            self.copies[key] = piece = Piece("copy", [ref], ref.width, -1, phase=phase)
            self.all.insert(0, piece)
        return self.copies[key]

    def _new_buffer(self, width: int) -> Buffer:
        self.buffers.append(Buffer(len(self.buffers), width))
        return self.buffers[-1]

    def _place_rows(self) -> None:
        """Give every row that a matmul or a reduction reads a place in memory."""
        for piece in sorted(self.all, key=lambda p: PHASES.index(p.phase)):
            for position, row in enumerate(piece.rows):
                state = self._state_range(row)
                if state is not None and piece.phase == "loop":
                    piece.rows[position] = Row(row.parts, row.width, Place("state", *state))
                elif row.place is None:
                    self._store_row(row, piece.phase)
        for piece in self.all:
            for i, matrix, transposed, start in piece.products:
                row = piece.rows[i]
                assert row.place is not None
                piece.terms.append(Term(row.place, row.width, matrix, transposed, start))
        for ref, kind, number, start in self.targets:
            piece = ref if isinstance(ref, Piece) else self._copy(ref, "loop")
            if kind == "output":
                piece.outputs.append((number, start))
            elif kind == "total":
                piece.totals.append((number, start))
            else:
                if piece.phase != "loop":
                    piece = self._copy(piece, "loop")
                piece.nexts.append((number, start))

    def _store_row(self, row: Row, phase: Phase) -> None:
        buffer = self._new_buffer(row.width)
        row.place = Place("buffer", buffer.index, 0)
        column = 0
        for number, part in enumerate(row.parts):
            if isinstance(part, Leaf):
                part = row.parts[number] = self._copy(part, "loop" if part.kind == "state" else phase)
            part.stores.append((buffer, column))
            column += part.width

    @staticmethod
    def _state_range(row: Row) -> tuple[int, int] | None:
        """The state and first column, where a row is part of one."""
        part = row.parts[0]
        if len(row.parts) == 1 and isinstance(part, Leaf) and part.kind == "state":
            return part.index, part.start
        return None

    def _level(self) -> None:
        """A pass needs all rows that it reads; pieces of one level and width share a pass.

        A reduction is joined to the passes that compute its row, where they belong to one stage.
        """
        joined = {piece for piece in self.all if piece.is_reduction}
        while True:
            for piece in joined:
                piece.joined = True
            self._set_levels()
            matmuls = {(piece.phase, piece.level) for piece in self.all if piece.is_matmul}
            apart = {piece for piece in joined if not self._in_one_stage(piece, matmuls)}
            if not apart:
                break
            joined -= apart
            for piece in apart:
                piece.joined = False
        read = {row.place for piece in self.all if not piece.joined for row in piece.rows}
        for piece in self.all:
            piece.stores = [(b, at) for b, at in piece.stores if Place("buffer", b.index, 0) in read]

    def _set_levels(self) -> None:
        for piece in self._topological():
            piece.level = 0
            for ref in inner(piece):
                if isinstance(ref, Piece) and ref.phase == piece.phase:
                    piece.level = max(piece.level, ref.level + (1 if ref.is_reduction else 0))
            for row in piece.rows:
                if row.place is None or row.place.kind == "state":
                    continue
                for ref in row.parts:
                    if isinstance(ref, Piece) and ref.phase == piece.phase:
                        piece.level = max(piece.level, ref.level + (0 if piece.joined else 1))

    @staticmethod
    def _in_one_stage(reduction: Piece, matmuls: set[tuple[Phase, int]]) -> bool:
        """Whether passes between which there are no matmuls compute the row that a reduction reads."""
        parts = [part for part in reduction.rows[0].parts if isinstance(part, Piece)]
        if len(parts) < len(reduction.rows[0].parts):
            return False
        if any(p.phase != reduction.phase or p.is_reduction or p.width == 1 for p in parts):
            return False
        first, last = min(p.level for p in parts), max(p.level for p in parts)
        return not any((reduction.phase, level) in matmuls for level in range(first, last + 1))

    def _keep(self) -> None:
        """Give a buffer to every piece that another pass reads."""
        for piece in list(self.all):
            for ref in list(inner(piece)):
                if isinstance(ref, Piece) and self._pass_key(ref) != self._pass_key(piece):
                    self._buffer_of(ref)
                if isinstance(ref, Leaf) and ref.kind == "state" and piece.phase == "post":
                    self._replace_state(piece)
        for piece in self.all:
            for buffer, _ in piece.stores:
                if piece.phase != "loop" or any(
                    p.phase != piece.phase for p in self.all if self._reads_buffer(p, piece, buffer)
                ):
                    buffer.chunk = True

    def _replace_state(self, piece: Piece) -> None:
        """After the loop a state has moved on: read a copy made inside the loop."""

        def replaced(owner: Piece) -> None:
            for number, operand in enumerate(owner.operands):
                if isinstance(operand, Leaf) and operand.kind == "state":
                    owner.operands[number] = copy = self._copy(operand, "loop")
                    self._buffer_of(copy)
                elif isinstance(operand, Piece) and operand.op in COMPARISONS:
                    replaced(operand)

        replaced(piece)

    def _buffer_of(self, piece: Piece) -> None:
        if piece.buffer is None:
            if piece.stores:
                piece.buffer = piece.stores[0][0]
            else:
                piece.buffer = self._new_buffer(piece.width)
                piece.stores.append((piece.buffer, 0))

    @staticmethod
    def _reads_buffer(reader: Piece, piece: Piece, buffer: Buffer) -> bool:
        if any(row.place == Place("buffer", buffer.index, 0) for row in reader.rows):
            return True
        return piece.buffer is buffer and any(ref is piece for ref in inner(reader))

    @staticmethod
    def _pass_key(piece: Piece) -> PassKey:
        if piece.joined:  # the last of the passes that compute its row
            widths = [p.width for p in piece.rows[0].parts if isinstance(p, Piece) and p.level == piece.level]
            return piece.phase, piece.level, max(widths), None
        return piece.phase, piece.level, piece.width, piece if piece.is_reduction else None

    def _stages(self) -> list[Stage]:
        groups: dict[PassKey, list[Piece]] = {}
        for piece in self._topological():
            groups.setdefault(self._pass_key(piece), []).append(piece)
        passes = [Pass(phase, level, width, pieces) for (phase, level, width, _), pieces in groups.items()]
        passes.sort(key=lambda p: (PHASES.index(p.phase), p.level, bool(p.reductions), p.width > 1, p.width))
        stages: list[Stage] = []
        for each in passes:
            before = stages[-1] if stages else None
            row_by_row = not each.matmuls
            if (
                before is not None
                and row_by_row
                and before.phase == each.phase
                and not before.passes[-1].matmuls
            ):
                before.passes.append(each)
            else:
                stages.append(Stage(each.phase, [each]))
        return stages
