"""C++ text of a Program: its stages, as `schedule` orders them, and its sizes, for the loop in `loop.hpp`."""

from collections.abc import Sequence
from dataclasses import replace

from rnnlab_kernels.cpu.planner import plan
from rnnlab_kernels.cpu.schedule import (
    COMPARISONS,
    MAX_PIECES,
    Leaf,
    Pass,
    Piece,
    Place,
    Plan,
    Ref,
    Stage,
    Term,
    inner,
)
from rnnlab_kernels.program import Program

STORE_TYPES = {"float32": ("float", "float"), "float64": ("double", "double"), "bfloat16": ("float", "bf16")}
"""The type of the arithmetic and the type in memory, for each dtype."""

UNARY = {
    "neg": "vneg({0})",
    "abs": "vabs({0})",
    "sign": "vsign({0})",
    "exp": "vexp({0})",
    "expm1": "vexpm1({0})",
    "log": "vlog({0})",
    "log1p": "vlog1p({0})",
    "sqrt": "vsqrt({0})",
    "rsqrt": "vrsqrt({0})",
    "reciprocal": "1 / {0}",
    "sin": "vsin({0})",
    "cos": "vcos({0})",
    "tanh": "vtanh({0})",
    "sigmoid": "vsigmoid({0})",
    "relu": "vrelu({0})",
    "erf": "verf({0})",
    "copy": "{0}",
}
BINARY = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "maximum": "vmax({0}, {1})",
    "minimum": "vmin({0}, {1})",
    "pow": "vpow({0}, {1})",
}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_START = {"sum": "V{}", "amax": "all(-(S)__builtin_inf())"}
_LANES = {"sum": "sum_lanes", "amax": "max_lanes"}
POWERS = {2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", 1.0: "{0}", -1.0: "1 / {0}", 0.5: "vsqrt({0})"}


def generate(programs: Sequence[Program], dtype: str) -> str:
    """The C++ source of Programs: a function rnnlab_program0, rnnlab_program1, ... for each."""
    real, stored = STORE_TYPES[dtype]
    head = f'#define REAL {real}\n#define STORED {stored}\n#include "simd.hpp"\n#include "program.hpp"\n'
    bodies = [_Generator(plan(p), f"program{number}").text() for number, p in enumerate(programs)]
    return head + "".join(bodies)


def shared_outputs(program: Program) -> dict[int, int]:
    """For states: the output that holds it before the step, where another holds it after the step.

    The two are one sequence, a step apart, so the backend stores them once.
    """
    after = {o.value: number for number, o in reversed(list(enumerate(program.outputs)))}
    found: dict[int, int] = {}
    taken: set[int] = set()
    for number, state in enumerate(program.states):
        before = next((n for n, o in enumerate(program.outputs) if o.value == state.value), None)
        if before is not None and state.next in after and after[state.next] not in taken:
            found[number] = before
            taken.add(after[state.next])
    return found


class _Generator:
    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.program, self.name = plan, plan.program, name
        self.shared = shared_outputs(plan.program)
        self.numbers: dict[Piece, int] = {}
        self.panels: list[str] = []
        self.loads = 0
        self.read = self._read_buffers()

    def _read_buffers(self) -> set[int]:
        """The buffers that are read from memory; what goes into others need not be stored."""
        found: set[int] = set()
        for stage in self.plan.stages:
            by_row = not stage.passes[0].matmuls and not stage.splits_columns
            made = {piece for each in stage.passes for piece in each.pieces} if by_row else set()
            for each in stage.passes:
                own = set(each.pieces)
                for piece in each.pieces:
                    places = [] if piece.joined else [row.place for row in piece.rows]
                    found |= {p.index for p in places if p is not None and p.kind == "buffer"}
                    for ref in inner(piece):
                        if isinstance(ref, Piece) and ref.buffer is not None and ref not in own:
                            in_register = ref.width == 1 and ref in made
                            found |= set() if in_register else {ref.buffer.index}
        return found

    def text(self) -> str:
        stages = [self._stage(number, stage) for number, stage in enumerate(self.plan.stages)]
        program = self.program
        before = ", ".join(str(self.shared.get(number, -1)) for number in range(len(program.states)))
        listing = "\n".join(f"// {line}" for line in str(program).splitlines())
        phases = []
        for phase in ("pre", "loop", "post"):
            calls = [
                f"  stage{n}(c, m0, m1); c.wait();"
                for n, s in enumerate(self.plan.stages)
                if s.phase == phase
            ]
            phases.append(
                f"static void {phase}(Ctx& c, const long m0, const long m1) {{\n" + "\n".join(calls) + "\n}"
            )
        buffers = ", ".join(f"{{{b.width}, {str(b.chunk).lower()}}}" for b in self.plan.buffers)
        panels = ", ".join(self.panels)
        boolean = {True: "true", False: "false"}
        outside = any(stage.phase != "loop" for stage in self.plan.stages)
        return f"""
namespace {self.name} {{
namespace {{
{listing}

constexpr long STATE_WIDTHS[] = {{{", ".join(str(s.width) for s in program.states) or "0"}}};
constexpr long OUTPUT_WIDTHS[] = {{{", ".join(str(o.width) for o in program.outputs) or "0"}}};
constexpr long TOTAL_WIDTHS[] = {{{", ".join(str(o.width) for o in program.totals) or "0"}}};
constexpr int BEFORE[] = {{{before or "-1"}}};
constexpr BufferSize BUFFERS[] = {{{buffers or "{0, false}"}}};
constexpr PanelSize PANELS[] = {{{panels or "{0, 0, 0, {}, 0, false, 1}"}}};

{chr(10).join(stages)}

{chr(10).join(phases)}

const Program program = {{
  {len(program.inputs)}, {len(program.states)}, {len(program.outputs)}, {len(program.totals)},
  {len(self.plan.buffers)}, {len(self.panels)}, {boolean[program.adjoint]}, {boolean[outside]},
  {program.flops()},
  STATE_WIDTHS, OUTPUT_WIDTHS, TOTAL_WIDTHS, BEFORE, BUFFERS, PANELS, pre, loop, post,
}};
}}  // namespace
}}  // namespace {self.name}

extern "C" __attribute__((visibility("default"))) const Program* rnnlab_{self.name}() {{
  return &{self.name}::program;
}}
"""

    def _stage(self, number: int, stage: Stage) -> str:
        head = f"static void stage{number}(Ctx& c, const long m0, const long m1) {{"
        if stage.passes[0].matmuls:
            body = self._matmul_pass(stage.passes[0])
        else:
            body = self._row_passes(stage)
        return f"{head}\n{body}\n}}"

    def _address(self, place: Place, m: str = "m") -> str:
        """The address of virtual row m of a buffer or state."""
        if place.kind == "state":
            width = self.program.states[place.index].width
            return f"c.cur[{place.index}] + ({m} - m0) * LD({width}) + {place.start}"
        buffer = self.plan.buffers[place.index]
        row = m if buffer.chunk else f"({m} - m0)"
        return f"c.buf[{place.index}] + {row} * LD({buffer.width}) + {place.start}"

    def _matmul_pass(self, each: Pass) -> str:
        accumulators = each.matmuls
        # Accumulators that share an operand stand side by side, so that one call computes them together.
        accumulators = self._side_by_side(accumulators)
        slots = {piece: slot for slot, piece in enumerate(accumulators)}
        count = len(accumulators)
        calls = []
        started: set[Piece] = set()
        for product in dict.fromkeys(t.product for p in accumulators for t in p.terms):
            waiting = [(p, t) for p in accumulators for t in p.terms if t.product == product]
            while waiting:
                run: list[tuple[Piece, Term]] = []
                rest: list[tuple[Piece, Term]] = []
                for piece, term in waiting:
                    follows = not run or (
                        slots[piece] == slots[run[-1][0]] + 1 and (piece in started) == (run[0][0] in started)
                    )
                    if follows and len(run) < MAX_PIECES and all(piece is not p for p, _ in run):
                        run.append((piece, term))
                    else:
                        rest.append((piece, term))
                calls.append(self._product(run, slots, each.width, run[0][0] in started))
                started.update(p for p, _ in run)
                waiting = rest
        lines = [
            f"  constexpr long W = {each.width}, P = {count}, PER = per_block(P), ALL = vectors(W);",
            "  constexpr long BLOCKS = (ALL + PER - 1) / PER;",
            '  static_assert(P * PER <= MOST_SUMS, "too many sums at once");',
            "  const long begin = BLOCKS * c.part / c.parts, end = BLOCKS * (c.part + 1) / c.parts;",
            "  for (long block = begin; block < end; block++) {",
            "    const long first = block * PER, here = ALL - first < PER ? ALL - first : PER;",
            "    const long ld = P * here * VL;",
            "    for (long ma = m0; ma < m1; ma += TILE) {",
            "      const long rows = m1 - ma < TILE ? m1 - ma : TILE;",
            "      S* const tile = c.tile;",
        ]
        lines += [f"      {call}" for call in calls]
        lines += ["      for (long m = ma; m < ma + rows; m++) {"]
        lines += ["        const S* const sums = tile + (m - ma) * ld;"]
        names = {p: f"load(sums + ({slots[p]} * here + q) * VL)" for p in accumulators}
        lines += self._columns(each, "        ", "first", "here", names, {})
        lines += ["      }", "    }", "  }"]
        return "\n".join(lines)

    def _side_by_side(self, pieces: list[Piece]) -> list[Piece]:
        """With two operands, put what both feed in the middle: what each one feeds is then a run."""
        operands = list(dict.fromkeys(t.place for p in pieces for t in p.terms))
        if len(operands) != 2:
            return pieces
        a, b = operands
        sets = [{t.place for t in p.terms} for p in pieces]
        only_a = [p for p, s in zip(pieces, sets, strict=True) if s == {a}]
        both = [p for p, s in zip(pieces, sets, strict=True) if s == {a, b}]
        only_b = [p for p, s in zip(pieces, sets, strict=True) if s == {b}]
        return only_a + both + only_b

    def _product(
        self, run: list[tuple[Piece, Term]], slots: dict[Piece, int], width: int, accumulate: bool
    ) -> str:
        """The call that computes one row operand's part of neighbouring sums, with a panel of its own."""
        term, count, slot = run[0][1], len(run), slots[run[0][0]]
        starts = ", ".join(str(t.start) for _, t in run)
        panel = len(self.panels)
        self.panels.append(
            f"{{{term.matrix}, {term.depth}, {width}, {{{starts}}}, {count}, "
            f"{str(term.transposed).lower()}, per_block({len(slots)})}}"
        )
        rows = self._address(term.place, "ma")
        weights = f"c.panel[{panel}] + first * {term.depth * count} * VL"
        sums = f"tile + {slot} * here * VL, ld, rows, {'ONTO' if accumulate else 'FRESH'}"
        lda = self._leading(term.place)
        return f"c.gemm({rows}, {lda}, {weights}, {term.depth}, {count} * here, {sums});"

    def _leading(self, place: Place) -> str:
        if place.kind == "state":
            return f"LD({self.program.states[place.index].width})"
        return f"LD({self.plan.buffers[place.index].width})"

    def _row_passes(self, stage: Stage) -> str:
        split = stage.splits_columns
        lines = []
        if split:
            each = stage.passes[0]
            lines.append(f"  constexpr long ALL = vectors({each.width});")
            lines.append(
                "  const long first = ALL * c.part / c.parts, here = ALL * (c.part + 1) / c.parts - first;"
            )
            lines.append("  for (long m = m0; m < m1; m++) {")
            lines += self._columns(each, "    ", "first", "here", {}, {})
            lines.append("  }")
            return "\n".join(lines)
        lines.append("  const long rows = m1 - m0;")
        lines.append(
            "  for (long m = m0 + rows * c.part / c.parts; m < m0 + rows * (c.part + 1) / c.parts; m++) {"
        )
        lines.append("    const long t = c.tm[m], b = c.bm[m]; (void)t; (void)b;")
        # Numbers of which a row has one stay in registers, the same in every lane, from pass to pass.
        numbers: dict[Ref, str] = {}
        joined = [piece for each in stage.passes for piece in each.joined]
        lines += [f"    V {self._name(piece)} = {_START[piece.op]};" for piece in joined]
        for each in stage.passes:
            if each.reductions:
                lines += self._reduction(each.reductions[0], numbers)
            elif each.width == 1:
                lines += self._columns(each, "    ", "", "", {}, numbers)
            else:
                lines.append("    {")
                lines += self._columns(each, "      ", "0", f"vectors({each.width})", {}, numbers, joined)
                lines.append("    }")
                for piece in each.joined:
                    name = self._name(piece)
                    lines.append(f"    {name} = {_LANES[piece.op]}({name});")
                    lines += self._store_number(piece, numbers)
        lines.append("  }")
        return "\n".join(lines)

    def _name(self, piece: Piece) -> str:
        return f"v{self.numbers.setdefault(piece, len(self.numbers))}"

    def _reduction(self, piece: Piece, numbers: dict[Ref, str]) -> list[str]:
        """A reduction of a row in memory."""
        row = piece.rows[0]
        place = row.place
        assert place is not None
        name = self._name(piece)
        return [
            f"    V {name} = {_START[piece.op]};",
            "    {",
            f"      const S* const p = {self._address(place)};",
            f"      for (long q = 0; q < vectors({row.width}); q++) {{",
            f"        const long n = {row.width} - q * VL;",
            "        const V x = load(p + q * VL, n);",
            f"        {self._combine(piece, name, 'x', row.width)}",
            "      }",
            "    }",
            f"    {name} = {_LANES[piece.op]}({name});",
            *self._store_number(piece, numbers),
        ]

    @staticmethod
    def _combine(piece: Piece, total: str, part: str, width: int) -> str:
        """Takes one vector more into a reduction; lanes past the row's end count for nothing."""
        more = f"{total} + ({part})" if piece.op == "sum" else f"vmax({total}, {part})"
        return f"{total} = {width} % VL == 0 || n >= VL ? {more} : choose(lanes_below(n), {more}, {total});"

    def _store_number(self, piece: Piece, numbers: dict[Ref, str]) -> list[str]:
        numbers[piece] = name = self._name(piece)
        lines = [f"    store({target}, {name}, 1);" for target in self._targets(piece)]
        return lines + [f"    add({total}, {name}, 1);" for total in self._totals(piece)]

    def _totals(self, piece: Piece) -> list[str]:
        """The addresses of the sums over rows that a piece's first column joins."""
        return [f"c.total[{index}] + {start}" for index, start in piece.totals]

    def _targets(self, piece: Piece) -> list[str]:
        """The addresses where a piece's first column of row m is stored."""
        found = [
            self._address(Place("buffer", buffer.index, start))
            for buffer, start in piece.stores
            if buffer.index in self.read
        ]
        for index, start in piece.nexts:
            width = self.program.states[index].width
            found.append(f"c.nxt[{index}] + (m - m0) * LD({width}) + {start}")
        found += [f"c.out[{index}].at(t, b) + {start}" for index, start in piece.outputs]
        return found

    def _columns(
        self,
        each: Pass,
        indent: str,
        first: str,
        count: str,
        sums: dict[Piece, str],
        numbers: dict[Ref, str],
        joined: Sequence[Piece] = (),
    ) -> list[str]:
        """The loop over the columns of one row: loads, operations and stores, and its part of reductions.

        `numbers` are the row's values of width 1 that stand in registers. A pass of width 1 that is given
        some, or none yet, by a stage that works row by row, adds its own: it has no loop (`first` is empty).
        """
        rows: dict[str, str] = {}
        hoisted: list[str] = []
        body: list[str] = []
        inside = set(each.pieces)
        straight = not first
        known: dict[Ref, str] = numbers if straight else dict(numbers)
        column, lanes = ("", "1") if straight else (" + j", "n")

        def pointer(address: str, type_: str) -> str:
            if straight:
                return f"({address})"
            if address not in rows:
                rows[address] = f"p{len(rows)}"
                hoisted.append(f"{type_}* const {rows[address]} = {address};")
            return rows[address]

        def place_of(ref: Ref) -> tuple[str, str]:
            if isinstance(ref, Leaf):
                if ref.kind == "state":
                    return self._address(Place("state", ref.index, ref.start)), "const S"
                item = self.program.inputs[ref.index]
                at = {"step": "at(t, b)", "sequence": "at(0, b)", "call": "p"}[item.per]
                return f"c.in[{ref.index}].{at} + {ref.start}", "const STORED"
            assert ref.buffer is not None, ref
            start = next(start for buffer, start in ref.stores if buffer is ref.buffer)
            return self._address(Place("buffer", ref.buffer.index, start)), "const S"

        def value(ref: Ref) -> str:
            if ref in known:
                return known[ref]
            if isinstance(ref, Leaf) and ref.kind == "const":
                known[ref] = f"all((S){literal(ref.number)})"
                return known[ref]
            assert not (isinstance(ref, Piece) and ref in inside), ref
            address, type_ = place_of(ref)
            p = pointer(address, type_)
            name = f"x{self.loads}"
            self.loads += 1
            if ref.width == 1 and (straight or each.width > 1):
                (body if straight else hoisted).append(f"const V {name} = all(load_one({p}));")
            else:
                body.append(f"const V {name} = load({p} + j, n);")
            known[ref] = name
            return name

        def mask(piece: Piece) -> str:
            a, b = (value(o) for o in piece.operands)
            return f"({a} {COMPARE[piece.op]} {b})"

        for piece in each.pieces:
            name = self._name(piece)
            if piece.joined:
                continue
            if piece.is_matmul:
                expression = sums[piece]
            elif piece.op == "window":
                place = piece.rows[0].place
                assert place is not None
                address = self._address(replace(place, start=place.start + int(piece.number)))
                p = pointer(address, "const S")
                expression = f"all(load_one({p}))" if straight else f"load({p} + j, n)"
            elif piece.op == "where":
                condition = piece.operands[0]
                assert isinstance(condition, Piece) and condition.op in COMPARISONS
                yes, no = value(piece.operands[1]), value(piece.operands[2])
                expression = f"choose({mask(condition)}, {yes}, {no})"
            elif piece.op == "pow" and self._constant(piece.operands[1]) in POWERS:
                expression = POWERS[self._constant(piece.operands[1])].format(value(piece.operands[0]))
            elif piece.op in BINARY:
                expression = BINARY[piece.op].format(*(value(o) for o in piece.operands))
            else:
                expression = UNARY[piece.op].format(value(piece.operands[0]))
            body.append(f"const V {name} = {expression};")
            known[piece] = name
            for target in self._targets(piece):
                type_ = "STORED" if target.startswith("c.out") else "S"
                guard = ""
                if type_ == "STORED" and int(target[6 : target.index("]")]) in self.shared.values():
                    guard = f"if ({target[: target.index('.at')]}.p) "
                body.append(f"{guard}store({pointer(target, type_)}{column}, {name}, {lanes});")
            for total in self._totals(piece):
                body.append(f"add({pointer(total, 'S')}{column}, {name}, {lanes});")
        for piece in joined:
            parts = [known[part] for part in piece.rows[0].parts if part in inside]
            if piece.op == "sum" and parts:
                parts = [" + ".join(parts)]
            body += [self._combine(piece, self._name(piece), part, each.width) for part in parts]
        if straight:
            return [indent + line for line in body]
        lines = [f"{indent}const long t = c.tm[m], b = c.bm[m]; (void)t; (void)b;"]
        lines += [indent + line for line in hoisted]
        lines.append(f"{indent}for (long q = 0; q < {count}; q++) {{")
        lines.append(f"{indent}  const long j = ({first} + q) * VL, n = {each.width} - j; (void)n;")
        lines += [f"{indent}  {line}" for line in body]
        lines.append(f"{indent}}}")
        return lines

    @staticmethod
    def _constant(ref: Ref) -> float:
        return ref.number if isinstance(ref, Leaf) and ref.kind == "const" else float("nan")


def literal(number: float) -> str:
    """A C++ literal that keeps every bit."""
    if number != number:
        return '__builtin_nan("")'
    if number in (float("inf"), float("-inf")):
        return "__builtin_inf()" if number > 0 else "-__builtin_inf()"
    return number.hex()
