"""Forecasts: trained, measured against naive ones, drawn, and asked by `predict`."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rnnlab import DeepRNN, cli
from rnnlab.experiments.compose import compose
from rnnlab.tasks.forecasting import Forecasting
from rnnlab.training.run import RunResult, train

FACTS: dict[str, Any] = {
    "columns": ["a", "b"],
    "targets": ["b"],
    "mean": [1.0, 10.0],
    "std": [2.0, 5.0],
    "context": 6,
    "horizon": 3,
    "season": 2,
    "reading": {"time_column": "date", "regular": True, "max_gap": 24, "encoding": "utf-8"},
}


def make_task(facts: dict[str, Any] = FACTS, **options: Any) -> Forecasting:
    settings = {
        "model": partial(DeepRNN, "gru", hidden_size=8),
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
    }
    return Forecasting(**facts, **{**settings, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Two waves of periods 12 and 5 whose levels drift."""
    folder = tmp_path_factory.mktemp("forecasting")
    lines = ["date,fast,slow"]
    for n in range(600):
        fast, slow = math.sin(2 * math.pi * n / 5) + n / 100, 50 * math.sin(2 * math.pi * n / 12)
        lines.append(f"2024-01-01T00:00:00+00:00,{fast:.4f},{slow:.3f}".replace("2024-01-01", _day(n)))
    (folder / "waves.csv").write_text("\n".join(lines))
    words = ["data=table", f"data.source={folder / 'waves.csv'}", "task=forecasting", "data.context=24"]
    words += ["data.horizon=6", "data.season=12", "data.batch_size=16", "model.hidden_size=24", "cell=gru"]
    words += ["model.bidirectional=false", "model.num_layers=1", "optim.lr=0.02", "trainer.max_epochs=12"]
    words += ["callbacks=default", "callbacks.progress=null", "callbacks.curve=null", "logger=none"]
    words += ["trainer.accelerator=cpu", "examples=2", f"run_dir={folder / 'run'}"]
    return train(compose(words).config)


def _day(n: int) -> str:
    from datetime import date, timedelta

    return (date(2024, 1, 1) + timedelta(days=n)).isoformat()


def test_it_is_better_than_the_naive_forecasts(run: RunResult) -> None:
    found = run.metrics
    assert found["test/mse"] < 0.3 * min(found["test/mse_last"], found["test/mse_seasonal"])
    assert found["test/mae"] < 0.6 * min(found["test/mae_last"], found["test/mae_seasonal"])


def test_the_picture_is_drawn_and_examples_are_in_the_tables_own_units(run: RunResult) -> None:
    assert (run.folder / "forecast.png").read_bytes().startswith(b"\x89PNG")
    for example in run.examples:
        assert set(example) == {"source", "known_until", "forecast_for", "forecast", "truth"}
        assert abs(example["forecast"]["slow"] - example["truth"]["slow"]) < 25


def test_predict_goes_on_after_the_end_of_a_file(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run.folder.parent / "waves.csv").read_text().splitlines()
    known = tmp_path / "known.csv"
    known.write_text("\n".join(lines[:501]))
    assert cli.main(["predict", f"checkpoint={run.folder}", str(known), "json=true"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["time"] for record in said] == [
        line.split(",")[0].replace("T", " ") for line in lines[501:507]
    ]
    truth = [float(line.split(",")[2]) for line in lines[501:507]]
    assert max(abs(record["slow"] - value) for record, value in zip(said, truth, strict=True)) < 25
    known.write_text("\n".join(lines[:20]))
    with pytest.raises(ValueError, match="19 rows; the model reads the last 24"):
        run.task.predict_records([str(known)])
    assert cli.main(["eval", f"checkpoint={run.folder}", "split=validation"]) == 0
    assert "mse seasonal" in capsys.readouterr().out.replace("_", " ")


def test_the_naive_forecasts_are_the_last_value_and_the_last_season() -> None:
    task = make_task()
    known = torch.arange(12.0).view(6, 1, 2)
    assert task.seasonal(known)[:, 0, 0].tolist() == [9, 11, 9]


@pytest.mark.parametrize("normalise", ["last", "window"])
@pytest.mark.parametrize("highway", [0, 4])
def test_a_shift_of_the_window_shifts_the_forecast(normalise: str, highway: int) -> None:
    task = make_task(normalise=normalise, highway=highway).double()
    known = torch.randn(6, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(task(known + 7), task(known) + 7)


def test_columns_apart_do_not_see_each_other() -> None:
    facts = {**FACTS, "targets": ["a", "b"]}
    task = make_task(facts, apart=True, dense_sizes=[5], highway=6).double()
    known = torch.randn(6, 4, 2, dtype=torch.float64)
    other = known.clone()
    other[:, :, 1] += torch.randn(6, 4, dtype=torch.float64)
    assert task(known).shape == (3, 4, 2)
    torch.testing.assert_close(task(known)[:, :, 0], task(other)[:, :, 0])
    assert not torch.allclose(task(known)[:, :, 1], task(other)[:, :, 1])
    # One network for both columns: their order is nothing to it.
    torch.testing.assert_close(task(known.flip(2)), task(known).flip(2))


def test_the_highway_is_a_linear_map_of_the_last_rows() -> None:
    task = make_task(normalise="none", highway=2).double()
    with torch.no_grad():
        task.head[-1].weight.zero_()
        task.head[-1].bias.zero_()
    known = torch.randn(6, 4, 2, dtype=torch.float64)
    said = task(known)[:, :, 0]
    torch.testing.assert_close(said, task.highway.weight @ known[-2:, :, 1])


@pytest.mark.parametrize("name", ["mackey_glass", "ett_h24"])
def test_each_experiment_trains_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"experiment={name}", "debug=fast_dev_run", "logger=none", "model.hidden_size=8", "examples=1"]
    if name == "ett_h24":
        lines = [f"{_day(n)},{n},{n % 24},{n % 7}" for n in range(700)]
        (tmp_path / "own.csv").write_text("date,HUFL,HULL,OT\n" + "\n".join(lines))
        words += ["data.source=own.csv", "data.split=[300,200,150]"]
    result = train(compose(words).config)
    assert {"test/mse", "test/mae", "test/mse_last"} <= set(result.metrics)
    records = result.task.predict_records([result.examples[0]["source"]])
    assert len(records) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "batch"}, "'none', 'last' or 'window'; got 'batch'"),
        ({"loss": "huber"}, "'mse' or 'mae'; got 'huber'"),
        ({"apart": True}, "got 2 to read and 1 to forecast"),
        ({"highway": 7}, "highway is from 0 to context=6 rows; got 7"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**options)
