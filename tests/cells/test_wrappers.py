"""Regularisers around any cell: their statistics, their composition, and that eval mode is exact."""

import copy
import pickle

import pytest
import torch
from torch import nn

from rnnlab import cells
from rnnlab.cells import RecurrentDropout, WeightDrop, Zoneout
from rnnlab.recurrence import Recurrence, backends

T, B, I, H = 7, 3, 4, 6  # noqa: E741


def masks(cell, length=T, batch=B):
    return cell.draw(length, batch, device=torch.device("cpu"), dtype=torch.float32)


class Sums(nn.Module):
    """A cell that returns an output beside its state."""

    hidden_size = I

    def forward(self, x, state):
        return 2 * state, state + x


def test_zoneout_keeps_old_values_where_the_mask_says():
    torch.manual_seed(0)
    inner = cells.LSTMCell(I, H)
    cell = Zoneout(inner, (0.3, 0.6))
    x, state = torch.randn(B, I), (torch.randn(B, H), torch.randn(B, H))
    new = inner(x, state)
    drawn = [value[0] for value, per in masks(cell, 1) if per == "step"]
    for mixed, mask, before, after in zip(cell(x, state, *drawn), drawn, state, new, strict=True):
        assert torch.equal(mixed, torch.where(mask == 1, before, after))


def test_zoneout_rates_are_those_asked_for():
    torch.manual_seed(0)
    h, c = masks(Zoneout(cells.LSTMCell(I, 50), (0.1, 0.5)), 100, 20)
    assert h[0].shape == c[0].shape == (100, 20, 50)
    assert set(h[0].unique().tolist()) == {0.0, 1.0}
    assert h[0].mean().item() == pytest.approx(0.1, abs=0.005)
    assert c[0].mean().item() == pytest.approx(0.5, abs=0.005)


def test_zoneout_in_eval_is_the_expectation():
    inner = cells.GRUCell(I, H)
    cell = Zoneout(inner, 0.25).eval()
    x, h = torch.randn(B, I), torch.randn(B, H)
    torch.testing.assert_close(cell(x, h), 0.25 * h + 0.75 * inner(x, h))
    assert masks(cell) == ()


def test_a_state_with_probability_zero_is_untouched_and_costs_no_mask():
    cell = Zoneout(cells.SLSTMCell(I, H), (0.2, 0, 0, 0))
    assert len(masks(cell)) == 1
    state = cell.initial_state(B)
    drawn = [value[0] for value, _ in masks(cell, 1)]
    x = torch.randn(B, I)
    for a, b in zip(cell(x, state, *drawn)[1:], cell.cell(x, state)[1:], strict=True):
        assert torch.equal(a, b)


def test_zoneout_of_a_cell_that_returns_an_output():
    cell = Zoneout(Sums(), 0.5)
    outputs, final = Recurrence(cell)(torch.ones(T, B, I))
    assert outputs.shape == (T, B, I) and final.shape == (B, I)
    assert torch.equal(outputs[-1] / 2 + 1, final) or (final <= T).all()
    output, state = cell.eval()(torch.ones(B, I), torch.zeros(B, I))
    assert torch.equal(state, torch.full((B, I), 0.5)) and torch.equal(output, torch.zeros(B, I))


