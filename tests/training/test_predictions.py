"""What a model made of each test example is kept, and adds up to what the test said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from rnnlab.data.batching import LengthBucketSampler, SequenceLoader, TokenSequences
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
    trainer: Any = SimpleNamespace(world_size=1, global_rank=0, is_global_zero=True)
    callback.on_test_end(trainer, task)
    assert not callback.file.exists()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text("id,loss\nabc,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"predictions\.csv: damaged"):
        read_predictions(file)


def keep(file: Path, rows: int, processes: int, batch_size: int = 3) -> None:
    """What that many processes keep of a test set in which every fifth example is the one before it."""
    tokens = [[1 + i - (i % 5 == 4)] * (1 + (i - (i % 5 == 4)) % 3) for i in range(rows)]
    dataset = TokenSequences(tokens)
    for rank in range(processes):
        sampler = LengthBucketSampler(
            dataset.lengths, batch_size, shuffle=False, num_replicas=processes, rank=rank
        )
        loader = SequenceLoader(dataset, sampler)
        trainer: Any = SimpleNamespace(
            world_size=processes, global_rank=rank, is_global_zero=rank == 0, test_dataloaders=loader
        )
        callback, task = Predictions(file), torch.nn.Linear(1, 1)
        callback.on_test_start(trainer, task)  # type: ignore[arg-type]
        for index, batch in enumerate(loader):
            outputs = {"loss": batch.inputs.sum(0).float()}
            callback.on_test_batch_end(trainer, task, outputs, batch, index)  # type: ignore[arg-type]
        callback.on_test_end(trainer, task)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 2, 5, 24, 25, 26, 31])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_several_processes_are_read_as_what_one_would_have_kept(
    rows: int, processes: int, tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone" / "predictions.csv", tmp_path / "together" / "predictions.csv"
    for file, number in ((alone, 1), (together, processes)):
        file.parent.mkdir()
        keep(file, rows, number)
    assert alone.exists() and not together.exists()
    expected = read_predictions(alone)
    assert len(expected) == rows
    assert list(read_predictions(together).items()) == list(expected.items())


def test_a_test_by_other_processes_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    for processes in (1, 3, 2, 1):
        keep(file, 13, processes)
        written = sorted(place.name for place in tmp_path.iterdir())
        assert written == (
            ["predictions.csv"]
            if processes == 1
            else [f"predictions-{rank}.csv" for rank in range(processes)]
        )
        assert len(read_predictions(file)) == 13


def test_the_double_of_pytorchs_own_sampler_is_left_out(tmp_path: Path) -> None:
    dataset = TensorDataset(torch.arange(7))
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False)
        loader = DataLoader(dataset, batch_size=3, sampler=sampler)
        trainer: Any = SimpleNamespace(
            world_size=2, global_rank=rank, is_global_zero=rank == 0, test_dataloaders=[loader]
        )
        callback, task = Predictions(tmp_path / "predictions.csv"), torch.nn.Linear(1, 1)
        for index, (values,) in enumerate(loader):
            batch = SimpleNamespace(inputs=values[None])
            outputs = {"loss": values.float()}
            callback.on_test_batch_end(trainer, task, outputs, batch, index)  # type: ignore[arg-type]
        callback.on_test_end(trainer, task)  # type: ignore[arg-type]
    kept = read_predictions(tmp_path / "predictions.csv")
    assert [row["loss"] for row in kept.values()] == list(range(7))
