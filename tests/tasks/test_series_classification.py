"""Series: trained, measured, and asked by the commands."""

import json
from pathlib import Path

import pytest
import torch

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.training.run import RunResult, train

QUICK = ["trainer.accelerator=cpu", "logger=none", "callbacks=checkpoint", "examples=2", "seed=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Waves of two frequencies in three channels, one of them noise; told apart by their order alone."""
    folder = tmp_path_factory.mktemp("series")
    generator = torch.Generator().manual_seed(0)
    lines = ["series,label,sine,noise,cosine"]
    for number in range(120):
        steps = int(torch.randint(8, 20, (), generator=generator))
        turn = 0.7 if number % 2 else -0.7
        angles = turn * torch.arange(steps) + 6 * torch.rand((), generator=generator)
        noise = torch.randn(steps, generator=generator)
        label = "left" if number % 2 else "right"
        for angle, extra in zip(angles, noise, strict=True):
            lines.append(f"{number},{label},{angle.sin():.4f},{extra:.4f},{100 * angle.cos():.4f}")
    (folder / "turns.csv").write_text("\n".join(lines))
    words = ["data=series", f"data.source={folder / 'turns.csv'}", "task=series_classification"]
    words += ["task.dense_sizes=[8]", "task.noise=0.1", "task.input_dropout=0.1", "model.hidden_size=12"]
    words += ["optim.lr=0.02", "trainer.max_epochs=15", "data.batch_size=16", f"run_dir={folder / 'run'}"]
    return train(compose([*words, *QUICK]).config)


def test_it_learns_a_turn_that_only_the_order_tells(run: RunResult) -> None:
    assert run.metrics["test/accuracy"] > 0.9
    assert {"test/loss", "test/f1", "val/loss"} <= set(run.metrics)
    assert [set(example) for example in run.examples] == [{"series", "truth", "predicted", "confidence"}] * 2


def test_predict_and_eval_read_files(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.folder.parent / "turns.csv"
    words = ["predict", f"checkpoint={run.folder}", str(file), f"{file}:3", "json=true"]
    assert cli.main(words) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 121
    assert records[-1]["input"] == records[2]["input"]
    assert records[-1]["probabilities"] == pytest.approx(records[2]["probabilities"], abs=1e-5)
    right = [record["label"] == ("right", "left")[n % 2] for n, record in enumerate(records[:120])]
    assert sum(right) > 108
    assert cli.main(["eval", f"checkpoint={run.folder}", f"data.source={file}"]) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("turns.csv:121", "there is no series number 121; .* has 1 to 120"),
        ("basic_motions", "6 channels .*, the model reads 3 \\(sine, noise, cosine\\)"),
        ("nowhere.csv", "cannot be read"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(run: RunResult, word: str, message: str) -> None:
    word = str(run.folder.parent / word) if word.startswith("turns") else word
    with pytest.raises(ValueError, match=message):
        run.task.predict_records([word])


def test_the_checkpoint_weighs_what_the_model_weighs(run: RunResult) -> None:
    assert run.checkpoint is not None
    kept = torch.load(run.checkpoint, weights_only=True)["state_dict"]
    assert set(kept) == {name for name, _ in run.task.named_parameters()}


@pytest.mark.parametrize("name", ["japanese_vowels", "basic_motions", "digits_rows", "digits_pixels"])
def test_each_experiment_trains_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("digits"):
        pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    words = [f"experiment={name}", "debug=fast_dev_run", "logger=none", "model.hidden_size=8", "examples=1"]
    result = train(compose(words).config)
    assert "test/accuracy" in result.metrics
    (record,) = result.task.predict_records([f"{name}:2"])
    assert record["input"] == f"{name}:2"
    assert record["label"] in result.task.labels


def test_all_layers_may_be_pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["experiment=japanese_vowels", "model=all_layers", "debug=fast_dev_run", "logger=none"]
    words += ["model.hidden_size=6", "model.num_layers=3", "task.pooling=last", "examples=0"]
    task = train(compose(words).config).task
    assert task.rnn.output_size == 36
    assert task.head[1].in_features == 36
