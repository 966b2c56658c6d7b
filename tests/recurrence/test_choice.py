"""The registry of backends: order, refusals, messages, one log line."""

import logging

import pytest
import torch
from example_cells import Leaky
from torch import nn

from rnnlab.recurrence import Recurrence, backends, choice, register


class Doubling:
    """A backend whose results can be told from the others'."""

    name = "doubling"

    def __init__(self, reason=None):
        self.reason = reason
        self.asked = 0

    def refusal(self, call):
        self.asked += 1
        return self.reason

    def run(self, call):
        return 2 * call.x, call.state


@pytest.fixture
def registry(monkeypatch):
    """A registry of this test's own."""
    monkeypatch.setattr(choice, "_backends", list(choice._backends))
    monkeypatch.setattr(choice, "_told", set())


x = torch.randn(3, 2, 4)


@pytest.mark.usefixtures("registry")
def test_auto_takes_the_first_that_does_not_refuse_and_asks_once():
    backend = Doubling()
    register(backend, before=backends()[0])
    assert backends()[0] == "doubling"
    layer = Recurrence(Leaky(4, 4))
    for length in (1, 2, 3):
        outputs, _ = layer(x[:length])
        assert torch.equal(outputs, 2 * x[:length])
    assert backend.asked == 1
    layer(x.double().float().requires_grad_())
    assert backend.asked == 1
    with torch.no_grad():
        layer(x)
    assert backend.asked == 2


@pytest.mark.usefixtures("registry")
def test_auto_passes_over_a_refusal_and_says_so_once_a_class(caplog):
    register(Doubling("it has no kernel today"), before=backends()[0])
    with caplog.at_level(logging.INFO, "rnnlab"):
        for _ in range(2):
            assert Recurrence(Leaky(4, 4)).chosen(x) != "doubling"
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("Leaky runs on backend ")
    assert "doubling: it has no kernel today" in lines[0]


@pytest.mark.usefixtures("registry")
def test_an_explicit_backend_that_refuses_raises_with_reason_and_alternatives():
    register(Doubling("it has no kernel today"))
    with pytest.raises(
        ValueError, match=r"cannot run Leaky: it has no kernel today; what can: 'auto'.*'eager'"
    ):
        Recurrence(Leaky(4, 4), backend="doubling")(x)


def test_aten_names_its_reason_for_a_cell_that_it_does_not_know():
    with pytest.raises(ValueError, match="'aten' cannot run Leaky: PyTorch has kernels for"):
        Recurrence(Leaky(4, 4), backend="aten")(x)


@pytest.mark.usefixtures("registry")
def test_where_all_refuse_all_reasons_are_given(monkeypatch):
    monkeypatch.setattr(choice, "_backends", [Doubling("it rains")])
    with pytest.raises(ValueError, match="no backend can run Leaky: doubling: it rains"):
        Recurrence(Leaky(4, 4))(x)


@pytest.mark.usefixtures("registry")
def test_names_are_unique_and_known():
    register(Doubling())
    with pytest.raises(ValueError, match="'doubling' is registered already"):
        register(Doubling())
    other = Doubling()
    other.name = "tripling"
    with pytest.raises(ValueError, match="unknown backend 'agner'"):
        register(other, before="agner")
    assert "tripling" not in backends()
    with pytest.raises(ValueError, match=r"unknown backend 'egaer': there are 'auto'.*did you mean 'eager'"):
        Recurrence(nn.GRUCell(2, 2), backend="egaer")


def test_a_choice_is_made_anew_when_hooks_or_another_class_appear():
    layer = Recurrence(nn.GRUCell(4, 4))
    first = layer.chosen(x)
    assert first != "eager"
    seen = []
    handle = layer.cell.register_forward_hook(lambda *_: seen.append(1))
    assert layer.chosen(x) == "eager"
    layer(x)
    assert len(seen) == 3
    handle.remove()
    assert layer.chosen(x) == first
