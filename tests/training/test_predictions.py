"""What a model made of each test example is kept, and adds up to what the test said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rnnlab.experiments.compose import compose
from rnnlab.training.predictions import Predictions, example_ids, read_predictions
from rnnlab.training.run import train


def run(small: list[str], folder: Path, *more: str):
    words = [
        *small,
        f"run_dir={folder}",
        "callbacks=predictions",
        "trainer.max_epochs=1",
        "examples=0",
        *more,
    ]
    return train(compose(words).config)


def test_kept_examples_add_up_to_the_tests_measures(small: list[str], tmp_path: Path) -> None:
    result = run(small, tmp_path / "run")
    kept = read_predictions(tmp_path / "run" / "predictions.csv")
    for name in ("loss", "accuracy"):
        mean = sum(row[name] for row in kept.values()) / len(kept)
        assert mean == pytest.approx(result.metrics[f"test/{name}"], rel=1e-4)
    right = [row["predicted"] == row["truth"] for row in kept.values()]
    assert sum(right) == sum(row["accuracy"] for row in kept.values())


def test_an_example_has_one_id_in_whatever_batch_it_lies(small: list[str], tmp_path: Path) -> None:
    one = run(small, tmp_path / "one", "data.eval_batch_size=7", "seed=1")
    two = run(small, tmp_path / "two", "data.eval_batch_size=64", "data.seed=1", "seed=3")
    kept = [read_predictions(r.folder / "predictions.csv") for r in (one, two)]
    assert kept[0].keys() == kept[1].keys()
    assert [row["truth"] for _, row in sorted(kept[0].items())] == [
        row["truth"] for _, row in sorted(kept[1].items())
    ]


def test_the_tokens_of_a_language_model_are_weighed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {i} of a long text" for i in range(120)), encoding="utf-8")
    words = [
        "experiment=char_lm",
        "data=text",
        f"data.source={text}",
        "model.hidden_size=6",
        "data.window=11",
    ]
    words += ["data.batch_size=4", "data.eval_batch_size=3", "trainer.max_steps=2", "callbacks=predictions"]
    words += ["trainer.accelerator=cpu", "logger=none", "examples=0", f"run_dir={tmp_path / 'run'}"]
    result = train(compose(words).config)
    kept = read_predictions(tmp_path / "run" / "predictions.csv").values()
    mean = sum(row["loss"] * row["weight"] for row in kept) / sum(row["weight"] for row in kept)
    assert mean == pytest.approx(result.metrics["test/loss"], rel=1e-4)


def test_the_same_example_again_has_a_number() -> None:
    batch = SimpleNamespace(inputs=torch.ones(3, 2), targets=torch.zeros(2), lengths=torch.tensor([3, 3]))
    assert len(set(example_ids(batch, 2))) == 1
    longer = SimpleNamespace(inputs=torch.ones(4, 2), targets=torch.zeros(2), lengths=torch.tensor([3, 4]))
    assert example_ids(longer, 2)[0] == example_ids(batch, 2)[0] != example_ids(longer, 2)[1]


def test_a_task_that_tells_nothing_of_examples_is_told_of_once(tmp_path: Path) -> None:
    callback = Predictions(tmp_path / "predictions.csv")
    task: Any = torch.nn.Linear(1, 1)
    with pytest.warns(UserWarning, match="Linear tells nothing of single test examples"):
        callback.on_test_batch_end(None, task, None, None, 0)  # type: ignore[arg-type]
    callback.on_test_batch_end(None, task, None, None, 1)  # type: ignore[arg-type]
    callback.on_test_end(None, None)  # type: ignore[arg-type]
    assert not callback.file.exists()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text("id,loss\nabc,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"predictions\.csv: damaged"):
        read_predictions(file)
