"""Every cell, forward and backward, in every strategy, in Triton's interpreter against float64.

Legend: T time, B batch, I input, H hidden.
"""

from functools import cache

import pytest
import torch
from rnnlab_kernels.program import Program, interpret
from rnnlab_kernels.triton import STRATEGIES, Config, run
from torch import Tensor

from rnnlab import cells
from rnnlab.recurrence.accuracy import compare
from rnnlab.recurrence.compiler import compile_cell
from rnnlab.recurrence.derivative import Derivative

T, B, I, H = 3, 3, 3, 5  # noqa: E741

# lengths, resets and direction: all of them together, and each pattern once over the cells
PATTERNS = {
    "plain": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": torch.tensor([2, 3, 1])},
    "resets": {"resets": torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]]).bool()},
}
PATTERNS["all"] = PATTERNS["reverse"] | PATTERNS["lengths"] | PATTERNS["resets"]


@cache
def derivative(name: str) -> Derivative:
    more = {"proj_size": 3} if name == "projected_lstm" else {}
    return compile_cell(cells.find(name)(I, H, **more), torch.zeros(T, B, I)).derivative()


def backward_too(name: str, dtype: torch.dtype, execute, **options) -> dict[str, Tensor]:
    """All that a forward and an adjoint Program give, run by `execute` on the same random numbers."""
    found = derivative(name)
    random = torch.Generator().manual_seed(7)
    shapes = {"step": (T, B), "sequence": (B,), "call": ()}

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    inputs = [
        draw(i.rows, i.width) * 0.4 if i.rows is not None else draw(*shapes[i.per], i.width)
        for i in found.forward.inputs
    ]
    states = [draw(B, s.width) for s in found.forward.states]
    outputs, finals = execute(found.forward, inputs, states, **options)
    gradients = [draw(T, B, o.width) for o in found.forward.outputs]
    towards = [draw(B, s.width) for s in found.adjoint.states]
    given = {"input": inputs, "output": outputs, "gradient": gradients}
    feeds = [given[feed.kind][feed.index] for feed in found.feeds]
    sequences, initial = execute(found.adjoint, feeds, towards, **options)
    parts = {"output": outputs, "final": finals, "adjoint": sequences, "initial": initial}
    return {f"{kind} {i}": tensor for kind, tensors in parts.items() for i, tensor in enumerate(tensors)}


def prove(name: str, strategy: str, pattern: str, dtype: torch.dtype = torch.float32) -> None:
    options = PATTERNS[pattern]
    config = Config(strategy, block_b=2 if strategy == "stepwise" else 16, block_k=16)  # type: ignore[arg-type]

    def triton(program: Program, inputs: list[Tensor], states: list[Tensor], **more):
        return run(program, inputs, states, config=config, precision="ieee", **more)

    ours = backward_too(name, dtype, triton, **options)
    eager = backward_too(name, dtype, interpret, **options)
    exact = backward_too(name, torch.float64, interpret, **options)
    verdict = compare(ours, eager, exact)
    assert verdict.ok, verdict.worst


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", cells.CELLS)
def test_a_cell_in_a_strategy_with_lengths_and_resets_in_reverse(name: str, strategy: str) -> None:
    prove(name, strategy, "all")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p != "all"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", cells.CELLS)
def test_a_cell_in_a_strategy(name: str, strategy: str, pattern: str) -> None:
    prove(name, strategy, pattern)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["lstm", "gru_reset_before"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cell_in_half_precision(name: str, strategy: str, dtype: torch.dtype) -> None:
    prove(name, strategy, "all", dtype)
