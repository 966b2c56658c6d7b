"""Values against annotations, and whole configurations against signatures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.training.validate import describe, faults, fits, signature

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (1, bool, False),
        (None, int, False),
        (None, int | None, True),
        ("mean", Literal["mean", "max"], True),
        ("sum", Literal["mean", "max"], False),
        (True, Literal[1, 2], False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ([1, 2], Sequence[int], True),
        ("12", Sequence[int], False),
        (8, int | Sequence[int], True),
        ([1.0, 2.0], tuple[float, float], True),
        ([1.0], tuple[float, float], False),
        ([1.0] * 3, tuple[float, ...], True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        ({"a": 1}, int, False),
        ("cpu", torch.device, True),
        ("x.csv", str | Path, True),
        ("0.1", float | torch.Tensor, False),
        (3, Callable[..., Any], False),
        ("name", Callable[..., Any], False),
        ({"_target_": "x.y"}, Callable[..., Any], True),
        ({"_target_": "x.y"}, int, True),
        (object(), Any, True),
    ],
)
def test_fits(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


@given(PLAIN)
def test_every_plain_value_fits_what_it_is_and_any(value: Any) -> None:
    assert fits(value, Any)
    assert fits(value, type(value) if value is not None else None)
    assert fits(value, object)


@given(PLAIN, st.sampled_from([int, float, str, bool, list[int], dict[str, float], Literal["a"], Path]))
def test_none_is_added_by_optional_alone(value: Any, hint: Any) -> None:
    assert fits(value, hint | None) == (value is None or fits(value, hint))


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "an int"),
        (int | None, "an int or null"),
        (float | int, "a number or an int"),
        (Literal["a", "b"], "'a' or 'b'"),
        (list[int], "a list of an int"),
        (Callable[..., Any], "a node with _target_"),
        (dict[str, bool], "a mapping to true or false"),
    ],
)
def test_describe(hint: Any, words: str) -> None:
    assert describe(hint) == words


class Base:
    def __init__(self, width: int, *, depth: int = 1) -> None: ...


class Derived(Base):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)


class Open:
    def __init__(self, **anything: Any) -> None: ...


def test_a_class_that_passes_keywords_on_takes_those_of_its_base() -> None:
    parameters, hints, open_ended = signature(Derived)
    assert list(parameters) == ["width", "depth", "name"]
    assert hints["depth"] is int
    assert not open_ended
    assert signature(Open)[2]


def check(config: dict[str, Any], source: dict[str, Any] | None = None, known: Any = None) -> list[str]:
    return faults(config, source or config, config if known is None else known)


LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}


def test_a_right_node_has_no_faults() -> None:
    assert check({"head": LINEAR}) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"out_feature": 2}, "head.out_feature=2: there is no such key; did you mean head.out_features?"),
        ({"bias": "yes"}, "head.bias='yes': expected true or false, got text"),
        ({"in_features": 2.5}, "head.in_features=2.5: expected an int, got a float"),
        ({"_partial_": "maybe"}, "head._partial_='maybe': expected true or false"),
        (
            {"_target_": "torch.nn.Linaer"},
            "head._target_: torch.nn.Linaer: torch.nn has no 'Linaer'; did you mean",
        ),
        (
            {"_target_": "rnnlab.no_such_module.X"},
            "head._target_: rnnlab.no_such_module.X: rnnlab has no 'no_such_module'",
        ),
    ],
)
def test_a_wrong_node_is_told_with_its_full_key(change: dict[str, Any], line: str) -> None:
    found = check({"head": LINEAR | change})
    assert len(found) == 1
    assert found[0].startswith(line)


def test_missing_arguments_are_asked_for_unless_something_is_to_come() -> None:
    short = {"_target_": "torch.nn.Linear", "in_features": 3}
    assert check({"head": short}) == ["head.out_features: required (an int), but not given"]
    assert check({"head": short | {"_partial_": True}}) == []


def test_nodes_below_nodes_and_lists_are_checked() -> None:
    stack = {"_target_": "torch.nn.ModuleDict", "modules": [LINEAR, {"a": LINEAR | {"bis": True}}]}
    assert check({"stack": stack}) == [
        "stack.modules[1].a.bis=true: there is no such key; did you mean stack.modules[1].a.bias?"
    ]


def test_what_is_referred_to_is_checked_once_where_it_stands() -> None:
    wrong = LINEAR | {"bis": 1}
    resolved = {"head": wrong, "again": {"_target_": "torch.nn.ModuleDict", "modules": wrong}}
    source = {"head": wrong, "again": {"_target_": "torch.nn.ModuleDict", "modules": "${head}"}}
    assert check(resolved, source) == ["head.bis=1: there is no such key; did you mean head.bias?"]


def test_a_misplaced_key_is_found_elsewhere() -> None:
    config = {"head": LINEAR, "out_features": 3}
    known = {"head": LINEAR, "seed": 1}
    assert check(config, known=known) == [
        "out_features=3: there is no such key; did you mean head.out_features?"
    ]


def test_what_the_program_supplies_is_refused() -> None:
    trainer = {"_target_": "lightning.pytorch.Trainer", "logger": True, "max_epochs": 1}
    assert check({"trainer": trainer}) == ["trainer.logger: rnnlab supplies 'logger' itself; choose logger="]


def test_names_of_ones_own_stand_under_vars() -> None:
    assert check({"vars": {"width": 3, "deep": {"er": [1]}}, "seed": 1}) == []
    assert check({"seed": "one"}) == ["seed='one': expected an int, got text"]


def test_a_name_that_an_alias_repeats_is_refused_once() -> None:
    node = {"_target_": "my_cells.Mine"}
    config = {
        "cell": node,
        "model": {"cell": node},
        "task": {"model": {"cell": node, "head": {"_target_": "os.x"}}},
    }
    assert [line.split(":")[0] for line in faults(config, config, config)] == [
        "cell._target_",
        "task.model.head._target_",
    ]
