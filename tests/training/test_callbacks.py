"""The line of progress in a terminal and in a file, and a metric that does not exist."""

import io
from pathlib import Path

import pytest

from rnnlab.experiments.compose import compose
from rnnlab.training.callbacks import LearningCurve, Progress
from rnnlab.training.run import train


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, small: list[str], folder: Path) -> str:
    words = [
        *small,
        f"run_dir={folder}",
        "callbacks=none",
        "logger=none",
        "examples=0",
        "trainer.max_epochs=2",
    ]
    train(compose(words).config, callbacks=[Progress(refresh_s=1e-9, stream=stream)])
    return stream.getvalue()


def test_a_file_gets_one_line_an_epoch(small: list[str], tmp_path: Path) -> None:
    lines = told(io.StringIO(), small, tmp_path / "run").splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("val/accuracy 0." in line or "val/accuracy 1." in line for line in lines)


def test_a_terminal_gets_a_line_that_is_rewritten(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    text = told(Terminal(), small, tmp_path / "run")
    updates = [part for part in text.split("\r\033[K") if part and "\n" not in part]
    assert any("batches/s" in update and "left" in update for update in updates)
    assert any("validating" in update for update in updates)
    assert max(map(len, updates)) <= 71


def test_a_metric_that_does_not_exist_is_refused_at_the_first_validation(
    small: list[str], tmp_path: Path
) -> None:
    words = [*small, f"run_dir={tmp_path / 'run'}", "callbacks.checkpoint.monitor=val/acuracy"]
    with pytest.raises(ValueError, match=r"monitor=val/acuracy: .* there are .*val/accuracy"):
        train(compose(words).config)
    assert (tmp_path / "run" / "error.txt").is_file()


def test_early_stopping_watches_the_tasks_metric(small: list[str], tmp_path: Path) -> None:
    words = [*small, f"run_dir={tmp_path / 'run'}", "callbacks=early_stopping", "trainer.max_epochs=40"]
    result = train(compose([*words, "callbacks.early_stopping.patience=1", "test=false"]).config)
    assert result.trainer.early_stopping_callback.monitor == "val/accuracy"
    assert result.trainer.current_epoch < 40


@pytest.mark.parametrize(
    "make", [lambda: Progress(refresh_s=0), lambda: LearningCurve("x.png", width_inch=0)]
)
def test_sizes_are_positive(make) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        make()


def test_an_epoch_without_a_validation_repeats_no_older_measures(small: list[str], tmp_path: Path) -> None:
    stream = io.StringIO()
    words = [*small, f"run_dir={tmp_path / 'run'}", "callbacks=none", "logger=none", "examples=0"]
    words += ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2", "test=false"]
    train(compose(words).config, callbacks=[Progress(stream=stream)])
    lines = stream.getvalue().splitlines()
    assert ["val/" in line for line in lines] == [False, True, False, True]
    assert all("train/loss" in line for line in lines)
