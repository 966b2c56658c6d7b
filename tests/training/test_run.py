"""A run: what it leaves, that it learns, that it repeats, and that a wrong one leaves nothing."""

import csv
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.training.run import RunResult, train
from rnnlab.training.validate import ConfigError


def test_a_run_leaves_everything_about_itself(run: RunResult) -> None:
    left = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    assert left == {
        "config.yaml",
        "overrides.yaml",
        "environment.yaml",
        "metrics.csv",
        "learning_curve.png",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "checkpoints/manifest.json",
    }
    config = OmegaConf.to_container(OmegaConf.load(run.folder / "config.yaml"), resolve=False)
    assert isinstance(config, dict)
    assert "${" not in str(config)
    assert config["seed"] == config["data"]["seed"] == 1
    assert config["run_dir"] == str(run.folder)
    environment = OmegaConf.load(run.folder / "environment.yaml")
    assert environment.packages.torch == torch.__version__
    assert environment.threads >= 1


def test_a_run_learns_and_says_so(run: RunResult) -> None:
    assert run.metrics["test/accuracy"] > 0.9
    assert run.task.headline in run.metrics
    assert len(run.examples) == 2
    assert run.checkpoint == run.folder / "checkpoints" / "best.ckpt"
    assert not run.interrupted


def test_metrics_are_one_row_a_step(run: RunResult) -> None:
    with (run.folder / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    assert len([row for row in rows if row["val/accuracy"]]) == 3
    assert float(rows[-1]["test/accuracy"]) == pytest.approx(run.metrics["test/accuracy"])


def test_the_learning_curve_is_a_picture_with_something_on_it(run: RunResult) -> None:
    with Image.open(run.folder / "learning_curve.png") as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    small: list[str], run: RunResult, tmp_path: Path
) -> None:
    results = {}
    for seed in (1, 2):
        words = [*small, f"seed={seed}", f"run_dir={tmp_path / str(seed)}", "callbacks=none"]
        words += ["trainer.max_steps=3", "test=false", "examples=0", "logger=none"]
        results[seed] = train(compose(words).config).task.state_dict()
        again = train(compose([*words, f"run_dir={tmp_path / f'{seed}b'}"]).config).task.state_dict()
        assert all(torch.equal(results[seed][key], again[key]) for key in again)
    assert any(not torch.equal(results[1][key], results[2][key]) for key in results[1])


def test_a_plain_mapping_will_do(small: list[str], tmp_path: Path) -> None:
    config = OmegaConf.to_container(compose([*small, f"run_dir={tmp_path / 'run'}"]).config, resolve=True)
    assert isinstance(config, dict)
    config["trainer"]["fast_dev_run"] = True
    assert train({str(key): value for key, value in config.items()}).folder == tmp_path / "run"


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("data.source=nowhere.tsv", "nowhere.tsv"),
        ("data.text_column=txt", "txt"),
        ("task.label_smoothing=2", "task: label_smoothing"),
        ("trainer.accelerator=abacus", "abacus"),
        ("run_dir=taken", "exists already"),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(
    word: str, part: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note").write_text("mine", encoding="utf-8")
    with pytest.raises(Exception, match=part) as caught:
        train(compose([*small, word]).config)
    assert isinstance(caught.value, ValueError | FileNotFoundError) or "Misconfiguration" in repr(
        caught.value
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["note", "taken"]


def test_a_logger_whose_package_is_missing_names_the_extra(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'rnnlab\[mlflow\]'"):
        train(compose([*small, "logger=mlflow"]).config)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_writes_beside_the_csv(small: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = [
        *small,
        "logger=tensorboard",
        f"run_dir={tmp_path / 'run'}",
        "trainer.max_epochs=1",
        "test=false",
    ]
    result = train(compose(words).config)
    assert list((result.folder / "tensorboard").glob("events.out.tfevents.*"))
    assert (result.folder / "metrics.csv").is_file()


def test_an_interrupt_keeps_what_was_learned_and_exits_with_130(small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [
        *small,
        "trainer.max_epochs=100000",
        "trainer.check_val_every_n_epoch=100000",
        f"run_dir={folder}",
    ]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background jobs inherit it
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "rnnlab", "train", *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 3/"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in out
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] > 0


def test_two_runs_of_the_same_second_have_a_folder_each(small: list[str], tmp_path: Path) -> None:
    words = [*small, f"output_dir={tmp_path}", "name=twin", "trainer.max_steps=1", "test=false", "examples=0"]
    folders = {train(compose(words).config).folder for _ in range(2)}
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "twin" for folder in folders)
    assert time.strftime("%Y") in next(iter(folders)).name


def test_a_long_example_is_cut_on_screen_and_kept_for_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=adding", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=1", "examples=1"]
    words += ["data.length=60", "data.epoch_size=64", "data.eval_size=8", "model.hidden_size=4"]
    train(compose(words).config, console=True)
    said = capsys.readouterr().out
    hint = next(line for line in said.splitlines() if "rnnlab predict" in line).split()
    file = Path(hint[-1].removeprefix("file="))
    assert len(file.read_text(encoding="utf-8").split()) == 60
    assert "…" in said
    assert cli.main(hint[1:]) == 0


@pytest.mark.parametrize(
    ("start", "shown"),
    [("'kay", "\"'kay film"), ("--", "-- '-- film"), ("good=fine", "-- 'good=fine film")],
)
def test_what_is_shown_to_be_run_next_runs(
    start: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my reviews.tsv"
    lines = [f"{start} film number {i}\t{'good' if i % 2 else 'bad'}" for i in range(60)]
    file.write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    words = ["data=texts", f"data.source='{file}'", "data.min_count=1", "model.hidden_size=4", "examples=1"]
    words += ["model.backend=eager", "trainer.max_steps=1", f"run_dir='{tmp_path / 'a run'}'"]
    train(compose(words).config, console=True)
    hints = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  rnnlab ")]
    assert [shlex.split(hint)[1] for hint in hints] == ["eval", "predict"]
    assert shown in hints[1]
    for hint in hints:
        assert cli.main(shlex.split(hint)[1:]) == 0


def test_commands_that_are_shown_name_what_the_user_has_to_trust() -> None:
    from rnnlab.training.run import _trust
    from rnnlab.training.trust import allowing

    assert _trust() == []
    with allowing("my_cells", "my_data"):
        assert _trust() == ["allow=my_cells,my_data"]
