"""Columns of values: how slices and concatenations disappear from a kernel.

A Triton tensor cannot be sliced or concatenated along its columns while it is in registers. So every
value is cut into *pieces*, each a tensor of its own, at the columns where any slice or concatenation cuts
it; then a slice is a choice of pieces and a concatenation a list of them, and neither costs anything. A
matmul makes each piece of its result by a separate `tl.dot` over its own columns of the weight, and reads
a left operand in pieces as a sum of dots.
"""

from dataclasses import dataclass
from itertools import pairwise

from rnnlab_kernels.program import Program

MAX_PIECES = 32


@dataclass(frozen=True)
class Piece:
    """Columns [start, start + width) of the value `owner`, held under `name`."""

    name: str
    owner: int
    start: int
    width: int

    @property
    def padded(self) -> int:
        """Columns of the tensor that holds it: a power of two, at least 16 (what `tl.dot` wants), or 1."""
        return 1 if self.width == 1 else max(16, 1 << (self.width - 1).bit_length())


def cuts(program: Program) -> dict[int, set[int]]:
    """The inner columns at which each value is cut, such that operands of pointwise nodes are cut alike."""
    widths = program.widths
    found: dict[int, set[int]] = {value: set() for value in widths}

    def join(values: list[int]) -> bool:
        together = set().union(*(found[v] for v in values))
        changed = any(found[v] != together for v in values)
        for value in values:
            found[value] = set(together)
        return changed

    def relate(part: int, whole: int, start: int) -> bool:
        """Columns of `part` are those of `whole` from `start` on."""
        stop = start + widths[part]
        down = {c - start for c in found[whole] if start < c < stop}
        up = {c + start for c in found[part]} | {c for c in (start, stop) if 0 < c < widths[whole]}
        changed = not (down <= found[part] and up <= found[whole])
        found[part] |= down
        found[whole] |= up
        return changed

    changed = True
    while changed:
        changed = False
        for node in program.nodes:
            match node.kind:
                case "unary" | "binary" | "compare" | "where":
                    alike = [v for v in node.inputs if widths[v] == node.width > 1]
                    changed |= join([node.value, *alike])
                case "slice":
                    changed |= relate(node.value, node.inputs[0], node.start)
                case "cat":
                    start = 0
                    for operand in node.inputs:
                        changed |= relate(operand, node.value, start)
                        start += widths[operand]
            if len(found[node.value]) >= MAX_PIECES:
                return found
        for state in program.states:
            changed |= join([state.value, state.next])
    return found


def too_many_pieces(program: Program) -> str | None:
    """Why a Program cannot be cut into pieces, or None if it can."""
    for value, inner in cuts(program).items():
        if len(inner) >= MAX_PIECES:
            return (
                f"its slices and concatenations cut value %{value} into more than {MAX_PIECES} pieces, "
                "which the Triton backend does not hold"
            )
    return None


def pieces(program: Program, names: dict[int, str]) -> dict[int, tuple[Piece, ...]]:
    """The pieces of every value; those of slices and concatenations belong to the values they come from."""
    widths = program.widths
    inner = cuts(program)
    matrices = {item.value for item in program.inputs if item.is_matrix}
    aliases = {node.value: node for node in program.nodes if node.kind in ("slice", "cat")}
    found: dict[int, tuple[Piece, ...]] = {}
    for value, width in widths.items():
        if value in matrices:
            continue
        if value in aliases:
            node = aliases[value]
            if node.kind == "cat":
                found[value] = tuple(piece for operand in node.inputs for piece in found[operand])
            else:
                found[value] = _columns(found[node.inputs[0]], node.start, node.stop)
            continue
        edges = [0, *sorted(inner[value]), width]
        several = len(edges) > 2
        found[value] = tuple(
            Piece(f"{names[value]}_p{i}" if several else names[value], value, start, stop - start)
            for i, (start, stop) in enumerate(pairwise(edges))
        )
    return found


def _columns(held: tuple[Piece, ...], start: int, stop: int) -> tuple[Piece, ...]:
    chosen = []
    at = 0
    for piece in held:
        if start <= at and at + piece.width <= stop:
            chosen.append(piece)
        at += piece.width
    return tuple(chosen)
