"""Fused recurrences under torch.compile: captured whole, for any length and batch, gradients included."""

from collections.abc import Callable

import fused_cells
import pytest
import torch
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.recurrence import Recurrence, accuracy

pytestmark = pytest.mark.usefixtures("interpreter")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "make",
    [
        lambda: cells.LSTMCell(5, 6),
        lambda: cells.AntisymmetricRNNCell(5, 6),
        lambda: fused_cells.EagerParts(),
        lambda: cells.Zoneout(cells.GRUCell(5, 6), 0.3),
    ],
)
def test_captured_whole(make: Callable[[], nn.Module]) -> None:
    cell = make().double()
    layer = Recurrence(cell, backend="fused")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for length, batch in ((4, 3), (6, 2)):
        x = torch.randn(length, batch, 5, dtype=torch.float64)
        lengths = torch.arange(batch) + length - batch + 1
        found = []
        for run in (compiled, layer):
            torch.manual_seed(3)
            found.append(accuracy.results(run, x, lengths=lengths))
        wanted = found[1]
        got = {name.replace("_orig_mod.", ""): value for name, value in found[0].items()}
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(got[name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_resets_states_and_directions() -> None:
    cell = cells.GRUCell(5, 6).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    state = (torch.randn(3, 6, dtype=torch.float64),)
    resets = torch.rand(4, 3) < 0.4
    layer = Recurrence(cell, reverse=True, backend="fused")

    def through(x: Tensor, h: tuple[Tensor, ...] | None) -> Tensor:
        y, final = layer(x, h, resets=resets)
        return y.sum() + final[0].sum() if isinstance(final, tuple) else y.sum() + final.sum()

    compiled = torch.compile(through, fullgraph=True, backend="aot_eager")
    for h in (None, state):
        torch.testing.assert_close(compiled(x, h), through(x, h))


def test_a_reason_is_given_inside_of_a_capture_too() -> None:
    class Sorted(fused_cells.Sized):
        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.sort(self.inward(x) + self.across(h)).values

    layer = Recurrence(Sorted(), backend="auto")
    x = torch.randn(3, 2, 5)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x)[0], layer(x)[0])
