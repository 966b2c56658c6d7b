"""Each named initialiser does what its name says, gate by gate."""

import pytest
import torch
from torch import nn

from rnnlab import cells
from rnnlab.cells.init import INITIALISERS


def gates(weight, size):
    return weight.detach().split(size)


def is_orthogonal(matrix):
    rows, columns = matrix.shape
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return torch.allclose(product, torch.eye(min(rows, columns)), atol=1e-5)


@pytest.mark.parametrize("init", ["orthogonal", "xavier_orthogonal"])
def test_each_gates_recurrent_matrix_is_orthogonal(init):
    cell = cells.LSTMCell(5, 6, init=init)
    assert all(is_orthogonal(gate) for gate in gates(cell.weight_hh, 6))
    assert not cell.bias_ih.any()
    assert not cell.bias_hh.any()


def test_orthogonal_and_xavier_differ_in_the_input_weights():
    assert all(is_orthogonal(gate) for gate in gates(cells.GRUCell(9, 6, init="orthogonal").weight_ih, 6))
    cell = cells.GRUCell(90, 60, init="xavier_orthogonal")
    bound = (6 / (90 + 60)) ** 0.5
    for gate in gates(cell.weight_ih, 60):
        assert bound * 0.95 < gate.abs().max() <= bound


def test_identity_starts_as_an_integrator():
    cell = cells.RNNCell(3, 4, nonlinearity="relu", init="identity")
    assert torch.equal(cell.weight_hh, torch.eye(4))
    assert cell.weight_ih.abs().max() < 0.01


def test_torch_draws_uniformly_within_the_usual_bound():
    cell = cells.GRUCell(50, 64, init="torch")
    for parameter in cell.parameters():
        assert 0.9 / 8 < parameter.abs().max() <= 1 / 8


def test_a_function_initialises_too():
    def ones(cell: nn.Module) -> None:
        for parameter in cell.parameters():
            nn.init.ones_(parameter)

    assert cells.GRUCell(2, 3, init=ones).weight_hh.eq(1).all()


@pytest.mark.parametrize("init", INITIALISERS)
def test_every_initialiser_takes_every_standard_cell(init):
    for cell in (cells.RNNCell(3, 4, init=init), cells.LSTMCell(3, 4, False, init=init)):
        assert all(parameter.isfinite().all() for parameter in cell.parameters())
