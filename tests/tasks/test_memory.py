"""Problems of long memory: trained, measured against guessing, and asked by `predict`."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from rnnlab import DeepRNN, cli
from rnnlab.data.batching import SequenceBatch
from rnnlab.experiments.compose import compose
from rnnlab.tasks.memory import Memory
from rnnlab.training.run import train

QUICK = ["trainer.accelerator=cpu", "logger=none", "callbacks=checkpoint", "examples=1"]


def make_task(problem: str, length: int, **options) -> Memory:
    settings = {
        "model": partial(DeepRNN, "gru", hidden_size=8),
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
    }
    return Memory(problem=problem, length=length, test_length=length, **{**settings, **options})


def test_parity_is_learned_at_twice_the_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=parity", "data.length=8", "data.test_length=16", "data.epoch_size=3200"]
    words += ["data.batch_size=32", "data.eval_size=200", "model.hidden_size=16", "optim.lr=0.03"]
    words += ["trainer.max_epochs=4", f"run_dir={tmp_path / 'run'}"]
    result = train(compose([*words, *QUICK]).config)
    assert result.metrics["test/accuracy"] == 1
    assert result.metrics["test/of_baseline"] < 0.1
    assert result.metrics["test/of_baseline"] == pytest.approx(result.metrics["test/loss"] / 0.6931, rel=1e-3)
    (example,) = result.examples
    assert example["truth"] == example["answer"] == ("odd" if example["input"].count("1") % 2 else "even")
    asked = ["predict", f"checkpoint={tmp_path / 'run'}", "1011010111", "0", "json=true"]
    assert cli.main(asked) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"input": "1011010111", "answer": "odd"}, {"input": "0", "answer": "even"}]


@pytest.mark.parametrize("name", ["adding", "copy", "temporal_order", "parity"])
def test_each_experiment_trains_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"experiment={name}", "data.length=12", "model.hidden_size=8", "debug=fast_dev_run"]
    result = train(compose([*words, "logger=none", "examples=2"]).config)
    assert {"test/loss", "test/of_baseline", result.task.headline} <= set(result.metrics)
    assert len(result.examples) == 2
    first = result.examples[0]
    (again,) = result.task.predict_records([first["input"]])
    if name == "adding":
        assert again["answer"] == pytest.approx(first["answer"], abs=1e-2)
    else:
        assert again["answer"] == first["answer"]


def test_the_loss_counts_only_what_is_asked() -> None:
    task = make_task("adding", 6)
    data_in, targets = task.problem.draw(3, torch.Generator().manual_seed(0))
    loss, _ = task._loss(SequenceBatch(data_in, torch.full((3,), 6), targets))
    said = task(data_in)[-1, :, 0]
    torch.testing.assert_close(loss, (said - targets[-1]).square().mean())


@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
def test_symbols_are_one_hot_or_embedded_and_layers_are_dense(embedding: str) -> None:
    task = make_task("copy", 5, embedding=embedding, embedding_size=7, dense_sizes=[6])
    assert task.rnn.input_size == (10 if embedding == "one_hot" else 7)
    assert task.head[1].out_features == 6
    inputs, _ = task.problem.draw(4, torch.Generator().manual_seed(0))
    assert task(inputs).shape == (25, 4, 9)
    # No symbol is taken for padding.
    blank = torch.zeros(1, 1, dtype=torch.int64)
    vectors = task.embedding(blank + (embedding == "learned"))
    assert vectors.abs().sum() > 0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="bidirectional=false, got true"):
        make_task("copy", 5, model=partial(DeepRNN, "gru", hidden_size=4, bidirectional=True))
    with pytest.raises(ValueError, match="'learned' or 'one_hot'; got 'glove'"):
        make_task("copy", 5, embedding="glove")
