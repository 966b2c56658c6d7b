"""Swept keys in Hydra's grammar, points, and what makes a job the job that it is."""

import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.completion import SETTINGS
from rnnlab.experiments.sweeps.plan import Axis, Planner, Space, job_id, read_space
from rnnlab.experiments.sweeps.search import draw_points
from rnnlab.experiments.sweeps.settings import KEYS, SweepSettings, split_words
from rnnlab.experiments.sweeps.version import code_version
from rnnlab.training.validate import ConfigError


def test_hydras_grammar_says_what_is_swept() -> None:
    space = read_space(["cell=rnn,gru", "seed=range(3)", "model.hidden_size=[8,4],[16]", "optim.lr=0.1"])
    assert space.fixed == ["optim.lr=0.1"]
    assert [axis.key for axis in space.axes] == ["cell", "seed", "model.hidden_size"]
    assert [axis.values for axis in space.axes] == [("rnn", "gru"), (0, 1, 2), ([8, 4], [16])]
    points = list(space.grid())
    assert len(points) == 12
    assert points[1] == {"cell": "rnn", "seed": 0, "model.hidden_size": [16]}
    assert space.words(points[1]) == ["optim.lr=0.1", "cell=rnn", "seed=0", "model.hidden_size=[16]"]


def test_a_text_with_a_comma_is_one_value() -> None:
    (axis,) = read_space(["data.source='a,b',c"]).axes
    assert axis.values == ("a,b", "c")
    assert axis.word("a,b") == "data.source='a,b'"


def test_a_value_given_twice_is_one_point() -> None:
    assert [axis.values for axis in read_space(["seed=1,2,1"]).axes] == [(1, 2)]


