"""The stepwise strategy over several chunks, and again over the buffers of an earlier call.

Legend: T time, B batch.
"""

import pytest
import torch
from rnnlab_kernels.program import interpret
from rnnlab_kernels.triton import Config, run, stepwise
from torch import Tensor

from rnnlab import cells
from rnnlab.recurrence.compiler import compile_cell

CONFIG = Config("stepwise", block_b=2)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_chunks_join_and_their_buffers_can_be_used_again(
    reverse: bool, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepwise, "CHUNK", 2)
    stepwise.clear()
    derivative = compile_cell(cells.find("gru_reset_before")(3, 5), torch.zeros(2, 2, 3)).derivative()
    program = derivative.adjoint if backward else derivative.forward
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) * 0.5

    for length in (5, 2, 3):  # the same buffers serve all lengths
        inputs = [
            draw(i.rows, i.width) if i.rows else draw(*((length, 3) if i.per == "step" else ()), i.width)
            for i in program.inputs
        ]
        states = [draw(3, s.width) for s in program.states]
        options = {
            "lengths": torch.tensor([length, 1, 2]),
            "resets": torch.rand(length, 3, generator=random) < 0.4,
            "reverse": reverse,
        }
        ours = run(program, inputs, states, config=CONFIG, precision="ieee", **options)
        torch.testing.assert_close(ours, interpret(program, inputs, states, **options))
    assert len(stepwise._chunks) == 1


def test_chunks_used_longest_ago_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepwise, "MAX_GRAPHS", 2)
    stepwise.clear()
    program = compile_cell(cells.find("indrnn")(3, 4), torch.zeros(2, 2, 3)).program
    for batch in (1, 2, 3):
        inputs = [
            torch.ones(i.rows, i.width)
            if i.rows
            else torch.ones(*((2, batch) if i.per == "step" else ()), i.width)
            for i in program.inputs
        ]
        run(program, inputs, [torch.zeros(batch, s.width) for s in program.states], config=CONFIG)
    assert [key[3] for key in stepwise._chunks] == [2, 3]
