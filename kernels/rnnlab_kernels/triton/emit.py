"""The text of Triton kernels: single operations, loads and stores on the pieces of a loop's values.

Inside a kernel every value is float32 and has the shape [BLOCK_B, columns], or [1, columns] where it is
the same for every row; columns are padded to a power of two (`pieces.Piece.padded`), and what stands in
the padding is undefined: it is masked where it could reach anything else, that is before a dot, a row
reduction and a store.

Legend: B batch.
"""

import keyword
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rnnlab_kernels.program import Node, Program
from rnnlab_kernels.triton.pieces import Piece, pieces

TYPES = {torch.float32: "tl.float32", torch.float16: "tl.float16", torch.bfloat16: "tl.bfloat16"}

# Functions that generated modules define where they use them. Polynomials are minimax fits of this project.
HELPERS = {
    "sigmoid": """
def sigmoid(x):
    # Not exp(-x): at that negation LLVM's vectoriser, in Triton 3.9, falls on sm_90 and sm_100.
    return 1.0 / (1.0 + tl.exp(0.0 - x))
""",
    "tanh": """
def tanh(x):
    # Near zero a polynomial keeps the relative error; beyond it, this form neither overflows nor gives NaN.
    size = tl.abs(x)
    z = x * x
    p = -0.006113192532211542
    p = p * z + 0.021010082215070724
    p = p * z - 0.053854070603847504
    p = p * z + 0.13332794606685638
    p = p * z - 0.333333283662796
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x + x * z * p, tl.where(x < 0, -far, far))
""",
    "expm1": """
def expm1(x):
    p = 2.8137134222561144e-07
    p = p * x + 2.8126537472417112e-06
    p = p * x + 2.479590148141142e-05
    p = p * x + 0.00019836987485177815
    p = p * x + 0.0013888912508264184
    p = p * x + 0.00833334494382143
    p = p * x + 0.0416666679084301
    p = p * x + 0.1666666716337204
    p = p * x + 0.5
    return tl.where(tl.abs(x) < 1.0, x + x * x * p, tl.exp(x) - 1.0)
""",
    "log1p": """
def log1p(x):
    # Corrects the logarithm for what rounding 1 + x lost.
    y = 1.0 + x
    lost = (y - 1.0) - x
    return tl.log(y) - tl.where(tl.abs(lost) > 0, lost / y, 0.0)
""",
    "power": """
def power(x, y):
    # In float64, since the error of exp(y log x) grows with the exponent.
    size = tl.abs(x)
    result = tl.exp(y.to(tl.float64) * tl.log(size.to(tl.float64))).to(tl.float32)
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    negative = (x < 0) | ((x == 0) & (1.0 / x < 0))
    result = tl.where(negative & odd, -result, result)
    result = tl.where((x < 0) & (size < float("inf")) & (whole == 0), float("nan"), result)
    return tl.where((y == 0) | (x == 1) | ((size == 1) & (tl.abs(y) == float("inf"))), 1.0, result)
""",
    "row_sum": """
def row_sum(x):
    return tl.reduce(x, 1, tl.standard._sum_combine, keep_dims=True)
""",
    "row_max": """
def row_max(x):
    # tl.max drops NaN; as in PyTorch it must come through.
    numbers = tl.where(x == x, x, float("-inf"))
    largest = tl.reduce(numbers, 1, tl.standard._elementwise_max, keep_dims=True)
    missing = tl.reduce(tl.where(x == x, 0.0, 1.0), 1, tl.standard._sum_combine, keep_dims=True)
    return tl.where(missing > 0, float("nan"), largest)
""",
}

UNARY = {
    "neg": "-{0}",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0, 1.0, 0.0) - tl.where({0} < 0, 1.0, 0.0)",
    "exp": "tl.exp({0})",
    "expm1": "expm1({0})",
    "log": "tl.log({0})",
    "log1p": "log1p({0})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "tl.rsqrt({0})",
    "reciprocal": "1.0 / {0}",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "tanh": "tanh({0})",
    "sigmoid": "sigmoid({0})",
    "relu": "tl.where({0} <= 0, 0.0, {0})",
    "erf": "tl.erf({0})",
}
BINARY = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "pow": "power({0}, {1})",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
}
# x ** constant, where multiplying is both quicker and more exact than exp(y log x).
POWERS = {
    0.5: "tl.sqrt_rn({0})",
    -0.5: "tl.rsqrt({0})",
    -1.0: "1.0 / {0}",
    -2.0: "1.0 / ({0} * {0})",
    1.0: "{0} * 1.0",
    2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
}


def literal(number: float) -> str:
    """A constant as Triton reads it."""
    return repr(number) if math.isfinite(number) else f'float("{number}")'


