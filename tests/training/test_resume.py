"""A run that was stopped and goes on is, to the bit, the run that was never stopped."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from rnnlab.experiments.compose import compose
from rnnlab.training.run import RunResult, train
from rnnlab.training.validate import ConfigError

VERSES = [
    f"In the {n}th year the {word} came unto him and said {n * 7}\n" for n in range(40) for word in "ab"
]
TEXT = [
    "data=text",
    "data.window=16",
    "data.batch_size=4",
    "data.vary_window=true",
    "model.hidden_size=8",
    "model.num_layers=2",
    "model.bidirectional=false",
    "model.dropout=0.3",
    "task.embedding_size=8",
    "task.output_dropout=0.2",
    "trainer.max_epochs=3",
]
QUIET = ["trainer.accelerator=cpu", "examples=0", "callbacks=checkpoint", "threads=1"]


class Stop(pl.Callback):
    """Sends a signal to its own process after a step, or in the middle of a validation."""

    def __init__(self, step: int, validating: bool = False) -> None:
        self.step, self.validating = step, validating

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step and not self.validating:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 >= self.step and self.validating:
            self.validating, self.step = False, -1
            os.kill(os.getpid(), signal.SIGTERM)


class Batches(pl.Callback):
    """What each batch held."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch.inputs.clone())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "verses.txt"
    file.write_text("".join(VERSES), encoding="utf-8")
    return file


def equal(left: Any, right: Any) -> bool:
    """Whether two nests of containers hold the same bits."""
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def assert_same(straight: RunResult, resumed: RunResult) -> None:
    assert equal(straight.task.state_dict(), resumed.task.state_dict())
    assert straight.metrics == resumed.metrics
    rows = [(result.folder / "metrics.csv").read_bytes() for result in (straight, resumed)]
    assert rows[0] == rows[1]
    last, other = (
        torch.load(result.folder / "checkpoints" / "last.ckpt", weights_only=True)
        for result in (straight, resumed)
    )
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "resume"):
        assert equal(last[key], other[key]), key
    assert last.get("current_model_state", {}).keys() == other.get("current_model_state", {}).keys()
    assert equal(last.get("current_model_state"), other.get("current_model_state"))


def stop_and_go(words: Sequence[str], folder: Path, stops: Sequence[Stop]) -> tuple[RunResult, RunResult]:
    """The run without a stop, and the same with stops; all batches of both were the same."""
    whole, parts = Batches(), Batches()
    straight = train(compose([*words, f"run_dir={folder / 'straight'}"]).config, callbacks=[whole])
    config = compose([*words, f"run_dir={folder / 'stopped'}"]).config
    result = train(config, callbacks=[stops[0], parts])
    for stop in [*stops[1:], None]:
        assert result.interrupted and result.exit_status == 128 + signal.SIGTERM
        # The batch that was fetched when the run was stopped was seen, and not trained on.
        more = [stop] if stop else []
        del parts.seen[result.trainer.fit_loop.epoch_loop.batch_progress.total.processed :]
        result = train(resume=result.folder, callbacks=[*more, parts])
    assert not result.interrupted
    assert equal(whole.seen, parts.seen)
    return straight, result


CASES = {
    "length buckets, dropout, schedule": ([], [Stop(7)]),
    "twice within an epoch": ([], [Stop(3), Stop(9)]),
    "before a validation": ([], [Stop(13)]),
    "in a validation": ([], [Stop(13, validating=True)]),
    "validations within an epoch": (["trainer.val_check_interval=4"], [Stop(4, validating=True), Stop(21)]),
    "without validation, between epochs": (
        ["trainer.limit_val_batches=0", "test=false"],
        [Stop(13), Stop(17)],
    ),
    "accumulated gradients": (["trainer.accumulate_grad_batches=3"], [Stop(7), Stop(12)]),
    "workers with batches in flight": (["data.num_workers=2"], [Stop(5)]),
    "a schedule of epochs": (["schedule=decay_after", "schedule.epochs=1"], [Stop(5), Stop(20)]),
    "steps, not epochs": (["trainer.max_steps=30", "trainer.max_epochs=-1"], [Stop(6), Stop(13), Stop(27)]),
    "part of each epoch": (["trainer.limit_train_batches=5"], [Stop(3), Stop(5), Stop(8)]),
}


@pytest.mark.parametrize("name", CASES)
def test_classification_goes_on_to_the_bit(name: str, small: list[str], tmp_path: Path) -> None:
    words, stops = CASES[name]
    assert_same(*stop_and_go([*small, *QUIET, *words], tmp_path, stops))


@pytest.mark.parametrize("stops", [[Stop(5)], [Stop(11), Stop(30)]])
def test_a_language_model_carries_its_state_on_to_the_bit(
    stops: list[Stop], text: Path, tmp_path: Path
) -> None:
    words = [*TEXT, "task=language_model", f"data.source={text}", *QUIET]
    assert_same(*stop_and_go(words, tmp_path, stops))


@pytest.mark.parametrize("step", [20, 45])
def test_averaged_weights_go_on_to_the_bit(step: int, text: Path, tmp_path: Path) -> None:
    words = [*TEXT, "task=language_model", f"data.source={text}", "trainer.accelerator=cpu", "threads=1"]
    words += ["optim=sgd", "optim.lr=3.0", "schedule=constant", "trainer.max_epochs=4", "examples=0"]
    words += ["callbacks=nt_asgd", "callbacks.nt_asgd.patience=1", "~callbacks.curve"]
    assert_same(*stop_and_go(words, tmp_path, [Stop(step)]))


def test_an_end_before_the_point_that_was_reached_is_refused_and_not_remembered(
    small: list[str], tmp_path: Path
) -> None:
    words = [*small, *QUIET, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=2", "test=false"]
    before = train(compose(words).config)
    kept = (before.folder / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"trainer.max_epochs=1: the run has trained 2 epochs"):
        train(compose([*words, "trainer.max_epochs=1"]).config, resume=before.folder)
    assert (before.folder / "config.yaml").read_bytes() == kept
    assert train(None, resume=before.folder).trainer.global_step == before.trainer.global_step
