"""Every shipped cell and wrapper, fused, against the reference: the error rule over all sorts of calls."""

import copy
from collections.abc import Callable

import pytest
import torch
from rnnlab_kernels.cpu import toolchain
from torch import nn

from rnnlab import cells
from rnnlab.cells import RecurrentDropout, WeightDrop, Zoneout
from rnnlab.recurrence import Recurrence
from rnnlab.recurrence.accuracy import Tally, compare, results

# No power of two, and no multiple of a vector.
T, B, I, H = 9, 5, 7, 19  # noqa: E741
LENGTHS = torch.tensor([9, 1, 6, 3, 8])

pytestmark = pytest.mark.skipif(toolchain.missing() is not None, reason=str(toolchain.missing()))


def resets() -> torch.Tensor:
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[0, 0] = starts[4, 0] = starts[5, 0] = starts[3, 2] = starts[7, 2] = starts[8, 4] = True
    return starts


CALLS: dict[str, dict] = {
    "plain": {},
    "from a state": {"state": True},
    "lengths": {"lengths": LENGTHS},
    "lengths, from a state, in reverse": {"lengths": LENGTHS, "state": True, "reverse": True},
    "resets": {"resets": resets()},
    "lengths and resets, from a state": {"lengths": LENGTHS, "resets": resets(), "state": True},
    "lengths and resets, in reverse": {"lengths": LENGTHS, "resets": resets(), "reverse": True},
}

OPTIONS = {"projected_lstm": {"proj_size": 6}}
MORE: dict[str, Callable[[], nn.Module]] = {
    "slstm with heads": lambda: cells.SLSTMCell(I, 18, heads=3),
    "slstm with an exponential forget gate": lambda: cells.SLSTMCell(I, H, forget_gate="exp"),
    "gru without a bias": lambda: cells.GRUCell(I, H, False),
    "torch's lstm": lambda: nn.LSTMCell(I, H),
    "torch's gru": lambda: nn.GRUCell(I, H),
}
WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "zoneout": lambda: Zoneout(cells.LSTMCell(I, H), (0.1, 0.4)),
    "weight drop": lambda: WeightDrop(cells.ResetBeforeGRUCell(I, H), 0.4),
    "recurrent dropout": lambda: RecurrentDropout(cells.LEMCell(I, H), 0.3),
    "all three": lambda: Zoneout(WeightDrop(RecurrentDropout(cells.PeepholeLSTMCell(I, H), 0.2), 0.3), 0.2),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(3)
    made = (MORE | WRAPPED).get(name)
    return made() if made is not None else cells.find(name)(I, H, **OPTIONS.get(name, {}))


def double(cell: nn.Module) -> nn.Module:
    return copy.deepcopy(cell).double()


def run(cell: nn.Module, backend: str, dtype: torch.dtype, call: dict) -> dict[str, torch.Tensor]:
    """Everything that the cell gives in float32 or float64, for one of `CALLS`."""
    torch.manual_seed(5)
    x = torch.randn(T, B, I, dtype=torch.float64)
    options = {k: v for k, v in call.items() if k in ("lengths", "resets")}
    if "lengths" in options:  # nobody may read the padding
        x = torch.where((torch.arange(T)[:, None] >= LENGTHS)[..., None], float("nan"), x)
    state = None
    if call.get("state"):
        with torch.no_grad():
            _, final = Recurrence(double(cell).eval(), backend="eager")(
                torch.randn(3, B, I, dtype=torch.float64)
            )
        state = tuple(s.to(dtype) for s in ((final,) if isinstance(final, torch.Tensor) else final))
    typed = double(cell) if dtype == torch.float64 else cell
    layer = Recurrence(typed, reverse=call.get("reverse", False), backend=backend)
    torch.manual_seed(11)  # the same masks in every run
    return results(layer, x.to(dtype), state, **options)


def judge(cell: nn.Module, *, singly: bool = True) -> None:
    """The error rule: for each call by itself, or only for the mean over all calls."""
    tally = Tally()
    for description, call in CALLS.items():
        exact = run(cell, "eager", torch.float64, call)
        eager, fused = (run(cell, backend, torch.float32, call) for backend in ("eager", "fused"))
        verdict = compare(fused, eager, exact) if singly else tally.add(fused, eager, exact)
        assert verdict.ok, f"{description}: {verdict.worst}"
    assert singly or tally.verdict().ok, tally.verdict().worst


def agree(cell: nn.Module) -> None:
    """Equality up to the rounding of float64, for all calls."""
    for call in CALLS.values():
        eager, fused = (run(cell, backend, torch.float64, call) for backend in ("eager", "fused"))
        torch.testing.assert_close(fused, eager, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [*cells.CELLS, *MORE])
def test_errs_at_most_twice_as_much_as_eager(name):
    # Four gates of a few units each, normalised apart, amplify rounding: one call is a draw of that noise.
    judge(build(name), singly=name != "layer_norm_lstm")


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_in_eval_mode(name):
    judge(build(name).eval())


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_in_training_with_the_same_masks(name):
    agree(build(name).train())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*cells.CELLS, *MORE])
def test_float64_agrees_to_its_own_rounding(name):
    agree(build(name))


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (1, 3, 2, 33), (17, 1, 40, 8)])
@pytest.mark.parametrize("name", ["gru", "peephole_lstm", "layer_norm_lstm", "lem", "indrnn"])
def test_odd_sizes(name, size):
    # In float64: of a handful of numbers, rounding errors are no statistic.
    length, batch, width, hidden = size
    cell = cells.find(name)(width, hidden).double()
    x = torch.randn(length, batch, width, dtype=torch.float64)
    eager, fused = (results(Recurrence(cell, backend=b), x) for b in ("eager", "fused"))
    torch.testing.assert_close(fused, eager, rtol=1e-9, atol=1e-11)


def test_final_states_without_a_gradient_count_as_zeros_whatever_the_batch_and_the_type() -> None:
    cell = cells.LSTMCell(5, 6)
    fused, eager = (Recurrence(cell, backend=backend) for backend in ("fused", "eager"))
    for rows, lower, final in ((3, False, False), (2, True, False), (2, False, True), (1, False, False)):
        x = torch.randn(4, rows, 5, requires_grad=True)
        cotangent = torch.randn(4, rows, 6)
        found = []
        for layer in (fused, eager):
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                y, (h, _) = layer(x)
            loss = h.sin().sum() if final else (y * cotangent).sum()
            found.append(torch.autograd.grad(loss, [x, *cell.parameters()]))
        tolerance = {"rtol": 0.1, "atol": 0.1} if lower else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(*found, **tolerance)


def test_results_are_the_callers_own() -> None:
    layer = Recurrence(cells.LSTMCell(5, 6), backend="fused")
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        y, (h, c) = layer(x)
        wanted = y.clone(), h.clone(), c.clone()
        for tensor, value in ((y, 0), (h, 7), (c, 9)):
            tensor.fill_(value)
        again, finals = layer(x)
    torch.testing.assert_close((again, *finals), wanted, rtol=0, atol=0)
    assert {h.unique().item(), c.unique().item(), y.unique().item()} == {7.0, 9.0, 0.0}
    assert h.untyped_storage().nbytes() == h.numel() * h.itemsize, "a carried state keeps no sequence alive"
