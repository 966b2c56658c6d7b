"""The stepwise strategy: library matmuls and fused pointwise kernels, a few launches a step.

A step is cut into phases. A phase multiplies the left operands that are ready by their weights, with the
library, and then runs one generated kernel for everything pointwise that follows from the products. An
LSTM has one phase, a GRU whose reset acts before the matmul has two. A value goes through memory where a
later phase or a matmul reads it.

Steps run over a chunk of C steps, whose buffers stay where they are: so a chunk can be captured in a CUDA
graph once and replayed for any T (`stepwise`).

Legend: B batch, C steps of a chunk, K and N rows and columns of a weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from rnnlab_kernels.program import Node, Program
from rnnlab_kernels.triton.codegen import Kernel, Parameter, wrapped
from rnnlab_kernels.triton.emit import Emitter, module_text
from rnnlab_kernels.triton.pieces import Piece

Declare = Callable[..., str]
"""Notes that a kernel has a parameter (name, role, index), and returns its name."""


@dataclass(frozen=True)
class Group:
    """Matmuls of one left operand: a single library call on their weights side by side."""

    left: int
    nodes: tuple[Node, ...]

    @property
    def width(self) -> int:
        return sum(node.width for node in self.nodes)


@dataclass(frozen=True)
class Phase:
    """Library matmuls, then a kernel; the first phase may have no kernel and then has nothing to do."""

    groups: tuple[Group, ...]
    kernel: Kernel | None


@dataclass(frozen=True)
class Stepwise:
    """All kernels of a step, in one module.

    kept: values [B, width] in float32 that one phase leaves for a later one.
    carried_lefts: left operands made of states alone, which the end of a step writes for the next one.
    """

    source: str
    phases: tuple[Phase, ...]
    kept: tuple[int, ...]
    carried_lefts: tuple[int, ...]


@lru_cache(maxsize=256)
def generate_stepwise(loop: Program, dtype: torch.dtype) -> Stepwise:
    """The kernels of a step of a loop Program (`split.Split.loop`)."""
    return _StepWriter(loop, dtype).write()


class _StepWriter:
    def __init__(self, loop: Program, dtype: torch.dtype):
        self.loop = loop
        self.dtype = dtype
        self.helpers: set[str] = set()
        self.states = {state.value: i for i, state in enumerate(loop.states)}
        self.inputs = {item.value: (i, item) for i, item in enumerate(loop.inputs)}
        self.nodes = {node.value: node for node in loop.nodes}
        probe = Emitter(loop, dtype, upcast=False)
        self.names, self.pieces = probe.names, probe.pieces
        self.depth = self._depths()
        self.last = max(self.depth.values(), default=0)
        self.groups = self._groups()
        self.offsets = {
            node.value: (group.left, sum(n.width for n in group.nodes[:i]))
            for group in self.groups
            for i, node in enumerate(group.nodes)
        }
        lefts = [group.left for group in self.groups]
        self.carried_lefts = tuple(v for v in lefts if all(p.owner in self.states for p in self.pieces[v]))
        self.phase = self._phases()
        self.kept = self._kept()

    def write(self) -> Stepwise:
        phases, functions = [], []
        for number in range(self.last + 1):
            kernel, text = self._kernel(number)
            if kernel is not None:
                functions.append(text)
            groups = tuple(group for group in self.groups if self.depth[group.nodes[0].value] == number)
            phases.append(Phase(groups, kernel))
        kind = "an adjoint" if self.loop.adjoint else "a forward"
        title = f"The stepwise kernels of {kind} Program: library matmuls run between them."
        source = module_text(title, self.helpers, functions)
        return Stepwise(source, tuple(phases), self.kept, self.carried_lefts)

    def _depths(self) -> dict[int, int]:
        """How many matmuls stand one behind the other up to each node."""
        depth: dict[int, int] = {}
        for node in self.loop.nodes:
            deepest = max((depth.get(v, 0) for v in node.inputs), default=0)
            depth[node.value] = deepest + (node.kind == "matmul")
        return depth

    def _groups(self) -> tuple[Group, ...]:
        by_left: dict[int, list[Node]] = {}
        for node in self.loop.nodes:
            if node.kind == "matmul":
                by_left.setdefault(node.inputs[0], []).append(node)
        return tuple(Group(left, tuple(nodes)) for left, nodes in by_left.items())

    def _phases(self) -> dict[int, int]:
        """The phase that computes each node: the latest that will do, so that little waits in memory."""
        latest = {state.next: self.last for state in self.loop.states}
        latest |= {output.value: self.last for output in self.loop.outputs}
        for node in reversed(self.loop.nodes):
            own = latest.setdefault(node.value, self.last)
            for operand in node.inputs[: 1 if node.kind == "matmul" else None]:
                limit = self.depth[node.value] - 1 if node.kind == "matmul" else own
                latest[operand] = min(latest.get(operand, self.last), limit)
        return {value: latest[value] for value in self.nodes}

    def _owned(self, piece: Piece) -> int:
        """The phase from which on a piece can be read."""
        node = self.nodes.get(piece.owner)
        if node is None or node.op == "const":
            return 0
        return self.depth[node.value] if node.kind == "matmul" else self.phase[node.value]

    def _output_phase(self, value: int) -> int:
        computed = [p for p in self.pieces[value] if p.owner in self.nodes]
        return max((self._owned(p) for p in computed), default=self.last)

    def _reads(self, number: int) -> list[Piece]:
        """The pieces that the kernel of a phase reads, those that it computes itself among them."""
        values: list[int] = []
        for node in self.loop.nodes:
            if self.phase[node.value] == number and node.kind not in ("matmul", "slice", "cat", "const"):
                values += node.inputs
        values += [o.value for o in self.loop.outputs if self._output_phase(o.value) == number]
        values += [group.left for group in self._written(number)]
        if number == self.last:
            for state in self.loop.states:
                values += [state.value, state.next]
        return list(dict.fromkeys(piece for value in values for piece in self.pieces[value]))

    def _written(self, number: int) -> list[Group]:
        """The groups whose left operand this phase writes."""
        return [
            group
            for group in self.groups
            if group.left not in self.carried_lefts and self.depth[group.nodes[0].value] - 1 == number
        ]

    def _kept(self) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for number in range(self.last + 1):
            for piece in self._reads(number):
                node = self.nodes.get(piece.owner)
                plain = node is not None and node.kind not in ("matmul", "const")
                if plain and self.phase[piece.owner] < number:
                    found[piece.owner] = None
        return tuple(found)

    def _kernel(self, number: int) -> tuple[Kernel | None, str]:
        """The kernel of a phase and its text; None where there is nothing to compute."""
        emit = Emitter(self.loop, self.dtype, upcast=False)
        own = [
            node
            for node in self.loop.nodes
            if self.phase[node.value] == number and node.kind not in ("matmul", "slice", "cat", "const")
        ]
        outputs = [i for i, o in enumerate(self.loop.outputs) if self._output_phase(o.value) == number]
        written = self._written(number)
        final = number == self.last and bool(self.loop.states)
        if not (own or outputs or written or final):
            return None, ""
        used: dict[Parameter, None] = {}

        def parameter(name: str, role: str, index: int = 0) -> str:
            used[Parameter(name, role, index)] = None
            return name

        here = {node.value for node in own}
        for piece in self._reads(number):
            if piece.owner not in here and piece.owner not in emit.numbers:
                self._load(emit, piece, parameter)
        if outputs or final:
            pointer = parameter("valid_ptr", "valid")
            emit.add(f"valid = in_batch & (tl.load({pointer} + at, mask=in_batch, other=0) != 0)")
        for node in own:
            emit.pointwise(node)
            if node.value in self.kept:
                for piece in emit.pieces[node.value]:
                    pointer = parameter(f"{self.names[node.value]}_ptr", "kept", node.value)
                    emit.store(pointer, "rows", node.width, piece, piece.start, piece.name, "in_batch")
        for index in outputs:
            start = 0
            pointer = parameter(f"out{index}_ptr", "output", index)
            for piece in emit.pieces[self.loop.outputs[index].value]:
                value = f"tl.where(valid, {emit.tensor(piece)}, 0.0)"
                emit.store(pointer, "at", self.loop.outputs[index].width, piece, start, value, "in_batch")
                start += piece.width
        for group in written:
            self._store_left(emit, group.left, [emit.tensor(p) for p in emit.pieces[group.left]], parameter)
        if final:
            self._carry(emit, parameter)
        self.helpers |= emit.helpers
        name = f"{'adjoint' if self.loop.adjoint else 'forward'}_phase_{number}"
        parameters = (Parameter("row", "row"), Parameter("B", "B"), *used)
        lines = [
            '@triton.jit(do_not_specialize=["row", "B"])',
            f"def {name}(",
            *("    " + line for line in wrapped([p.name for p in parameters])),
            "    BLOCK_B: tl.constexpr,",
            "):",
            "    # The rows of the batch that this program computes, at one step",
            "    rows = (tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B))[:, None]",
            "    in_batch = rows < B",
            "    at = (row * B + rows).to(tl.int64)",
            *("    " + line for line in emit.column_lines()),
            *emit.lines,
        ]
        return Kernel(name, parameters), "\n".join(lines) + "\n"

    def _load(self, emit: Emitter, piece: Piece, parameter: Declare) -> None:
        """Read a piece that this phase does not compute, from wherever it waits."""
        owner, name = piece.owner, self.names[piece.owner]
        if owner in self.states:
            pointer = parameter(f"{name}_in", "state_in", self.states[owner])
            emit.load(piece.name, pointer, "rows", emit.widths[owner], piece, piece.start, "in_batch")
        elif owner in self.inputs:
            index, item = self.inputs[owner]
            rows = {"step": "at", "sequence": "rows", "call": None}[item.per]
            mask = None if rows is None else "in_batch"
            pointer = parameter(f"{name}_ptr", "input", index)
            emit.load(piece.name, pointer, rows, item.width, piece, piece.start, mask)
        elif owner in self.offsets:
            left, offset = self.offsets[owner]
            stride = next(group.width for group in self.groups if group.left == left)
            pointer = parameter(f"{self.names[left]}_product", "product", left)
            emit.load(piece.name, pointer, "rows", stride, piece, offset + piece.start, "in_batch")
        else:
            pointer = parameter(f"{name}_ptr", "kept", owner)
            emit.load(piece.name, pointer, "rows", emit.widths[owner], piece, piece.start, "in_batch")

    def _store_left(self, emit: Emitter, value: int, names: list[str], parameter: Declare) -> None:
        start = 0
        pointer = parameter(f"{self.names[value]}_left", "left", value)
        for piece, name in zip(emit.pieces[value], names, strict=True):
            emit.store(pointer, "rows", emit.widths[value], piece, start, name, "in_batch")
            start += piece.width

    def _carry(self, emit: Emitter, parameter: Declare) -> None:
        """The end of a step: the next states, and those of them that the next step multiplies."""
        adjoint = self.loop.adjoint
        follows: dict[Piece, str] = {}
        emit.add("# The states that the next step finds")
        for state in self.loop.states:
            for piece, follower in zip(emit.pieces[state.value], emit.pieces[state.next], strict=True):
                follows[piece] = f"{piece.name}_next"
                emit.add(f"{piece.name}_next = tl.where(valid, {emit.tensor(follower)}, {piece.name})")
        restart = parameter("restart_ptr", "restart")
        with emit.block(f"if {restart} is not None:"):
            emit.add(f"restart = tl.load({restart} + at, mask=in_batch, other=0) != 0")
            for index, state in enumerate(self.loop.states):
                name = self.names[state.value]
                for piece in emit.pieces[state.value]:
                    following = follows[piece]
                    if adjoint:
                        total_in = parameter(f"{name}_total_in", "total_in", index)
                        total_out = parameter(f"{name}_total_out", "total_out", index)
                        emit.load(
                            f"{piece.name}_total",
                            total_in,
                            "rows",
                            state.width,
                            piece,
                            piece.start,
                            "in_batch",
                        )
                        total = f"{piece.name}_total + tl.where(restart, {following}, 0.0)"
                        emit.store(total_out, "rows", state.width, piece, piece.start, total, "in_batch")
                        emit.add(f"{following} = tl.where(restart, 0.0, {following})")
                    else:
                        initial = parameter(f"{name}_initial", "initial", index)
                        initially = f"{piece.name}_initially"
                        emit.load(initially, initial, "rows", state.width, piece, piece.start, "in_batch")
                        emit.add(f"{following} = tl.where(restart, {initially}, {following})")
        for index, state in enumerate(self.loop.states):
            pointer = parameter(f"{self.names[state.value]}_out", "state_out", index)
            for piece in emit.pieces[state.value]:
                emit.store(pointer, "rows", state.width, piece, piece.start, follows[piece], "in_batch")
        for left in self.carried_lefts:
            self._store_left(emit, left, [follows[piece] for piece in emit.pieces[left]], parameter)
