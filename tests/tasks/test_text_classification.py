import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from rnnlab import DeepRNN
from rnnlab.data import TextClassificationData
from rnnlab.tasks import TextClassification
from rnnlab.tasks.schedules import warmup_cosine

# Lightning asks PyTorch's tree utilities in a way that PyTorch is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")

FACTS: dict[str, Any] = {
    "vocabulary": ["<pad>", "<unk>", "a", "fine", "poor", "film"],
    "labels": ["bad", "good"],
    "tokenizer": "word",
    "lowercase": True,
    "max_length": 8,
}


def make_task(
    facts: dict[str, Any] = FACTS, *, cell: str = "gru", bidirectional: bool = False, **options: Any
):
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "model": partial(DeepRNN, cell, hidden_size=12, bidirectional=bidirectional),
        "optimizer": partial(torch.optim.AdamW, lr=0.02),
        "scheduler": partial(warmup_cosine, warmup=0.1),
        "embedding_size": 8,
        "embedding_dropout": 0.1,
        "dropout": 0.1,
    }
    return TextClassification(**facts, **{**settings, **options})


def make_trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
    }
    return pl.Trainer(default_root_dir=folder, **{**quiet, **options})


@pytest.fixture
def order_matters(tmp_path: Path) -> Path:
    """Good where "fine" comes before "poor": counting words tells nothing."""
    generator = torch.Generator().manual_seed(0)
    lines = ["text\tlabel"]
    for _ in range(700):
        words = ["film"] * int(torch.randint(2, 7, (1,), generator=generator))
        first, second = sorted(torch.randperm(len(words), generator=generator)[:2].tolist())
        good = bool(torch.rand((), generator=generator) < 0.5)
        words[first], words[second] = ("fine", "poor") if good else ("poor", "fine")
        extra = int(torch.randint(1000000, (1,), generator=generator))
        lines.append(f"{' '.join(words)} {extra}\t{'good' if good else 'bad'}")
    path = tmp_path / "order.tsv"
    path.write_text("\n".join(lines))
    return path


def test_it_learns_what_only_the_order_of_words_tells(order_matters: Path, tmp_path: Path) -> None:
    data = TextClassificationData(str(order_matters), batch_size=32, min_count=2)
    data.setup("fit")
    task = make_task(data.facts())
    trainer = make_trainer(tmp_path, max_epochs=5, gradient_clip_val=1.0)
    trainer.fit(task, data)
    logged = trainer.callback_metrics
    assert {"train/loss", "train/grad_norm", "val/loss", "val/accuracy", "val/f1"} <= set(logged)
    assert task.monitor in logged
    (result,) = trainer.test(task, data, verbose=False)
    assert set(result) == {"test/loss", "test/accuracy", "test/f1"}
    assert result[task.headline] > 0.95

    records = task.example_records(data, 3)
    assert [set(record) for record in records] == [{"text", "truth", "predicted", "confidence"}] * 3
    assert json.loads(json.dumps(records)) == records
    said = task.predict_records(["film fine film poor", "Poor film, fine!"])
    assert [record["label"] for record in said] == ["good", "bad"]


def test_metrics_are_those_of_the_whole_split(order_matters: Path, tmp_path: Path) -> None:
    """Not means over batches of unequal size: accuracy and F1 are recounted from the predictions."""
    data = TextClassificationData(str(order_matters), eval_batch_size=9)
    data.setup("test")
    task = make_task(data.facts(), pooling="mean")
    (result,) = make_trainer(tmp_path).test(task, data, verbose=False)
    pairs = data.examples("test", 10**6)
    said = [record["label"] for record in task.predict_records([text for text, _ in pairs])]
    truth = [label for _, label in pairs]
    assert result["test/accuracy"] == pytest.approx(sum(map(str.__eq__, said, truth)) / len(truth))
    scores = []
    for label in data.labels:
        both = sum(s == t == label for s, t in zip(said, truth, strict=True))
        scores.append(2 * both / (said.count(label) + truth.count(label)))
    assert result["test/f1"] == pytest.approx(sum(scores) / 2)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_neither_scores_nor_gradients(cell: str, pooling: str, bidirectional: bool) -> None:
    task = make_task(cell=cell, pooling=pooling, bidirectional=bidirectional).double().eval()
    tokens = torch.tensor([[2, 3, 4, 5, 5], [3, 5, 0, 0, 0]]).T

    def gradients(scores: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(scores[:, 0].square().sum(), list(task.parameters())))

    together = task(tokens, torch.tensor([5, 2]))
    alone = torch.cat([task(tokens[:, :1], torch.tensor([5])), task(tokens[:2, 1:], torch.tensor([2]))])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(gradients(together), gradients(alone))


