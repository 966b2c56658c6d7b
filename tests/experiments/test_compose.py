"""Composition: whose file wins, what a word may say, and that all faults come together."""

from pathlib import Path

import pytest

from rnnlab.experiments.compose import compose
from rnnlab.experiments.groups import read_groups, search_path
from rnnlab.training.validate import ConfigError


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's folder: an experiment, a cell of the shipped name, and a new group."""
    for group, option, text in (
        (
            "experiment",
            "narrow",
            "# @package _global_\ndefaults:\n  - override /cell: gru\n"
            "vars: {width: 24}\nmodel: {hidden_size: '${vars.width}'}\n",
        ),
        ("cell", "rnn", "_target_: torch.nn.RNNCell\n_partial_: true\n"),
        ("extra", "loud", "# @package _global_\nseed: 7\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{option}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def lines(*words: str, config_dir: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(words, config_dir=None if config_dir is None else str(config_dir))
    return caught.value.faults


def test_words_choose_groups_and_set_values() -> None:
    composed = compose(["cell=gru", "model.num_layers=3", "model.hidden_size=[32,16,8]", "seed=5"])
    assert composed.config.cell._target_ == "rnnlab.cells.GRUCell"
    assert list(composed.config.model.hidden_size) == [32, 16, 8]
    assert composed.config.data.seed == 5
    assert composed.config.name == composed.choices["task"] == "sentiment"
    assert composed.overrides[0] == "cell=gru"


def test_a_users_file_wins_over_the_shipped_one_and_new_ones_are_found(mine: Path) -> None:
    composed = compose(["experiment=narrow"], config_dir=str(mine))
    assert composed.config.name == "narrow"
    assert composed.config.model.hidden_size == 24
    assert composed.config.cell._target_ == "rnnlab.cells.GRUCell"
    assert compose(["cell=rnn"], config_dir=str(mine)).config.cell._target_ == "torch.nn.RNNCell"
    assert compose(["extra=loud"], config_dir=str(mine)).config.seed == 7


def test_a_users_folder_is_forgotten_afterwards(mine: Path) -> None:
    compose(["cell=rnn"], config_dir=str(mine))
    assert compose(["cell=rnn"]).config.cell._target_ == "rnnlab.cells.RNNCell"
    assert "did you mean" not in lines("experiment=narrow")[0]


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_plus_changes_nothing(plus: str) -> None:
    assert compose([f"{plus}cell=gru", f"{plus}model.num_layers=2"]).config.model.num_layers == 2
    assert lines(f"{plus}model.nun_layers=2") == [
        "model.nun_layers=2: there is no such key; did you mean model.num_layers?"
    ]


def test_an_argument_that_no_file_lists_can_be_set() -> None:
    assert compose(["trainer.benchmark=true"]).config.trainer.benchmark is True


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("cel=gru", "cel='gru': there is no such key; did you mean cell?"),
        ("cell=gruu", "cell=gruu: there is no such option; did you mean cell=gru?"),
        ("hidden_size=3", "hidden_size=3: there is no such key; did you mean model.hidden_size?"),
        ("trainer.lr=3", "trainer.lr=3: there is no such key; did you mean optim.lr?"),
        ("foo", "'foo': a setting is written key=value"),
        ("model.hidden_size=[1", "'model.hidden_size=[1': "),
        (
            "model.hidden_size=${nowhere}",
            "model.hidden_size=${nowhere}: Interpolation key 'nowhere' not found",
        ),
        ("cell=lstm,gru", "cell=lstm,gru: several values are a sweep"),
        ("trainer.max_epochs=range(3)", "trainer.max_epochs=range(3): several values are a sweep"),
        ("~model.nothing", "~model.nothing: there is no key model.nothing to take away"),
        ("~task.model", "task"),
        ("data=texts", "data.source=null: expected text, got null"),
        ("hydra.run.dir=x", "hydra={'run': {'dir': 'x'}}: there is no such key"),
        ("task.model.hidden_size=3", "task.model"),
        ("model.backend=3", "model.backend=3: expected text, got an int"),
        (
            "callbacks.checkpont.save_last=false",
            "callbacks.checkpont={'save_last': False}: there is no such key",
        ),
    ],
)
def test_faults(word: str, start: str) -> None:
    if word == "~task.model":  # what is then missing is known only when the task is built
        assert "model" not in compose([word]).config.task
        return
    found = lines(word)
    assert len(found) == 1
    assert found[0].startswith(start)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("cell=[lstm,gru]", "cell=[lstm,gru]: a run takes one of them; to train with each: {} cell=lstm,gru"),
        ("+cell=[gru,rnn]", "cell=[gru,rnn]: a run takes one of them; to train with each: {} cell=gru,rnn"),
        (
            "data=[texts,reviews]",  # the first inherits the class that the second names
            "data=[texts,reviews]: a run takes one of them; to train with each: {} data=texts,reviews",
        ),
        (
            "experiment=[copy,jsb]",  # both choose the data
            "experiment=[copy,jsb]: a run takes one of them; to train with each: {} experiment=copy,jsb",
        ),
        ("seed=[1,2]", "seed=[1, 2]: expected an int, got a list; to train with each: {} seed=1,2"),
        (
            "model.merge=[sum,mean]",
            "model.merge=['sum', 'mean']: expected 'concat' or 'sum' or 'mean' or 'mul', got a list; "
            "to train with each: {} model.merge=sum,mean",
        ),
        ("seed=[1,x]", "seed=[1, 'x']: expected an int, got a list"),
        ("cell=lstm,gru", "cell=lstm,gru: several values are a sweep: {} cell=lstm,gru"),
        ("seed=range(3)", "seed=range(3): several values are a sweep: {} 'seed=range(3)'"),
        ("name=a,b", "name=a,b: several values are a sweep: {} name=a,b; a text that has commas is quoted"),
        (
            "logger=csv,tensorboard",
            "logger=csv,tensorboard: several values are a sweep: {} logger=csv,tensorboard; "
            "all of them in one run: 'logger=[csv,tensorboard]'",
        ),
        ("logger=null", "logger=null: there is no such option; did you mean logger=none?"),
    ],
)
def test_who_means_a_sweep_is_told_how_it_is_written(word: str, told: str) -> None:
    assert lines(word) == [told.format("rnnlab sweep")]


