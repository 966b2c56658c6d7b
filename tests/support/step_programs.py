"""Programs for tests of the backends: written by hand as a derivation gives them, and drawn at random.

Legend: T time, B batch, I input, H hidden.
"""

import random
from typing import Any

import torch
from rnnlab_kernels.program import Input, Node, Output, Program, State
from torch import Tensor


class Builder:
    """Writes a Program node by node; a value is its number, and `widths` holds its width."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.states: list[tuple[int, str]] = []
        self.next: dict[int, int] = {}
        self.nodes: list[Node] = []
        self.outputs: list[Output] = []
        self.widths: dict[int, int] = {}

    def value(self, width: int) -> int:
        self.widths[len(self.widths)] = width
        return len(self.widths) - 1

    def input(self, name: str, per: Any, width: int, rows: int | None = None) -> int:
        value = self.value(width)
        self.inputs.append(Input(value, name, per, width, rows))
        return value

    def state(self, name: str, width: int) -> int:
        value = self.value(width)
        self.states.append((value, name))
        return value

    def op(self, op: str, *operands: int, **more: Any) -> int:
        widths = [self.widths[v] for v in operands]
        match op:
            case "sum" | "amax" | "const":
                width = 1
            case "slice":
                width = more["stop"] - more["start"]
            case "cat":
                width = sum(widths)
            case "matmul":
                matrix = next(i for i in self.inputs if i.value == operands[1])
                width = (matrix.rows or 0) if more.get("transposed") else matrix.width
            case _:
                width = max(widths)
        value = self.value(width)
        self.nodes.append(Node(op, operands, value, width, **more))
        return value

    def split(self, value: int, count: int) -> list[int]:
        width = self.widths[value] // count
        return [self.op("slice", value, start=k * width, stop=(k + 1) * width) for k in range(count)]

    def const(self, number: float) -> int:
        return self.op("const", number=number)

    def store(self, name: str, value: int) -> None:
        self.outputs.append(Output(value, name, self.widths[value]))

    def program(self, adjoint: bool = False) -> Program:
        states = tuple(State(v, self.next[v], name, self.widths[v]) for v, name in self.states)
        program = Program(tuple(self.inputs), states, tuple(self.nodes), tuple(self.outputs), adjoint)
        program.validate()
        return program


def lstm(I: int, H: int, keep: bool = True) -> Program:  # noqa: E741
    """An LSTM with its input projection; with `keep`, it stores what its adjoint reads."""
    b = Builder()
    x, w_ih = b.input("x", "step", I), b.input("w_ih", "call", I, 4 * H)
    w_hh, bias = b.input("w_hh", "call", H, 4 * H), b.input("bias", "call", 4 * H)
    h, c = b.state("h", H), b.state("c", H)
    projected = b.op("add", b.op("matmul", x, w_ih, transposed=True), bias)
    i, f, g, o = b.split(b.op("add", projected, b.op("matmul", h, w_hh, transposed=True)), 4)
    i, f, g, o = b.op("sigmoid", i), b.op("sigmoid", f), b.op("tanh", g), b.op("sigmoid", o)
    after = b.op("add", b.op("mul", f, c), b.op("mul", i, g))
    output = b.op("mul", o, b.op("tanh", after))
    b.next = {h: output, c: after}
    b.store("h", output)
    if keep:
        for name, value in zip(
            ("i", "f", "g", "o", "after", "c", "before"), (i, f, g, o, after, c, h), strict=True
        ):
            b.store(name, value)
    return b.program()


def lstm_adjoint(I: int, H: int) -> Program:  # noqa: E741
    """The adjoint of `lstm`, with the gradient of its input."""
    b = Builder()
    dy, i, f, g, o, after, c = (b.input(n, "step", H) for n in ("dy", "i", "f", "g", "o", "after", "c"))
    w_ih, w_hh = b.input("w_ih", "call", I, 4 * H), b.input("w_hh", "call", H, 4 * H)
    dh, dc, one = b.state("dh", H), b.state("dc", H), b.const(1.0)

    def through_sigmoid(gradient: int, value: int) -> int:
        return b.op("mul", gradient, b.op("mul", value, b.op("sub", one, value)))

    def through_tanh(gradient: int, value: int) -> int:
        return b.op("mul", gradient, b.op("sub", one, b.op("mul", value, value)))

    gradient, tanh_c = b.op("add", dh, dy), b.op("tanh", after)
    d_after = b.op("add", dc, through_tanh(b.op("mul", gradient, o), tanh_c))
    gates = b.op(
        "cat",
        through_sigmoid(b.op("mul", d_after, g), i),
        through_sigmoid(b.op("mul", d_after, c), f),
        through_tanh(b.op("mul", d_after, i), g),
        through_sigmoid(b.op("mul", gradient, tanh_c), o),
    )
    b.next = {dh: b.op("matmul", gates, w_hh), dc: b.op("mul", d_after, f)}
    b.store("gates", gates)
    b.store("dx", b.op("matmul", gates, w_ih))
    return b.program(adjoint=True)


def gru_before(I: int, H: int) -> Program:  # noqa: E741
    """A GRU whose reset gate acts before the recurrent matmul (two matmuls in turn), with a mask."""
    b = Builder()
    x, w_ih = b.input("x", "step", I), b.input("w_ih", "call", I, 3 * H)
    w_gates, w_n = b.input("w_gates", "call", 2 * H, H), b.input("w_n", "call", H, H)
    mask, h = b.input("mask", "sequence", H), b.state("h", H)
    x_r, x_z, x_n = b.split(b.op("matmul", x, w_ih, transposed=True), 3)
    h_r, h_z = b.split(b.op("matmul", h, w_gates), 2)
    r, z = b.op("sigmoid", b.op("add", x_r, h_r)), b.op("sigmoid", b.op("add", x_z, h_z))
    n = b.op("tanh", b.op("add", x_n, b.op("matmul", b.op("mul", r, h), w_n)))
    kept = b.op("add", b.op("mul", z, h), b.op("mul", b.op("sub", b.const(1.0), z), n))
    b.next = {h: b.op("mul", kept, mask)}
    b.store("h", b.next[h])
    b.store("before", h)
    return b.program()


def layer_norm(I: int, H: int) -> Program:  # noqa: E741
    """Row sums, broadcast scalars and a gain: h' = tanh(LayerNorm(W [x, h]) * gain)."""
    b = Builder()
    x, w, gain = b.input("x", "step", I), b.input("w", "call", H, I + H), b.input("gain", "call", H)
    h = b.state("h", H)
    a = b.op("matmul", b.op("cat", x, h), w)
    centred = b.op("sub", a, b.op("mul", b.op("sum", a), b.const(1 / H)))
    variance = b.op("mul", b.op("sum", b.op("mul", centred, centred)), b.const(1 / H))
    scale = b.op("rsqrt", b.op("add", variance, b.const(1e-5)))
    b.next = {h: b.op("tanh", b.op("mul", b.op("mul", centred, scale), gain))}
    b.store("h", b.next[h])
    b.store("scale", scale)
    return b.program()


