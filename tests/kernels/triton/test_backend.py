"""The backend as its callers see it: refusals, devices, and whole networks through it, in the interpreter."""

import pytest
import rnnlab_kernels.triton as triton_backend
import torch
from rnnlab_kernels.program import Input, Node, Output, Program, State, interpret
from rnnlab_kernels.triton import STRATEGIES, Config, refusal, run, source
from rnnlab_kernels.triton.choice import force
from rnnlab_kernels.triton.split import split
from torch import Tensor

from rnnlab import DeepRNN, cells
from rnnlab.recurrence import Recurrence, choice, operators
from rnnlab.recurrence.compiler import compile_cell
from rnnlab.recurrence.fused import Fused


def leaky(*ops: str, width: int = 3) -> Program:
    """h' = f(h + x) for a chain of unary operators f."""
    nodes = [Node("add", (0, 1), 2, width)]
    for op in ops:
        nodes.append(Node(op, (nodes[-1].value,), nodes[-1].value + 1, width))
    last = nodes[-1].value
    return Program(
        (Input(0, "x", "step", width),),
        (State(1, last, "h", width),),
        tuple(nodes),
        (Output(last, "y", width),),
    )


ROLLED = Program(
    (Input(0, "x", "step", 40),),
    (State(1, 5, "h", 40),),
    (
        Node("slice", (1,), 2, 39, start=1, stop=40),
        Node("slice", (1,), 3, 1, start=0, stop=1),
        Node("cat", (2, 3), 4, 40),
        Node("add", (4, 0), 5, 40),
    ),
    (Output(5, "y", 40),),
)


def test_a_value_in_too_many_pieces_is_refused_with_a_reason() -> None:
    assert "pieces" in str(refusal(ROLLED, torch.float32))
    with pytest.raises(ValueError, match="pieces"):
        run(ROLLED, [torch.zeros(2, 2, 40)], [torch.zeros(2, 40)])


def test_float64_is_refused() -> None:
    assert "float64" in str(refusal(leaky(), torch.float64))


def test_a_cpu_is_refused_where_nothing_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="run on a GPU, and the tensors are on 'cpu'"):
        run(leaky(), [torch.zeros(2, 2, 3)], [torch.zeros(2, 3)])


def test_tensors_on_several_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="on cpu and on meta"):
        run(leaky(), [torch.zeros(2, 2, 3)], [torch.zeros(2, 3, device="meta")])


ODD = (0.0, -0.0, 1.0, -1.0, 0.3, -100.0, 100.0, float("inf"), float("-inf"), float("nan"))


@pytest.mark.parametrize("strategy", ["resident", "stepwise"])
@pytest.mark.parametrize("op", sorted(set(__import__("rnnlab_kernels.program").program.UNARY)))
def test_unary_operators_on_ordinary_and_odd_numbers(op: str, strategy: str) -> None:
    program = leaky(op, width=len(ODD))
    x = torch.tensor(ODD).view(1, 1, -1)
    states = [torch.zeros(1, len(ODD))]
    (ours,), _ = run(program, [x], states, config=Config(strategy))  # type: ignore[arg-type]
    (wanted,), _ = interpret(program, [x], states)
    torch.testing.assert_close(ours, wanted, equal_nan=True, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("op", ["maximum", "minimum", "pow", "div", "mul"])
def test_binary_operators_on_odd_numbers(op: str) -> None:
    pairs = [(a, b) for a in (*ODD, 2.5, -8.0) for b in (*ODD, 2.0, -3.0)]
    width = len(pairs)
    program = Program(
        (Input(0, "x", "step", width), Input(1, "y", "step", width)),
        (State(2, 3, "h", width),),
        (Node(op, (0, 1), 3, width),),
        (Output(3, "z", width),),
    )
    inputs = [torch.tensor([pair[i] for pair in pairs]).view(1, 1, -1) for i in (0, 1)]
    states = [torch.zeros(1, width)]
    (ours,), _ = run(program, inputs, states)
    (wanted,), _ = interpret(program, inputs, states)
    torch.testing.assert_close(ours, wanted, equal_nan=True, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("exponent", [-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.0, 1.7])
def test_constant_powers(exponent: float) -> None:
    x = torch.tensor(ODD).view(1, 1, -1)
    width = len(ODD)
    program = Program(
        (Input(0, "x", "step", width),),
        (State(1, 3, "h", width),),
        (Node("const", (), 2, 1, number=exponent), Node("pow", (0, 2), 3, width)),
        (),
    )
    _, (ours,) = run(program, [x], [torch.zeros(1, width)])
    torch.testing.assert_close(ours, x[0] ** exponent, equal_nan=True, rtol=1e-6, atol=1e-7)


def test_nan_in_a_row_stays_in_its_row_and_padding_reaches_nothing() -> None:
    forward = compile_cell(cells.find("layer_norm_lstm")(3, 5), torch.zeros(2, 2, 3)).program
    random = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(
            (i.rows, i.width) if i.rows else {"step": (4, 3, i.width)}.get(i.per, (i.width,)),
            generator=random,
        )
        for i in forward.inputs
    ]
    states = [torch.zeros(3, s.width) for s in forward.states]
    clean, _ = run(forward, inputs, states)
    position = next(k for k, i in enumerate(forward.inputs) if i.per == "step")
    inputs[position][2, 1] = float("nan")
    spoilt, _ = run(forward, inputs, states)
    for before, after in zip(clean, spoilt, strict=True):
        torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]], rtol=0, atol=0)
        torch.testing.assert_close(before[:2], after[:2], rtol=0, atol=0)