class Emitter:
    """Writes statements on the pieces of a loop Program, and knows what each piece is called."""

    def __init__(self, program: Program, dtype: torch.dtype, upcast: bool):
        """`upcast` widens dot operands after rounding them: the interpreter has no right bfloat16 dot."""
        self.program = program
        self.dtype = dtype
        self.upcast = upcast
        self.names = _names(program)
        self.pieces = pieces(program, self.names)
        self.numbers = {n.value: n.number for n in program.nodes if n.op == "const"}
        self.widths = program.widths
        self.by_row = _by_row(program)
        self.lines: list[str] = []
        self.helpers: set[str] = set()
        self.columns: set[Piece] = set()
        self._depth = 1
        self._comment = ""
        self._lefts: dict[str, str] = {}

    def add(self, text: str) -> None:
        self.lines.append("    " * self._depth + text if text else "")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.add(head)
        self._depth += 1
        yield
        self._depth -= 1

    def use(self, text: str) -> str:
        """`text`, with the helpers that it calls noted."""
        self.helpers.update(name for name in HELPERS if re.search(rf"\b{name}\(", text))
        return text

    def fresh(self) -> None:
        """Forget the operands prepared so far: what follows stands in another scope."""
        self._lefts.clear()
        self._comment = ""

    def comment(self, node: Node) -> None:
        if node.source and node.source != self._comment:
            self._comment = node.source
            self.add("# " + " ".join(node.source.split()))

    def cols(self, piece: Piece) -> str:
        """The column numbers of a piece, as a [1, padded] tensor."""
        self.columns.add(piece)
        return f"cols_{piece.padded}"

    def masked(self, piece: Piece, *conditions: str) -> str:
        """A mask of `conditions` that also leaves out a piece's padding."""
        if piece.width != piece.padded:
            self.columns.add(piece)
            conditions = (*conditions, f"in_{piece.width}")
        return " & ".join(conditions)

    def address(self, base: str, rows: str | None, stride: int, piece: Piece, start: int) -> str:
        """Pointers to a piece that starts at column `start` of rows `stride` apart."""
        parts = [base]
        if rows is not None:
            parts.append(f"{rows} * {stride}" if stride != 1 else rows)
        if start:
            parts.append(str(start))
        if piece.width > 1:
            parts.append(self.cols(piece))
        return " + ".join(parts)

    def load(
        self, name: str, base: str, rows: str | None, stride: int, piece: Piece, start: int, mask: str | None
    ) -> None:
        """`name` = a piece of `base` in float32, zero where masked."""
        full = self.masked(piece, *([mask] if mask else []))
        where = f", mask={full}, other=0.0" if full else ""
        pointer = self.address(base, rows, stride, piece, start)
        if rows is None and piece.width == 1:
            pointer += " + tl.full([1, 1], 0, tl.int32)"
        self.add(f"{name} = tl.load({pointer}{where}).to(tl.float32)")

    def store(
        self, base: str, rows: str, stride: int, piece: Piece, start: int, value: str, mask: str
    ) -> None:
        pointer = self.address(base, rows, stride, piece, start)
        self.add(f"tl.store({pointer}, {value}, mask={self.masked(piece, mask)})")

    def spread(self, piece: Piece, name: str | None = None) -> str:
        """A piece in its full shape [BLOCK_B, padded]."""
        name = name or self.tensor(piece)
        return name if self.by_row[piece.owner] else f"tl.broadcast_to({name}, [BLOCK_B, {piece.padded}])"

    def tensor(self, piece: Piece) -> str:
        """A piece where a tensor is needed: constants have no variable of their own."""
        if piece.owner in self.numbers:
            return f"tl.full([1, 1], {literal(self.numbers[piece.owner])}, tl.float32)"
        return piece.name

    def left(self, piece: Piece) -> str:
        """A piece as the left operand of a dot: rounded to the dtype, with zeros in its padding."""
        if piece.name not in self._lefts:
            name = f"{piece.name}_left"
            text = self.spread(piece)
            if piece.width != piece.padded:
                text = f"tl.where({self.masked(piece)}, {text}, 0.0)"
            if text != piece.name or self.dtype != torch.float32:
                self.add(f"{name} = {self.operand(text)}")
            else:
                name = text
            self._lefts[piece.name] = name
        return self._lefts[piece.name]

    def operand(self, text: str) -> str:
        if self.dtype != torch.float32:
            text = (
                f"{text}.to({TYPES[self.dtype]})"
                if text.isidentifier()
                else f"({text}).to({TYPES[self.dtype]})"
            )
            if self.upcast:
                text += ".to(tl.float32)"
        return text

    def pointwise(self, node: Node) -> None:
        """Statements for a node that is neither a matmul nor a slice, a concatenation or a constant."""
        self.comment(node)
        if node.kind in ("sum", "amax"):
            self._reduce(node)
            return
        count = len(self.pieces[node.value])
        for index, piece in enumerate(self.pieces[node.value]):
            operands = [
                self.pieces[v][index if len(self.pieces[v]) == count and self.widths[v] == node.width else 0]
                for v in node.inputs
            ]
            self.add(f"{piece.name} = {self.use(self._expression(node, operands))}")

    def _expression(self, node: Node, operands: list[Piece]) -> str:
        texts = [self.tensor(piece) for piece in operands]
        numbers = [self.numbers.get(piece.owner) for piece in operands]
        if node.op == "pow" and numbers[1] in POWERS and numbers[0] is None:
            return POWERS[numbers[1]].format(texts[0])
        # A constant beside a tensor is written as a number, which reads better and means the same.
        if node.kind in ("binary", "compare") and numbers.count(None) == 1 and node.op in _PLAIN:
            texts = [
                text if number is None else literal(number)
                for text, number in zip(texts, numbers, strict=True)
            ]
        match node.kind:
            case "unary":
                return UNARY[node.op].format(*texts)
            case "where":
                branches = [
                    text if number is None else literal(number)
                    for text, number in zip(texts[1:], numbers[1:], strict=True)
                ]
                return f"tl.where({texts[0]}, {', '.join(branches)})"
            case _:
                return BINARY[node.op].format(*texts)

    def _reduce(self, node: Node) -> None:
        """A row sum or maximum: of each piece, then of these."""
        function, empty = ("row_sum", "0.0") if node.op == "sum" else ("row_max", 'float("-inf")')
        result = self.pieces[node.value][0].name
        for index, piece in enumerate(self.pieces[node.inputs[0]]):
            text = self.tensor(piece)
            if piece.width > 1:
                if piece.width != piece.padded:
                    text = f"tl.where({self.masked(piece)}, {text}, {empty})"
                text = self.use(f"{function}({text})")
            if index:
                text = BINARY["add" if node.op == "sum" else "maximum"].format(result, text)
            self.add(f"{result} = {text}")

    def column_lines(self) -> list[str]:
        """Definitions of the column numbers and masks that were used."""
        lines = []
        for padded in sorted({piece.padded for piece in self.columns if piece.padded > 1}):
            lines.append(f"cols_{padded} = tl.arange(0, {padded})[None, :]")
        for width, padded in sorted({(p.width, p.padded) for p in self.columns if p.width != p.padded}):
            lines.append(f"in_{width} = cols_{padded} < {width}")
        return lines


