"""Triton kernels for a whole time loop, generated from a Program.

*resident*: one program a batch tile; the weights are read once, before the loop, and kept.
*streamed*: the same, with the weights read again in every step, in tiles of their rows, from the L2
cache. The left operand of a dot goes through memory, since a tensor in registers cannot be cut into
tiles.

The third strategy, *stepwise*, launches its kernels once a step and stands in `phases`.

Legend: T time, B batch, K rows of a weight (the summed dimension), N its columns.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from rnnlab_kernels.program import Input, Node, Program
from rnnlab_kernels.triton.emit import Emitter, module_text
from rnnlab_kernels.triton.pieces import Piece

Strategy = Literal["resident", "streamed", "stepwise"]
STRATEGIES: tuple[Strategy, ...] = ("resident", "streamed", "stepwise")


@dataclass(frozen=True)
class Parameter:
    """A run-time parameter of a kernel: what it is, and of which input, state, output or value."""

    name: str
    role: str
    index: int = 0


@dataclass(frozen=True)
class Kernel:
    """A kernel of a generated module; its constants are BLOCK_B, and in a time loop BLOCK_K and BACKWARDS."""

    name: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Generated:
    """A generated module: its text, its kernel, and the scratch columns that a row of the batch needs."""

    source: str
    kernel: Kernel
    scratch: int = 0


@lru_cache(maxsize=256)
def generate(
    loop: Program,
    dtype: torch.dtype,
    strategy: Literal["resident", "streamed"],
    precision: str = "ieee",
    upcast: bool = False,
) -> Generated:
    """The module that runs a loop Program (`split.Split.loop`) by the resident or the streamed strategy.

    Args:
        precision: of float32 dots, "ieee", "tf32" or "tf32x3", as `tl.dot` names them.
        upcast: compute dots of rounded operands in float32, for the interpreter.
    """
    return _LoopWriter(loop, dtype, strategy, precision, upcast).write()


class _LoopWriter:
    """Writes the sections of a kernel; `loop` finds out which weights and columns the others must define."""

    def __init__(self, loop: Program, dtype: torch.dtype, strategy: str, precision: str, upcast: bool):
        self.loop = loop
        self.strategy = strategy
        self.emit = Emitter(loop, dtype, upcast)
        self.dot_options = f', input_precision="{precision}"' if dtype == torch.float32 else ""
        self.matrices = {item.value: item for item in loop.inputs if item.is_matrix}
        self.weights: list[str] = []
        self.scratch: dict[Piece, int] = {}
        self.scratch_width = 0
        self.done: set[int] = set()

    def write(self) -> Generated:
        emit, loop = self.emit, self.loop
        sections: dict[str, list[str]] = {}
        for section in (self._once, self._steps, self._time_loop, self._final_states):
            emit.lines = sections[section.__name__] = []
            section()
        columns = ["    " + line for line in emit.column_lines()]
        name = f"{'adjoint' if loop.adjoint else 'forward'}_{self.strategy}"
        parameters = self._parameters()
        lines = [
            '@triton.jit(do_not_specialize=["T", "B"])',
            f"def {name}(",
            *("    " + line for line in wrapped([parameter.name for parameter in parameters])),
            "    BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, BACKWARDS: tl.constexpr,",
            "):",
            "    # The rows of the batch that this program owns through all steps",
            "    rows = (tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B))[:, None]",
            "    in_batch = rows < B",
            *columns,
            *sections["_once"],
            *(["    # Weights, read once and kept", *self.weights] if self.weights else []),
            *sections["_steps"],
            *sections["_time_loop"],
            *sections["_final_states"],
        ]
        title = f"The {self.strategy} kernel of {'an adjoint' if loop.adjoint else 'a forward'} Program."
        source = module_text(title, emit.helpers, ["\n".join(lines) + "\n"])
        return Generated(source, Kernel(name, tuple(parameters)), self.scratch_width)

    def _parameters(self) -> list[Parameter]:
        names, loop = self.emit.names, self.loop
        found = [Parameter(name, name) for name in ("T", "B", "lengths", "resets")]
        found += [Parameter(f"{names[item.value]}_ptr", "input", i) for i, item in enumerate(loop.inputs)]
        found += [Parameter(f"{names[s.value]}_initial", "initial", i) for i, s in enumerate(loop.states)]
        found += [Parameter(f"{names[s.value]}_final", "final", i) for i, s in enumerate(loop.states)]
        found += [Parameter(f"out{i}_ptr", "output", i) for i in range(len(loop.outputs))]
        return [*found, Parameter("scratch", "scratch")] if self.scratch else found

    def _load_input(self, item: Input, rows: str | None, mask: str | None) -> None:
        for piece in self.emit.pieces[item.value]:
            pointer = f"{self.emit.names[item.value]}_ptr"
            self.emit.load(piece.name, pointer, rows, item.width, piece, piece.start, mask)

    def _once(self) -> None:
        """What is the same at every step, and the initial states."""
        emit = self.emit
        for item in self.loop.inputs:
            if item.per == "call" and not item.is_matrix:
                self._load_input(item, None, None)
            elif item.per == "sequence":
                self._load_input(item, "rows", "in_batch")
        for node in self.loop.nodes:
            if node.value in self.loop.invariant and node.kind not in ("slice", "cat", "const"):
                emit.pointwise(node)
        emit.fresh()
        for state in self.loop.states:
            for piece in emit.pieces[state.value]:
                pointer = f"{emit.names[state.value]}_initial"
                emit.load(piece.name, pointer, "rows", state.width, piece, piece.start, "in_batch")
        with emit.block("if resets is not None:"):
            for state in self.loop.states:
                for piece in emit.pieces[state.value]:
                    if self.loop.adjoint:
                        zeros = f"tl.full([BLOCK_B, {piece.padded}], 0.0, tl.float32)"
                        emit.add(f"{piece.name}_total = {zeros}")
                    else:
                        emit.add(f"{piece.name}_initially = {piece.name}")
            if not self.loop.states:
                emit.add("pass")

    def _steps(self) -> None:
        emit = self.emit
        with emit.block("if lengths is not None:"):
            emit.add("row_steps = tl.load(lengths + rows, mask=in_batch, other=0)")
            emit.add("steps = tl.reduce(row_steps, None, tl.standard._elementwise_max)")
        with emit.block("else:"):
            emit.add("steps = T")

    def _time_loop(self) -> None:
        with self.emit.block("for i in range(0, steps):"):
            self.emit.add("t = steps - 1 - i if BACKWARDS else i")
            self.emit.add("at = (t * B + rows).to(tl.int64)")
            with self.emit.block("if lengths is not None:"):
                self.emit.add("valid = in_batch & (t < row_steps)")
            with self.emit.block("else:"):
                self.emit.add("valid = in_batch")
            if not self.loop.adjoint:
                self._restart()
            for item in self.loop.inputs:
                if item.per == "step":
                    self._load_input(item, "at", "valid")
            for node in self.loop.nodes:
                if node.kind == "matmul":
                    self._matmul(node)
                elif node.kind not in ("slice", "cat", "const") and node.value not in self.loop.invariant:
                    self.emit.pointwise(node)
            self._outputs()
            self._carry()

    def _restart(self) -> None:
        """Before a forward step: where a reset stands, the state is the initial one again."""
        with self.emit.block("if resets is not None:"):
            self.emit.add("restart = tl.load(resets + at, mask=valid, other=0) != 0")
            for state in self.loop.states:
                for piece in self.emit.pieces[state.value]:
                    self.emit.add(f"{piece.name} = tl.where(restart, {piece.name}_initially, {piece.name})")

    def _outputs(self) -> None:
        emit = self.emit
        for index, output in enumerate(self.loop.outputs):
            start = 0
            for piece in emit.pieces[output.value]:
                value = emit.tensor(piece)
                emit.store(f"out{index}_ptr", "at", output.width, piece, start, value, "valid")
                start += piece.width

    def _carry(self) -> None:
        """The states become their next values; all are read before one is written."""
        emit = self.emit
        pairs = [
            (piece, follower)
            for state in self.loop.states
            for piece, follower in zip(emit.pieces[state.value], emit.pieces[state.next], strict=True)
        ]
        for piece, follower in pairs:
            emit.add(f"{piece.name}_next = {emit.spread(follower)}")
        with emit.block("if lengths is not None:"):
            for piece, _ in pairs:
                emit.add(f"{piece.name}_next = tl.where(valid, {piece.name}_next, {piece.name})")
            if not pairs:
                emit.add("pass")
        if self.loop.adjoint:
            with emit.block("if resets is not None:"):
                emit.add("restart = tl.load(resets + at, mask=valid, other=0) != 0")
                for piece, _ in pairs:
                    name = piece.name
                    emit.add(f"{name}_total = {name}_total + tl.where(restart, {name}_next, 0.0)")
                    emit.add(f"{name}_next = tl.where(restart, 0.0, {name}_next)")
        for piece, _ in pairs:
            emit.add(f"{piece.name} = {piece.name}_next")

    def _final_states(self) -> None:
        emit = self.emit
        if self.loop.adjoint and self.loop.states:
            with emit.block("if resets is not None:"):
                for state in self.loop.states:
                    for piece in emit.pieces[state.value]:
                        emit.add(f"{piece.name} = {piece.name}_total + {piece.name}")
        for state in self.loop.states:
            pointer = f"{emit.names[state.value]}_final"
            for piece in emit.pieces[state.value]:
                emit.store(pointer, "rows", state.width, piece, piece.start, piece.name, "in_batch")

    def _matmul(self, node: Node) -> None:
        """A matmul and, in the streamed strategy, all others that have the same left operand."""
        if node.value in self.done:
            return
        group = [node]
        if self.strategy == "streamed":
            group = [n for n in self.loop.nodes if n.kind == "matmul" and n.inputs[0] == node.inputs[0]]
        self.done.update(member.value for member in group)
        streamed: list[tuple[Node, Piece]] = []
        for member in group:
            self.emit.comment(member)
            for piece in self.emit.pieces[member.value]:
                if self.strategy == "streamed" and piece.width > 1:
                    streamed.append((member, piece))
                else:
                    self._kept(member, piece)
        if streamed:
            self._tiled(node.inputs[0], streamed)

    def _kept(self, node: Node, piece: Piece) -> None:
        """A piece of a matmul's result from weights that were read before the loop."""
        start = 0
        result = ""
        for left in self.emit.pieces[node.inputs[0]]:
            if left.width == 1 or piece.width == 1:
                text = f"{result} + " if result else ""
                text += self._product(node, left, start, piece)
            else:
                weight = self._weight(node, left, start, piece)
                accumulator = f", {result}" if result else ""
                text = f"tl.dot({self.emit.left(left)}, {weight}{accumulator}{self.dot_options})"
            self.emit.add(f"{piece.name} = {text}")
            result = piece.name
            start += left.width

    def _product(self, node: Node, left: Piece, start: int, piece: Piece) -> str:
        """What a dot is for a weight's part of one row (an outer product) or one column (a row sum)."""
        operand = self.emit.left(left)
        if self.emit.dtype != torch.float32 and not self.emit.upcast:
            operand += ".to(tl.float32)"
        text = f"{operand} * {self._weight(node, left, start, piece)}"
        return self.emit.use(f"row_sum({text})") if left.width > 1 else text

    def _tiled(self, left_value: int, results: list[tuple[Node, Piece]]) -> None:
        """Dots of one left operand with weights that are read in tiles of BLOCK_K rows."""
        emit = self.emit
        lefts = emit.pieces[left_value]
        wide = [left for left in lefts if left.width > 1]
        operands = [emit.left(left) for left in wide]
        for left in wide:
            if left not in self.scratch:
                self.scratch[left] = self.scratch_width
                self.scratch_width += left.padded
        if wide:
            emit.add("tl.debug_barrier()  # every thread has read the tiles of earlier dots")
            for left, operand in zip(wide, operands, strict=True):
                emit.store(self._scratch(left), "rows", left.padded, left, 0, operand, "in_batch")
            emit.add("tl.debug_barrier()  # every thread sees what this program wrote")
        for node, piece in results:
            start = 0
            text = f"tl.full([BLOCK_B, {piece.padded}], 0.0, tl.float32)"
            for left in lefts:
                if left.width == 1:
                    text += f" + {self._product(node, left, start, piece)}"
                start += left.width
            emit.add(f"{piece.name} = {text}")
        start = 0
        for left in lefts:
            if left.width > 1:
                with emit.block(f"for k in range(0, {left.width}, BLOCK_K):"):
                    self._tile(left, start, results)
            start += left.width

    def _scratch(self, left: Piece) -> str:
        return f"scratch + {self.scratch[left]} * B" if self.scratch[left] else "scratch"

    def _tile(self, left: Piece, start: int, results: list[tuple[Node, Piece]]) -> None:
        """The body of the loop over tiles: one tile of the left operand meets a tile of each weight."""
        emit = self.emit
        emit.add("ks = k + tl.arange(0, BLOCK_K)")
        emit.add(f"within = ks < {left.width}")
        wide = ".to(tl.float32)" if emit.upcast else ""
        pointer = f"{self._scratch(left)} + rows * {left.padded} + ks[None, :]"
        emit.add(f"tile = tl.load({pointer}, mask=in_batch & within[None, :], other=0.0){wide}")
        for node, piece in results:
            matrix = self.matrices[node.inputs[1]]
            row_step, column_step = (1, matrix.width) if node.transposed else (matrix.width, 1)
            offset = start * row_step + piece.start * column_step
            base = [f"{emit.names[matrix.value]}_ptr", *([str(offset)] if offset else [])]
            base += [_times("ks[:, None]", row_step), _times(emit.cols(piece), column_step)]
            mask = emit.masked(piece, "within[:, None]")
            weight = f"tl.load({' + '.join(base)}, mask={mask}, other=0.0){wide}"
            emit.add(f"{piece.name} = tl.dot(tile, {weight}, {piece.name}{self.dot_options})")

    def _weight(self, node: Node, left: Piece, start: int, piece: Piece) -> str:
        """The name of a weight's part that is read before the loop; a single row or column lies as a row."""
        emit = self.emit
        name = f"w{len(self.weights)}"
        matrix = self.matrices[node.inputs[1]]
        row_step, column_step = (1, matrix.width) if node.transposed else (matrix.width, 1)
        offset = start * row_step + piece.start * column_step
        base = [f"{emit.names[matrix.value]}_ptr", *([str(offset)] if offset else [])]
        masks = []
        vector = left.width == 1 or piece.width == 1
        if left.width > 1:
            axis = emit.cols(left) if vector else f"tl.arange(0, {left.padded})[:, None]"
            base.append(_times(axis, row_step))
            if left.width != left.padded:
                masks.append(emit.masked(left) if vector else f"({axis} < {left.width})")
        if piece.width > 1:
            base.append(_times(emit.cols(piece), column_step))
            if piece.width != piece.padded:
                masks.append(emit.masked(piece))
        if left.width == piece.width == 1:
            base.append("tl.full([1, 1], 0, tl.int32)")
        where = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        text = f"tl.load({' + '.join(base)}{where})"
        if vector or emit.upcast:
            text += ".to(tl.float32)"
        self.weights.append(f"    {name} = {text}  # {emit.names[matrix.value]}")
        return name


def _times(text: str, factor: int) -> str:
    return text if factor == 1 else f"{text} * {factor}"


def wrapped(names: list[str], width: int = 100) -> list[str]:
    """Names with commas, in lines."""
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + len(name) + 2 > width:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{name},"
    return lines