@pytest.mark.parametrize("inner", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("wrap", [Zoneout, WeightDrop, RecurrentDropout])
def test_wraps_torch_s_own_cells(inner, wrap):
    layer = Recurrence(wrap(inner(I, H), 0.3))
    outputs, _ = layer(torch.randn(T, B, I))
    outputs.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_weight_drop_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    inner = cells.LSTMCell(I, 100)
    ((mask, per),) = masks(WeightDrop(inner, 0.3))
    assert per == "call" and mask.shape == inner.weight_hh.shape
    assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert mask.mean().item() == pytest.approx(1, abs=0.01)


def test_weight_drop_is_the_cell_with_masked_weights():
    torch.manual_seed(0)
    inner = cells.LSTMCell(I, H)
    cell = WeightDrop(inner, 0.5)
    ((mask, _),) = masks(cell)
    masked = copy.deepcopy(inner)
    with torch.no_grad():
        masked.weight_hh.mul_(mask)
    x, state = torch.randn(B, I), (torch.randn(B, H), torch.randn(B, H))
    torch.testing.assert_close(cell(x, state, mask), masked(x, state))


def test_recurrent_dropout_drops_units_from_the_product_alone():
    torch.manual_seed(0)
    inner = cells.ResetBeforeGRUCell(I, H)
    cell = RecurrentDropout(inner, 0.5)
    x, h = torch.randn(B, I), torch.randn(B, H)
    nothing = torch.zeros(H)
    _, z, n = (x @ inner.weight_ih.T + inner.bias_ih + inner.bias_hh).chunk(3, dim=-1)
    z = torch.sigmoid(z)
    torch.testing.assert_close(cell(x, h, nothing), (1 - z) * torch.tanh(n) + z * h)  # memory is not lost
    kept = torch.ones(H)
    torch.testing.assert_close(cell(x, h, kept), inner(x, h))


def test_recurrent_dropout_masks_are_scaled_units():
    torch.manual_seed(0)
    ((mask, per),) = masks(RecurrentDropout(cells.LSTMCell(I, 4000), 0.2))
    assert per == "call" and mask.shape == (4000,)
    assert mask.unique().tolist() == pytest.approx([0, 1.25])
    assert mask.mean().item() == pytest.approx(1, abs=0.03)


def test_recurrent_weights_are_found_by_name_in_every_shipped_cell():
    for name, build in cells.CELLS.items():
        cell = build(I, H, **({"proj_size": 3} if name == "projected_lstm" else {}))
        recurrent = [key for key, _ in cell.named_parameters() if "hh" in key and key.startswith("weight_hh")]
        if recurrent:
            assert len(masks(WeightDrop(cell, 0.1))) == len(recurrent)
        else:
            assert name in ("min_gru", "min_lstm")


def test_weights_are_named_by_the_end_of_their_names():
    class Linears(nn.Module):
        def __init__(self):
            super().__init__()
            self.inward, self.across = nn.Linear(I, H), nn.Linear(H, H)

    drop = WeightDrop(WeightDrop(Linears(), 0.1, "across.weight"), 0.2, ["inward.*"])
    assert drop._names == ("cell.inward.weight", "cell.inward.bias")
    assert drop.cell._names == ("across.weight",)


ORDERS = [
    lambda cell: Zoneout(WeightDrop(RecurrentDropout(cell, 0.2), 0.3), 0.1),
    lambda cell: WeightDrop(Zoneout(RecurrentDropout(cell, 0.2), 0.1), 0.3),
    lambda cell: RecurrentDropout(WeightDrop(Zoneout(cell, 0.1), 0.3), 0.2),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["lstm", "gru_reset_before", "lem", "slstm"])
def test_wrappers_nest_in_any_order(order, name):
    torch.manual_seed(0)
    layer = Recurrence(order(cells.find(name)(I, H)))
    x = torch.randn(T, B, I)
    outputs, _ = layer(x)
    again, _ = layer(x)
    assert outputs.isfinite().all() and not torch.equal(outputs, again)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    assert layer(x, lengths=[T, 2, 4])[0].shape == outputs.shape


@pytest.mark.parametrize("wrap", [WeightDrop, RecurrentDropout])
def test_eval_is_exactly_the_cell_inside(wrap):
    inner = cells.LSTMCell(I, H)
    x = torch.randn(T, B, I)
    assert torch.equal(
        Recurrence(wrap(inner, 0.5), backend="eager").eval()(x)[0], Recurrence(inner, backend="eager")(x)[0]
    )


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_flow_through_masks(order):
    torch.manual_seed(0)
    layer = Recurrence(order(cells.PeepholeLSTMCell(2, 3)).double(), backend="eager")
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    names = [key for key, _ in layer.named_parameters()]

    def run(x, *values):
        torch.manual_seed(1)  # the same masks at every evaluation
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(lambda *a: run(*a)[0], (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("order", ORDERS)
def test_every_backend_sees_the_same_masks(order):
    torch.manual_seed(0)
    cell = order(cells.LSTMCell(I, H)).double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    found = {}
    for name in set(backends()) - {"aten"}:
        torch.manual_seed(5)
        found[name] = Recurrence(cell, backend=name)(x)[0]
    for outputs in found.values():
        torch.testing.assert_close(outputs, found["eager"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
def test_checkpoints_move_between_wrapped_and_plain_cells(order):
    plain = cells.LSTMCell(I, H)
    wrapped = order(cells.LSTMCell(I, H))
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    wrapped.load_state_dict(plain.state_dict())
    x, state = torch.randn(B, I), (torch.randn(B, H), torch.randn(B, H))
    inside = wrapped.cell.cell.cell
    assert torch.equal(inside(x, state)[0], plain(x, state)[0])
    plain.load_state_dict(order(cells.LSTMCell(I, H)).state_dict())
    layer = Recurrence(wrapped)
    assert list(layer.state_dict()) == [f"cell.{key}" for key in plain.state_dict()]
    layer.load_state_dict(layer.state_dict())


def test_copies_and_pickles():
    cell = Zoneout(WeightDrop(cells.LSTMCell(I, H), 0.3), (0.1, 0.2))
    x, state = torch.randn(B, I), (torch.randn(B, H), torch.randn(B, H))
    cell.eval()
    expected = cell(x, state)[0]
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert torch.equal(other(x, state)[0], expected)


def test_looks_like_the_cell_inside():
    cell = WeightDrop(Zoneout(cells.LSTMCell(I, H), 0.1), 0.2)
    assert (cell.input_size, cell.hidden_size) == (I, H)
    assert [s.shape for s in cell.initial_state(2)] == [(2, H), (2, H)]
    assert not hasattr(cell, "output")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = cell.no_such_thing


def test_of_makes_a_factory():
    factory = pickle.loads(pickle.dumps(Zoneout.of(WeightDrop.of("lstm", 0.3), (0.1, 0.2))))
    cell = factory(I, H, forget_bias=1.0)
    assert isinstance(cell, Zoneout) and isinstance(cell.cell.cell, cells.LSTMCell)
    assert cell.cell.cell.forget_bias == 1.0
    assert "bias" in factory.__signature__.parameters


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Zoneout(cells.GRUCell(I, H), 1.0),
            "p must be a probability of at least 0 and below 1, got 1.0",
        ),
        (lambda: Zoneout(cells.GRUCell(I, H), True), "p must be a probability"),
        (
            lambda: masks(Zoneout(cells.LSTMCell(I, H), (0.1, 0.1, 0.1))),
            "p has 3 values, LSTMCell has 2 states",
        ),
        (lambda: WeightDrop(cells.MinGRUCell(I, H), 0.1), "no parameter of MinGRUCell matches"),
        (
            lambda: WeightDrop(cells.GRUCell(I, H), 0.1, "w_*"),
            "it has weight_ih, weight_hh, bias_ih, bias_hh",
        ),
        (lambda: masks(Zoneout(nn.GRUCell(I, H), 0.1)), "run one step in eval mode first"),
        (
            lambda: WeightDrop(cells.GRUCell(I, H), 0.1)(torch.zeros(1, I), torch.zeros(1, H)),
            "needs its masks",
        ),
    ],
)
def test_refuses_with_a_reason(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_refuses_a_class():
    with pytest.raises(TypeError, match=r"Zoneout\.of"):
        Zoneout(cells.GRUCell, 0.1)
