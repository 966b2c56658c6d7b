"""States of any structure."""

import pytest
import torch

from rnnlab import DeepRNN
from rnnlab.nn.states import InitialState, detached, map_state


def test_the_structure_stays():
    state = (torch.ones(2), (torch.ones(3), torch.ones(4)))
    doubled = map_state(lambda s: 2 * s, state)
    assert [doubled[0].tolist(), doubled[1][1].tolist()] == [[2.0] * 2, [2.0] * 4]
    assert map_state(torch.neg, None) is None
    assert not detached(torch.ones(1, requires_grad=True) * 2).requires_grad


@pytest.mark.parametrize(
    ("cell", "hidden_size", "layers"),
    [("gru", 5, 1), ("lstm", 5, 2), ("lstm", [5, 3], 1), (["lstm", "gru"], 4, 1)],
)
def test_a_vector_becomes_the_first_state_of_any_stack(cell, hidden_size, layers):
    model = DeepRNN(cell, 7, hidden_size, layers)
    start = InitialState(model, 7, 4)
    condition = torch.randn(3, 4)
    outputs, _ = model(torch.randn(2, 3, 7), start(condition))
    outputs.sum().backward()
    assert start.linear.weight.grad is not None
    assert (start.linear.weight.grad != 0).any(dim=1).all()
    # A row's state depends on its own condition alone.
    one, all_rows = start(condition[1:2]), start(condition)
    if model.stacked_state:
        pairs = zip(*((s,) if isinstance(s, torch.Tensor) else s for s in (one, all_rows)), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a[:, 0], b[:, 1])
