"""Random Programs, in Triton's interpreter against the definition, in every strategy.

Legend: T time, B batch.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rnnlab_kernels.program import Input, Node, Output, Program, State, interpret
from rnnlab_kernels.triton import STRATEGIES, Config, refusal, run
from torch import Tensor

from rnnlab.recurrence.accuracy import compare

SMOOTH = ("tanh", "sigmoid", "sin", "cos", "erf", "relu", "neg", "abs")
WIDTHS = (1, 2, 5, 16, 19)


class Builder:
    """Draws a well-formed Program node by node; values stay of moderate size, so that errors do too."""

    def __init__(self, draw: st.DrawFn):
        self.draw = draw
        self.nodes: list[Node] = []
        self.inputs: list[Input] = []
        self.rows: list[tuple[int, int]] = []
        self.given: list[tuple[int, int]] = []
        self.next_value = 0

    def value(self) -> int:
        self.next_value += 1
        return self.next_value - 1

    def add_input(self, per: str, width: int, rows: int | None = None) -> int:
        value = self.value()
        self.inputs.append(Input(value, f"{per}_{value}", per, width, rows))  # type: ignore[arg-type]
        if rows is None:
            self.rows.append((value, width))
            self.given.append((value, width))
        return value

    def add(self, op: str, inputs: tuple[int, ...], width: int, **more) -> int:
        value = self.value()
        self.nodes.append(Node(op, inputs, value, width, **more))
        return value

    def keep(self, value: int, width: int) -> None:
        self.rows.append((value, width))

    def pick(self, width: int | None = None) -> tuple[int, int]:
        able = [row for row in self.rows if width is None or row[1] in (width, 1)]
        return self.draw(st.sampled_from(able))

    def bounded(self, value: int, width: int) -> int:
        return self.add(self.draw(st.sampled_from(("tanh", "sigmoid", "sin"))), (value,), width)

    def fitted(self, width: int) -> int:
        """A value of exactly this width, made by a matmul, a slice or a concatenation where there is none."""
        able = [value for value, w in self.rows if w == width]
        if able and self.draw(st.booleans()):
            return self.draw(st.sampled_from(able))
        wider = [row for row in self.rows if row[1] > width]
        if wider and self.draw(st.booleans()):
            value, w = self.draw(st.sampled_from(wider))
            start = self.draw(st.integers(0, w - width))
            return self.add("slice", (value,), width, start=start, stop=start + width)
        return self.matmul(width)

    def matmul(self, width: int) -> int:
        left, inner = self.pick()
        transposed = self.draw(st.booleans())
        rows, columns = (width, inner) if transposed else (inner, width)
        matrix = self.add_input("call", columns, rows)
        product = self.add("matmul", (left, matrix), width, transposed=transposed)
        return self.bounded(product, width)

    def grow(self) -> None:
        kind = self.draw(
            st.sampled_from(("unary", "binary", "where", "cat", "sum", "amax", "matmul", "slice"))
        )
        value, width = self.pick()
        match kind:
            case "unary":
                self.keep(self.add(self.draw(st.sampled_from(SMOOTH)), (value,), width), width)
            case "binary":
                other, other_width = self.pick(width if width > 1 else None)
                op = self.draw(st.sampled_from(("add", "sub", "mul", "maximum", "minimum")))
                wide = max(width, other_width)
                made = self.add(op, (value, other), wide)
                self.keep(self.bounded(made, wide) if op == "mul" else made, wide)
            case "where":
                # Only inputs are compared: they are the same in every precision.
                tested, wide = self.draw(st.sampled_from(self.given))
                number = self.add("const", (), 1, number=self.draw(st.sampled_from((-0.5, 0.0, 0.25))))
                mask = self.add(self.draw(st.sampled_from(("lt", "ge", "ne"))), (tested, number), wide)
                chosen = self.fitted(wide)
                self.keep(self.add("where", (mask, chosen, number), wide), wide)
            case "cat":
                other, other_width = self.pick()
                self.keep(self.add("cat", (value, other), width + other_width), width + other_width)
            case "sum" | "amax":
                self.keep(self.bounded(self.add(kind, (value,), 1), 1), 1)
            case "matmul":
                width = self.draw(st.sampled_from(WIDTHS))
                self.keep(self.matmul(width), width)
            case "slice":
                start = self.draw(st.integers(0, width - 1))
                stop = self.draw(st.integers(start + 1, width))
                made = self.add("slice", (value,), stop - start, start=start, stop=stop)
                self.keep(made, stop - start)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    build = Builder(draw)
    build.add_input("step", draw(st.sampled_from(WIDTHS)))
    for per in draw(st.lists(st.sampled_from(("step", "sequence", "call")), max_size=2)):
        build.add_input(per, draw(st.sampled_from(WIDTHS)))
    widths = draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=2))
    states = [build.value() for _ in widths]
    build.rows += list(zip(states, widths, strict=True))
    for _ in range(draw(st.integers(1, 8))):
        build.grow()
    follows = [build.bounded(build.fitted(width), width) for width in widths]
    chosen = draw(st.lists(st.sampled_from(build.rows), min_size=1, max_size=3))
    program = Program(
        inputs=tuple(build.inputs),
        states=tuple(
            State(value, follow, f"s{value}", width)
            for value, follow, width in zip(states, follows, widths, strict=True)
        ),
        nodes=tuple(build.nodes),
        outputs=tuple(Output(value, f"y{i}", width) for i, (value, width) in enumerate(chosen)),
        adjoint=draw(st.booleans()),
    )
    program.validate()
    return program


def tensors(program: Program, length: int, batch: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"step": (length, batch), "sequence": (batch,), "call": ()}

    def make(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=random) * scale

    inputs = [
        make(i.rows, i.width, scale=i.width**-0.5) if i.rows else make(*shapes[i.per], i.width)
        for i in program.inputs
    ]
    return inputs, [make(batch, state.width) for state in program.states]


def agree(program: Program, strategy: str, length: int, batch: int, seed: int, **options) -> None:
    """A strategy errs at most twice as much as the definition in float32, measured against float64."""
    inputs, states = tensors(program, length, batch, seed)
    config = Config(strategy, block_b=2 if strategy == "stepwise" else 16, block_k=16)  # type: ignore[arg-type]
    names = [*(o.name for o in program.outputs), *(s.name for s in program.states)]

    def named(results: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
        return dict(zip(names, [*results[0], *results[1]], strict=True))

    ours = named(run(program, inputs, states, config=config, precision="ieee", **options))
    eager = named(interpret(program, inputs, states, **options))
    exact = named(interpret(program, [t.double() for t in inputs], [t.double() for t in states], **options))
    verdict = compare(ours, eager, exact)
    assert verdict.ok, f"{strategy}: {verdict.worst}\n{program}"


def check(program: Program, data: st.DataObject, strategies: tuple[str, ...]) -> None:
    assert refusal(program, torch.float32) is None or "pieces" in str(refusal(program, torch.float32))
    if refusal(program, torch.float32):
        return
    length, batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    lengths = resets = None
    if data.draw(st.booleans()):
        lengths = torch.tensor(data.draw(st.lists(st.integers(1, length), min_size=batch, max_size=batch)))
    if data.draw(st.booleans()):
        flat = data.draw(st.lists(st.booleans(), min_size=length * batch, max_size=length * batch))
        resets = torch.tensor(flat).view(length, batch)
    reverse = data.draw(st.booleans())
    seed = data.draw(st.integers(0, 99))
    for strategy in strategies:
        agree(program, strategy, length, batch, seed, lengths=lengths, resets=resets, reverse=reverse)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(programs(), st.data())
def test_random_programs_in_every_strategy(program: Program, data: st.DataObject) -> None:
    check(program, data, STRATEGIES)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(programs(), st.data())
def test_many_random_programs(program: Program, data: st.DataObject) -> None:
    check(program, data, STRATEGIES)
