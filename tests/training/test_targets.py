"""Names that become objects, and nodes that become what they describe."""

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from rnnlab.cells import WeightDrop
from rnnlab.training.targets import TargetError, build, resolve
from rnnlab.training.trust import allowing


def test_resolve_finds_modules_attributes_and_class_methods() -> None:
    assert resolve("torch.nn.Linear") is nn.Linear
    assert resolve("rnnlab.cells.WeightDrop.of") == WeightDrop.of


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("torch", "not a dotted name"),
        ("", "not a dotted name"),
        (3, "not a dotted name"),
        ("torch.nn.", "not a dotted name"),
        ("torch nn.Linear", "not a dotted name"),
        ("torch.nn.LSTN", "did you mean LSTM?"),
        ("torch.optim.lr_scheduler.EPOCH_DEPRECATION_WARNING", "cannot be called"),
        ("rnnlab.nowhere.Thing", "has no 'nowhere'"),
    ],
)
def test_resolve_refuses(name: object, part: str) -> None:
    with pytest.raises(TargetError, match=part.replace("?", r"\?")):
        resolve(name)


@pytest.fixture
def dictionaries() -> Iterator[None]:
    with allowing("collections"):
        yield


def test_build_builds_inner_nodes_first(dictionaries: None) -> None:
    node = {
        "_target_": "torch.nn.Sequential",
        "_partial_": True,
    }
    assert isinstance(build(node), functools.partial)
    made = build(
        {
            "_target_": "collections.OrderedDict",
            "inner": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
        }
    )
    assert isinstance(made["inner"][0], nn.Linear)


def test_supplied_arguments_complete_and_replace_those_of_the_node() -> None:
    layer = build({"_target_": "torch.nn.Linear", "in_features": 2, "bias": True}, out_features=4, bias=False)
    assert layer.weight.shape == (4, 2)
    assert layer.bias is None


def test_text_that_looks_like_a_reference_passes_as_text(dictionaries: None) -> None:
    words = ["${seed}", "???", "a.b"]
    assert build({"_target_": "collections.OrderedDict"}, vocabulary=words)["vocabulary"] is words


def test_the_constructors_own_error_is_raised() -> None:
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        build({"_target_": "torch.optim.SGD", "lr": -1}, params=[torch.zeros(1)])
