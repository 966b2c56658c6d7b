"""Exponents that are known: linear maps, driven scalars, and random networks by mean-field theory."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnlab
from rnnlab.probes import probe
from rnnlab.probes.lyapunov import exponent, local_growth


@pytest.mark.parametrize("eigenvalues", [(0.9, 0.5, 0.2), (1.05, 1.0, 0.3), (-0.8, 0.7, 0.1)])
def test_a_linear_map_has_the_logarithm_of_its_largest_eigenvalue(eigenvalues: tuple[float, ...]) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] + 0.3 * torch.eye(3)
    matrix = turn @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ turn.inverse()
    states = [(torch.zeros(4, 3, dtype=torch.float64),)] * 400
    growth = local_growth([lambda state: (state[0] @ matrix.t(),)] * 400, states)
    found = exponent(growth, transient=0.25)
    assert found.value == pytest.approx(math.log(max(map(abs, eigenvalues))), abs=1e-3)
    assert found.rows == 4


def test_it_is_the_mean_of_what_drives_a_scalar() -> None:
    class Scaled(nn.Module):
        hidden_size = 2

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return x * h + 1

    cell = Scaled()
    cell.initial_state = lambda batch: torch.zeros(batch, 2)
    network = rnnlab.Recurrence(cell)
    x = torch.rand(50, 3, 1, requires_grad=True) + 0.5
    (layer,) = probe(network, lambda: network(x.expand(-1, -1, 2))[0].sum()).layers
    assert layer.growth.numpy() == pytest.approx(x.detach()[..., 0].double().log().numpy(), abs=1e-5)


def test_an_lstm_that_only_remembers_has_the_exponent_of_its_forget_gate() -> None:
    network = rnnlab.DeepRNN("lstm", 2, 3)
    cell = network.layers["l0"].cell
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih[3:6] = 2.0
    x = torch.randn(60, 2, 2)
    (layer,) = probe(network, lambda: network(x)[0].sum() + network(x)[1][1].sum()).layers
    assert layer.exponent.value == pytest.approx(math.log(1 / (1 + math.exp(-2.0))), abs=1e-3)


@pytest.mark.parametrize("gain", [0.5, 1.5, 3.0])
def test_a_random_network_has_the_exponent_of_mean_field_theory(gain: float) -> None:
    """Molgedey, Schuchhardt and Schuster 1992: 1/2 ln(g^2 <phi'^2>), driven by noise of variance s^2."""
    size, steps, noise = 400, 300, 0.5
    weight = torch.randn(size, size) * gain / size**0.5
    state, states, maps = torch.zeros(2, size), [], []
    for _ in range(steps):
        drive = noise * torch.randn(2, size)
        states.append((state,))
        maps.append(lambda s, drive=drive: (torch.tanh(s[0]) @ weight.t() + drive,))
        state = maps[-1](states[-1])[0]
    found = exponent(local_growth(maps, states))
    points, weights = np.polynomial.hermite_e.hermegauss(101)
    weights = weights / weights.sum()
    variance = 1.0
    for _ in range(200):
        variance = gain**2 * float(weights @ np.tanh(variance**0.5 * points) ** 2) + noise**2
    slope = 1 - np.tanh(variance**0.5 * points) ** 2
    expected = 0.5 * math.log(gain**2 * float(weights @ slope**2))
    assert found.value == pytest.approx(expected, abs=0.03)


def test_rows_that_end_early_count_by_their_steps() -> None:
    growth = torch.tensor([[1.0, 3.0], [1.0, math.nan], [1.0, math.nan]], dtype=torch.float64)
    assert exponent(growth, transient=0.0).value == pytest.approx((3 * 1.0 + 3.0) / 4)


def test_the_transient_of_each_row_is_left_out() -> None:
    growth = torch.full((20, 3), 1.0, dtype=torch.float64)
    growth[:2, 0] = growth[8:9, 1] = growth[:1, 2] = 50.0
    growth[:8, 1] = growth[10:, 2] = (
        math.nan
    )  # one that begins late, in the reverse direction, and a short one
    growth[9:18, 1], growth[18:, 1] = 1.0, math.nan
    found = exponent(growth, transient=0.1)
    assert (found.value, found.spread, found.rows) == (1.0, 0.0, 3)


def test_a_difference_that_dies_out_is_told_apart() -> None:
    growth = torch.tensor([[0.1, -math.inf], [0.1, 0.2]], dtype=torch.float64)
    found = exponent(growth, transient=0.0)
    assert (found.value, found.rows, found.died) == (pytest.approx(0.1), 1, 1)
    assert "dies out in 1 of 2 rows" in str(found)
    assert exponent(growth[:, 1:], transient=0.0).value == -math.inf


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g


def test_a_cell_without_a_forward_derivative_says_so_and_the_rest_is_measured() -> None:
    class Custom(nn.Module):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__()
            self.hidden_size = hidden_size
            self.map = nn.Linear(input_size + hidden_size, hidden_size)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return torch.tanh(Straight.apply(self.map(torch.cat([x, h], -1))))

    network = rnnlab.DeepRNN(Custom, 2, 3)
    (layer,) = probe(network, lambda: network(torch.randn(5, 2, 2))[0][-1].sum()).layers
    assert len(layer.curve) == 5
    assert layer.exponent is None
    assert layer.activations is None
    assert set(layer.reasons) == {"lyapunov", "saturation"}
    assert "autograd function" in layer.reasons["saturation"]