def test_the_input_projection_runs_before_the_loop_and_its_gradient_after_it() -> None:
    derivative = compile_cell(cells.find("gru")(3, 5), torch.zeros(2, 2, 3)).derivative()
    forward, adjoint = split(derivative.forward), split(derivative.adjoint)
    assert [node.op for node in forward.before] == ["matmul"] and not forward.after
    assert [node.op for node in adjoint.after] == ["matmul"] and not adjoint.before
    for part in (forward, adjoint):
        part.loop.validate()
        assert sum(node.op == "matmul" for node in part.loop.nodes) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_text_can_be_read(strategy: str) -> None:
    forward = compile_cell(cells.find("gru")(3, 5), torch.zeros(2, 2, 3)).program
    text = source(forward, torch.bfloat16, strategy)  # type: ignore[arg-type]
    compile(text, "generated", "exec")
    assert "sigmoid(x_r + h_r)" in text  # the cell's own line, as a comment


@pytest.fixture
def _through_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operators.executors, "cpu", triton_backend)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_through_triton")
def test_auto_prefers_what_was_measured_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    cell, x, ran = cells.LSTMCell(4, 5), torch.zeros(2, 2, 4), []
    run_before = triton_backend.run
    monkeypatch.setattr(choice, "_backends", [choice.find("aten"), choice.find("fused")])
    monkeypatch.setattr(triton_backend, "run", lambda *a, **k: ran.append(1) or run_before(*a, **k))
    monkeypatch.setattr(Fused, "outruns", lambda self, call: None)
    Recurrence(cell)(x)
    without = len(ran)
    monkeypatch.setattr(Fused, "outruns", lambda self, call: "aten")
    Recurrence(cell)(x)
    assert (without, len(ran)) == (0, 1)


@pytest.mark.usefixtures("_through_triton")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deep_network_trains_through_the_kernels(strategy: str) -> None:
    lengths = torch.tensor([3, 1, 2])

    def results(backend: str) -> list[Tensor]:
        torch.manual_seed(0)
        network = DeepRNN("lstm", 4, 5, 2, bidirectional=True, backend=backend)
        x = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        outputs, final = network(x, lengths=lengths)
        loss = outputs.sin().sum() + sum(s.cos().sum() for s in torch.utils._pytree.tree_leaves(final))
        return [outputs, *torch.autograd.grad(loss, [x, *network.parameters()])]

    with force(strategy):  # type: ignore[arg-type]
        ours = results("fused")
    torch.testing.assert_close(ours, results("eager"), rtol=1e-4, atol=1e-5)