def odd(I: int, H: int) -> Program:  # noqa: E741
    """What the others lack: slices that do not line up, a comparison, a maximum, a state that is moved on."""
    b = Builder()
    x, s = b.input("x", "step", I), b.input("s", "step", 1)
    w, v = b.input("w", "call", 2 * H, H + I), b.input("v", "call", H)
    h, k, moved = b.state("h", H), b.state("k", 1), b.state("moved", H + I)
    whole = b.op("matmul", moved, w)
    first, second = b.split(whole, 2)
    left, right = b.op("slice", first, start=1, stop=H), b.op("slice", first, start=0, stop=H - 1)
    mixed = b.op("cat", b.op("mul", left, right), b.op("slice", second, start=2, stop=3))
    largest = b.op("amax", b.op("cat", mixed, x))
    decayed = b.op("exp", b.op("neg", b.op("abs", mixed)))
    chosen = b.op("where", b.op("lt", v, s), decayed, b.op("add", second, largest))
    after = b.op("tanh", b.op("mul", b.op("add", chosen, v), s))
    b.next = {h: after, k: b.op("mul", b.op("sum", after), b.const(0.1)), moved: b.op("cat", h, x)}
    for name, value in (("o", after), ("moved", moved), ("k", b.next[k]), ("x", x)):
        b.store(name, value)
    return b.program()