def test_a_list_of_options_that_lie_beside_each_other_is_one_run() -> None:
    composed = compose(["callbacks=[default,watch]", "logger=[csv,tensorboard]", "debug=[limit,profile]"])
    assert {"checkpoint", "gradients"} <= set(composed.config.callbacks)
    assert set(composed.config.logger) == {"csv", "tensorboard"}
    assert composed.config.trainer.log_every_n_steps == 1
    assert composed.config.trainer.profiler.filename == "profile"


def test_of_a_setting_given_twice_the_later_word_holds() -> None:
    config = compose(["cell=lstm", "cell=gru", "seed=1", "seed=2", "debug=limit", "debug=null"]).config
    assert config.cell._target_ == "rnnlab.cells.GRUCell"
    assert config.seed == 2
    assert config.trainer.limit_train_batches != 0.01


def test_faults_of_all_kinds_come_together_and_once() -> None:
    found = lines("cell=gruu", "trainer=gpus", "model.hiden_size=1", "+model.hiden_size=1", "seed=x", "foo")
    assert len(found) == 5


def test_a_key_that_a_file_misspells_is_told_as_well(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nsead: 3\nmodel: {hiden_size: 3}\noptimizer: {lr: 1}\n"
    (tmp_path / "experiment" / "wrong.yaml").write_text(text, encoding="utf-8")
    found = lines("experiment=wrong", config_dir=tmp_path)
    assert sorted(line.split("=")[0] for line in found) == ["model.hiden_size", "optimizer", "sead"]


def test_groups_of_both_folders_are_listed(mine: Path) -> None:
    groups = read_groups(search_path(str(mine)))
    assert groups["cell"]["rnn"].parent == mine / "cell"
    assert {"lstm", "gru"} <= set(groups["cell"])
    assert list(groups["extra"]) == ["loud"]


def test_a_file_that_is_no_plain_yaml_is_refused_among_several_as_well(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "odd.yaml").write_text(
        "bias: !!python/object/apply:os.getcwd []\n", encoding="utf-8"
    )
    for word in ("cell=odd", "cell=[odd,lstm]"):
        assert "python/object/apply:os.getcwd" in lines(word, config_dir=tmp_path)[0]