def test_the_options_of_a_group_are_found_by_a_pattern() -> None:
    (axis,) = read_space(["cell=glob(*gru)"]).axes
    assert set(axis.values) >= {"gru", "min_gru", "layer_norm_gru"}
    assert all(value.endswith("gru") for value in axis.values)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("seed=range(0)", "empty range"),
        ("seed=range(3,1)", "empty range"),
        ("optim.lr=interval(1,1)", "empty interval"),
        ("optim.lr=tag(log,interval(0,1))", "positive"),
        ("seed=glob(*)", "is none"),
        ("cell=glob(nothing*)", "no option matches"),
    ],
)
def test_what_holds_nothing_is_refused(word: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        read_space([word])


def test_what_is_swept_is_not_given_again() -> None:
    with pytest.raises(ConfigError, match="seed is swept before"):
        read_space(["seed=1,2", "seed=3"])
    with pytest.raises(ConfigError, match="seed is swept before"):
        read_space(["seed=1,2", "seed=3,4"])
    space = read_space(["seed=3", "seed=1,2", "optim.lr=1", "optim.lr=2"])
    assert space.words({"seed": 2}) == ["optim.lr=1", "optim.lr=2", "seed=2"]


def test_an_interval_has_no_grid() -> None:
    with pytest.raises(ConfigError, match="no grid"):
        list(read_space(["optim.lr=interval(0.1,1)"]).grid())


@given(
    low=st.integers(1, 50),
    width=st.integers(1, 50),
    uniform=st.floats(0, 1, exclude_max=True),
    log=st.booleans(),
    integer=st.booleans(),
)
def test_what_is_drawn_lies_in_the_interval(
    low: int, width: int, uniform: float, log: bool, integer: bool
) -> None:
    axis = Axis("x", low=low, high=low + width, integer=integer, log=log)
    value = axis.draw(uniform)
    assert low <= value <= (low + width) * (1 + 1e-12)
    assert isinstance(value, int) == integer


@given(st.integers(0, 1000), st.integers(1, 8))
def test_more_draws_begin_with_the_same_ones(seed: int, number: int) -> None:
    space = Space([], [Axis("a", (1, 2, 3), ("1", "2", "3")), Axis("b", low=0.0, high=1.0)])
    assert draw_points(space, number + 2, seed)[:number] == draw_points(space, number, seed)


def test_a_small_space_is_drawn_wholly_and_once() -> None:
    points = draw_points(Space([], [Axis("a", (1, 2, 3), ("1", "2", "3"))]), 10, 0)
    assert sorted(point["a"] for point in points) == [1, 2, 3]


def test_a_job_is_known_by_what_it_comes_to(small: list[str], tmp_path: Path) -> None:
    def name(*words: str) -> str:
        space = read_space([*small, *words])
        return Planner(space, tmp_path).plan({}, 0).job.id

    one = name("cell=gru", "seed=2", "optim.weight_decay=0.0")
    assert name("+seed=2", "optim.weight_decay=0.0", "cell=gru", "name=other") == one
    assert name("cell=gru", "seed=3", "optim.weight_decay=0.0") != one
    assert one == job_id(*_content(small, tmp_path))


def _content(small: list[str], tmp_path: Path) -> tuple[dict[str, object], str]:
    from rnnlab.experiments.compose import compose
    from rnnlab.experiments.sweeps.plan import _resolved

    config = _resolved(compose([*small, "cell=gru", "seed=2", "optim.weight_decay=0.0"]).config)
    return config, code_version(config)


def test_every_fault_of_every_point_is_told_once(small: list[str], tmp_path: Path) -> None:
    space = read_space([*small, "model.hiden_size=8", "optim.weight_decay=-1,0", "seed=1,2"])
    with pytest.raises(ConfigError) as caught:
        Planner(space, tmp_path).plan_all(list(space.grid()))
    faults = caught.value.faults
    assert len([line for line in faults if "did you mean model.hidden_size" in line]) == 1
    assert any("weight_decay=-1" in line for line in faults)


def test_the_code_of_a_users_own_module_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = set()
    for index, text in enumerate(("x = 1\n", "x = 2\n")):
        (tmp_path / f"my_cells_{index}.py").write_text(text, encoding="utf-8")
        versions.add(code_version({"cell": {"_target_": f"my_cells_{index}.Cell"}}))
    versions.add(code_version({"cell": {"_target_": "rnnlab.cells.GRUCell"}}))
    assert len(versions) == 3


def test_the_sweeps_own_words_are_told_from_those_of_its_runs() -> None:
    settings, rest = split_words(
        [
            "cell=gru,lstm",
            "launcher=joblib",
            "workers=2",
            "metric=val/loss,seconds",
            "seed=1",
            "fail_fast=true",
        ]
    )
    assert rest == ["cell=gru,lstm", "seed=1"]
    assert (settings.launcher, settings.workers, settings.fail_fast) == ("joblib", 2, True)
    assert settings.metric == ["val/loss", "seconds"]


def test_every_setting_of_a_sweep_is_completed() -> None:
    offered = {word.partition("=")[0].partition(".")[0] for word in SETTINGS["sweep"]}
    assert offered == set(KEYS)
    for word in SETTINGS["sweep"]:
        key, _, value = word.partition("=")
        if value and "." not in key:
            hint = typing.get_type_hints(SweepSettings)[key]
            assert value in str(hint) or hint is bool


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["launcher=jobli"], "did you mean joblib"),
        (["workers=0", "launcher=joblib"], "workers=0"),
        (["workers=2"], "choose launcher=joblib"),
        (["retries=x"], "retries=x: expected an int"),
        (["trials=5"], "a grid runs all its points"),
        (["search=tpe"], "give trials=N"),
        (["search=random", "trials=3", "pruner=median"], "does not prune"),
        (["run_dir=x"], "sweep_dir=FOLDER"),
        (["submitit.cluster=local"], "launcher=submitit"),
        (["metric=val/loss", "mode=min,max"], "give one for each"),
    ],
)
def test_wrong_settings_of_the_sweep_are_refused(words: list[str], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        split_words(words)


def test_two_options_of_a_group_and_no_sweep_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        read_space(["cell=lstm", "cell=gru", "seed=1", "seed=2", "callbacks=none", "callbacks=curve"])
    told = "nothing is swept, and of cell=lstm and cell=gru a run takes one; several values are one word: "
    assert caught.value.faults == [told + "cell=lstm,gru"]
    space = read_space(["cell=lstm", "cell=gru", "seed=1,2"])
    assert space.words({"seed": 1}) == ["cell=lstm", "cell=gru", "seed=1"]