def by_hand() -> list[Program]:
    """One Program for each structure that a backend has to get right, at odd and at even sizes."""
    sizes = ((3, 5), (24, 40))
    made = [make(*size) for make in (lstm, lstm_adjoint, gru_before, layer_norm, odd) for size in sizes]
    return [*made, lstm(1, 32), lstm(70, 80, False), lstm_adjoint(70, 80)]


WIDTHS = (1, 2, 5, 16, 19)


def at_random(seed: int) -> Program:
    """A well-formed Program drawn at random; values stay of moderate size, so that errors do too."""
    pick = random.Random(seed)
    b = Builder()
    rows = [b.input("x0", "step", pick.choice(WIDTHS))]
    for number in range(pick.randint(0, 2)):
        rows.append(b.input(f"g{number}", pick.choice(("step", "sequence", "call")), pick.choice(WIDTHS)))
    given = list(rows)
    states = [b.state(f"s{n}", pick.choice(WIDTHS)) for n in range(pick.randint(1, 2))]
    rows += states

    def bounded(value: int) -> int:
        return b.op(pick.choice(("tanh", "sigmoid")), value)

    def product(width: int) -> int:
        left, transposed = pick.choice(rows), pick.random() < 0.5
        depth = b.widths[left]
        matrix = b.input(f"w{len(b.inputs)}", "call", *((depth, width) if transposed else (width, depth)))
        return b.op("matmul", left, matrix, transposed=transposed)

    def fitted(width: int) -> int:
        able = [v for v in rows if b.widths[v] == width]
        return pick.choice(able) if able and pick.random() < 0.6 else bounded(product(width))

    for _ in range(pick.randint(1, 9)):
        value = pick.choice(rows)
        width = b.widths[value]
        match pick.choice(
            ("unary", "binary", "binary", "where", "cat", "reduce", "matmul", "matmul", "slice")
        ):
            case "unary":
                rows.append(b.op(pick.choice(("tanh", "sigmoid", "relu", "neg", "abs", "sin", "erf")), value))
            case "binary":
                other = pick.choice([v for v in rows if width == 1 or b.widths[v] in (1, width)])
                rows.append(b.op(pick.choice(("add", "sub", "mul", "maximum", "minimum")), value, other))
            case "where":
                tested, number = pick.choice(given), b.const(pick.choice((-0.5, 0.0, 0.25)))
                mask = b.op(pick.choice(("lt", "ge", "ne")), tested, number)
                rows.append(b.op("where", mask, fitted(b.widths[tested]), number))
            case "cat":
                rows.append(b.op("cat", value, pick.choice(rows)))
            case "reduce":
                rows.append(bounded(b.op(pick.choice(("sum", "amax")), value)))
            case "matmul":
                rows.append(bounded(product(pick.choice(WIDTHS))))
            case "slice":
                start = pick.randrange(width)
                rows.append(b.op("slice", value, start=start, stop=pick.randint(start + 1, width)))
    b.next = {state: bounded(fitted(b.widths[state])) for state in states}
    for number in range(pick.randint(1, 3)):
        b.store(f"y{number}", pick.choice([*rows, *b.next.values()]))
    return b.program(adjoint=pick.random() < 0.3)


def tensors(
    program: Program, T: int, B: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and initial states for a Program."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    shapes = {"step": (T, B), "sequence": (B,), "call": ()}
    inputs = [
        draw(i.rows, i.width, scale=max(i.width, i.rows) ** -0.5)
        if i.rows
        else draw(*shapes[i.per], i.width, scale=0.3 if i.per == "sequence" else 1.0)
        for i in program.inputs
    ]
    return inputs, [draw(B, state.width) for state in program.states]
