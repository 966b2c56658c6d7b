"""Names that become objects, and nodes that become what they describe."""

import functools

import pytest
import torch
from torch import nn

from rnnlab.training.targets import TargetError, build, resolve


def test_resolve_finds_modules_attributes_and_methods() -> None:
    assert resolve("torch.nn.Linear") is nn.Linear
    assert resolve("torch.nn.Linear.forward") is nn.Linear.forward


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("torch", "not a dotted name"),
        ("", "not a dotted name"),
        (3, "not a dotted name"),
        ("torch.nn.", "not a dotted name"),
        ("torch nn.Linear", "not a dotted name"),
        ("torch.nn.LSTN", "did you mean LSTM?"),
        ("os.name", "cannot be called"),
        ("nowhere.Thing", "there is no module 'nowhere'"),
    ],
)
def test_resolve_refuses(name: object, part: str) -> None:
    with pytest.raises(TargetError, match=part.replace("?", r"\?")):
        resolve(name)


def test_build_builds_inner_nodes_first() -> None:
    node = {
        "_target_": "torch.nn.Sequential",
        "_partial_": True,
    }
    assert isinstance(build(node), functools.partial)
    made = build(
        {
            "_target_": "builtins.dict",
            "inner": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
        }
    )
    assert isinstance(made["inner"][0], nn.Linear)


def test_supplied_arguments_complete_and_replace_those_of_the_node() -> None:
    layer = build({"_target_": "torch.nn.Linear", "in_features": 2, "bias": True}, out_features=4, bias=False)
    assert layer.weight.shape == (4, 2)
    assert layer.bias is None


def test_text_that_looks_like_a_reference_passes_as_text() -> None:
    words = ["${seed}", "???", "a.b"]
    assert build({"_target_": "builtins.dict"}, vocabulary=words)["vocabulary"] is words


def test_the_constructors_own_error_is_raised() -> None:
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        build({"_target_": "torch.optim.SGD", "lr": -1}, params=[torch.zeros(1)])