# Operators whose constant operand may be a plain number.
_PLAIN = {"add", "sub", "mul", "div", "lt", "le", "gt", "ge", "eq", "ne"}


def module_text(title: str, helpers: set[str], functions: list[str]) -> str:
    """A module of kernels with the helper functions that they use."""
    parts = [f'"""{title}"""\n\nimport triton\nimport triton.language as tl\n']
    parts += [f"\n@triton.jit{HELPERS[name]}" for name in sorted(helpers)]
    parts += [f"\n{function}" for function in functions]
    return "\n".join(parts)


def _names(program: Program) -> dict[int, str]:
    """A readable identifier for every value, none of them twice."""
    taken: set[str] = set()
    names: dict[int, str] = {}

    def name(value: int, wish: str) -> None:
        base = re.sub(r"\W", "_", wish)
        base = base if base and not base[0].isdigit() else f"v_{base}"
        free = base not in taken and base not in RESERVED and not DERIVED.search(base)
        names[value] = base if free else f"{base}_v{value}"
        taken.add(names[value])

    for item in program.inputs:
        name(item.value, item.name)
    for state in program.states:
        name(state.value, state.name)
    for node in program.nodes:
        name(node.value, f"{node.op}_{node.value}")
    return names


def _by_row(program: Program) -> dict[int, bool]:
    """Whether each value has a row for each row of the batch, or one row for all."""
    found = {item.value: item.per != "call" for item in program.inputs}
    found |= {state.value: True for state in program.states}
    for node in program.nodes:
        operands = node.inputs[:1] if node.kind == "matmul" else node.inputs
        found[node.value] = node.kind == "matmul" or any(found[v] for v in operands)
    # A column taken from a concatenation is its owner's piece, which has its own shape.
    return found


# Endings of the names that the generator makes from those of values.
DERIVED = re.compile(
    r"_(p\d+|v\d+|left|next|ptr|initial|initially|final|total|in|out|product)$|^(cols|in)_\d+$|^w\d+$|^out\d+$"
)

RESERVED = {
    *HELPERS, *keyword.kwlist, "triton", "tl", "T", "B", "rows", "row", "in_batch", "valid", "at", "t", "i",
    "k", "ks", "lengths", "resets", "restart", "steps", "row_steps", "scratch", "tile", "within", "BLOCK_B",
    "BLOCK_K", "BACKWARDS", "float", "range",
}  # fmt: skip