@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_last_step_of_two_directions_is_split_only_where_they_stand_side_by_side(merge: str) -> None:
    model = partial(DeepRNN, "gru", hidden_size=12, bidirectional=True, merge=merge)
    task = make_task(model=model, pooling="last")
    assert task.pooling.directions == (2 if merge == "concat" else 1)
    assert task.rnn.output_size == (24 if merge == "concat" else 12)


def test_one_hot_input_and_dense_layers() -> None:
    task = make_task(embedding="one_hot", dense_sizes=[7, 5])
    assert task.rnn.input_size == len(FACTS["vocabulary"])
    assert [layer.out_features for layer in task.head if isinstance(layer, torch.nn.Linear)] == [7, 5, 2]
    assert task.predict_records(["a fine film"])[0]["label"] in FACTS["labels"]


def test_records_do_not_depend_on_the_other_inputs_nor_on_the_mode() -> None:
    task = make_task(embedding_dropout=0.5, word_dropout=0.5).train()
    texts = ["a fine film", "", "never seen words", "poor " * 50]
    together = task.predict_records(texts)
    assert task.training
    for text, record in zip(texts, together, strict=True):
        assert set(record) == {"input", "label", "probability", "probabilities"}
        assert record["input"] == text
        assert record["probability"] == max(record["probabilities"].values())
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        (alone,) = task.predict_records([text])
        assert alone["probabilities"] == pytest.approx(record["probabilities"], abs=1e-6)
    assert json.loads(json.dumps(together)) == together
    assert task.predict_records([]) == []


def test_the_weights_load_into_a_task_rebuilt_from_the_facts(tmp_path: Path) -> None:
    task = make_task()
    torch.save({"state_dict": task.state_dict(), "facts": FACTS}, tmp_path / "task.ckpt")
    saved = torch.load(tmp_path / "task.ckpt", weights_only=True)
    torch.manual_seed(5)
    rebuilt = make_task(saved["facts"], embedding_dropout=0.0)
    rebuilt.load_state_dict(saved["state_dict"])
    assert rebuilt.predict_records(["a fine film"]) == task.predict_records(["a fine film"])


def test_overfitting_a_few_batches_sees_the_same_ones_in_each_epoch(
    order_matters: Path, tmp_path: Path
) -> None:
    seen: list[list[list[int]]] = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
            seen.append([])

        def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
            seen[-1].append(batch.inputs.tolist())

    data = TextClassificationData(str(order_matters), batch_size=16)
    data.setup("fit")
    trainer = make_trainer(
        tmp_path, max_epochs=2, overfit_batches=2, limit_val_batches=0, callbacks=[Watch()]
    )
    trainer.fit(make_task(data.facts()), data)
    assert len(seen[0]) == 2
    assert seen[0] == seen[1]

    seen.clear()
    make_trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=0, callbacks=[Watch()]).fit(
        make_task(data.facts()), data
    )
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": "glove"}, "embedding is 'learned' or 'one_hot'; got 'glove'"),
        ({"pooling": "sum"}, "pooling 'sum' is not known"),
        ({"dropout": 1.5}, r"dropout is a probability in \[0, 1\); got 1.5"),
        ({"word_dropout": -1.0}, "symbol dropout is a probability"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"embedding_size": 0}, "at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**options)
