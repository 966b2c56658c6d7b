"""Texts from labels."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from rnnlab import DeepRNN
from rnnlab.data import ConditionalTextData
from rnnlab.nn.generation import Sampling
from rnnlab.tasks import ConditionalGeneration

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")

FACTS = {
    "vocabulary": ["<pad>", "<unk>", "<eos>", *"abc"],
    "labels": ["first", "second"],
    "tokenizer": "char",
    "lowercase": False,
    "max_length": 8,
}


def make_task(facts=FACTS, **options):
    torch.manual_seed(0)
    settings = {
        "model": partial(DeepRNN, "lstm", hidden_size=24),
        "optimizer": partial(torch.optim.Adam, lr=0.02),
        "embedding_size": 8,
        "label_size": 4,
    }
    return ConditionalGeneration(**facts, **{**settings, **options})


@pytest.mark.parametrize("condition", ["state", "input", "both"])
def test_the_label_decides_what_is_written(tmp_path, condition):
    path = tmp_path / "texts.csv"
    rows = [
        f"{label},{text} number {n % 10}\n" for n in range(150) for label, text in (("x", "up"), ("y", "on"))
    ]
    path.write_text("label,text\n" + "".join(rows), encoding="utf-8")
    data = ConditionalTextData(str(path), validation=0.2, test=0.2, batch_size=10)
    data.setup()
    task = make_task(data.facts(), condition=condition)
    runner = pl.Trainer(
        default_root_dir=tmp_path,
        max_epochs=10,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    runner.fit(task, datamodule=data)
    (measured,) = runner.test(task, datamodule=data, verbose=False)
    # Held-out digits were never seen in training; all else is certain.
    assert measured["test/bits_per_char"] < 1.5
    records = task.predict_records(["x", "y"])
    assert [record["label"] for record in records] == ["x", "y"]
    assert records[0]["text"].startswith("up number ") and records[1]["text"].startswith("on number ")
    (written,) = task.predict_records(["y"])
    assert written == records[1]
    assert "".join(task.sample("o", label="y", sampling=Sampling(greedy=True))).startswith("n number")
    right = task.describe_scores(task.score("up number 1", label="x"))["log_probability"]
    wrong = task.describe_scores(task.score("up number 1", label="y"))["log_probability"]
    assert right > wrong + 1
    assert {"label", "model", "truth"} == set(task.example_records(data, 1)[0])


def test_what_stands_past_the_end_of_a_row_changes_nothing():
    task = make_task().eval()
    symbols = torch.randint(3, 6, (7, 2))
    labels = torch.tensor([0, 1])
    padded = torch.cat([symbols, torch.zeros(3, 2, dtype=torch.long)])
    torch.testing.assert_close(task(padded, labels)[:7], task(symbols, labels))
    alone = task(symbols[:, 1:], labels[1:])
    torch.testing.assert_close(task(symbols, labels)[:, 1:], alone)


def test_a_label_that_is_not_known_is_refused_with_the_nearest():
    task = make_task()
    with pytest.raises(ValueError, match="label 'frist' is not known; did you mean 'first'"):
        next(task.sample(label="frist"))
    with pytest.raises(ValueError, match="a label is needed: one of 'first', 'second'"):
        next(task.sample())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="condition is 'state', 'input' or 'both'"):
        make_task(condition="output")
    with pytest.raises(ValueError, match="label_size is at least 1"):
        make_task(label_size=0)
