"""Language models: carried state, what is counted, what is written, what a checkpoint holds."""

import math
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from rnnlab import DeepRNN
from rnnlab.data import LanguageData
from rnnlab.data.streams import StreamBatch
from rnnlab.nn.generation import Sampling
from rnnlab.tasks import LanguageModel
from rnnlab.tasks.text_generation import TokenLoss

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")

FACTS = {
    "vocabulary": ["<pad>", "<unk>", "<eos>", *"abcd "],
    "tokenizer": "char",
    "lowercase": False,
    "window": 8,
}


def make_task(facts=FACTS, **options):
    torch.manual_seed(0)
    settings = {
        "model": partial(DeepRNN, options.pop("cell", "lstm"), hidden_size=options.pop("hidden_size", 16)),
        "optimizer": partial(torch.optim.Adam, lr=0.02),
        "embedding_size": 8,
    }
    return LanguageModel(**facts, **{**settings, **options})


def trainer(folder, **options):
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
def book(tmp_path):
    """Lines that count: what comes next depends on what came long before."""
    path = tmp_path / "book.txt"
    path.write_text("abcd abcd dcba\n" * 400, encoding="utf-8")
    return path


def windows(length, count=6, rows=3):
    text = torch.randint(3, 8, (length * count + 1, rows), generator=torch.Generator().manual_seed(1))
    for i in range(count):
        part = text[i * length : (i + 1) * length + 1]
        yield StreamBatch(part[:-1], part[1:], i == 0)


def test_the_state_is_carried_from_window_to_window_and_its_history_is_not():
    task = make_task().eval()
    task.log = lambda *args, **options: None
    pieces = list(windows(8))
    whole = StreamBatch(torch.cat([b.inputs for b in pieces]), torch.cat([b.targets for b in pieces]), True)
    losses = [task.training_step(batch, i) for i, batch in enumerate(pieces)]
    torch.testing.assert_close(sum(losses) / 6, task.training_step(whole, 0) * 8 / len(whole.inputs))
    assert all(not s.requires_grad for s in task._carried)
    # A stream that begins again forgets.
    again = task.training_step(pieces[0], 0)
    torch.testing.assert_close(again, losses[0])


def test_the_loss_is_the_mean_or_the_sum_over_time_and_has_the_penalties():
    (batch,) = windows(8, count=1)
    losses = {}
    for name, options in {
        "mean": {},
        "sum": {"time_reduction": "sum"},
        "alpha": {"activation_penalty": 2.0},
        "beta": {"slowness_penalty": 3.0},
    }.items():
        task = make_task(**options).eval()
        task.log = lambda *args, **kwargs: None
        losses[name] = task.training_step(batch, 0)
        outputs = task.network(batch.inputs).outputs
    assert losses["sum"].item() == pytest.approx(8 * losses["mean"].item(), rel=1e-5)
    alpha = losses["mean"] + 2 * outputs.square().mean()
    beta = losses["mean"] + 3 * (outputs[1:] - outputs[:-1]).square().mean()
    torch.testing.assert_close(torch.stack([losses["alpha"], losses["beta"]]), torch.stack([alpha, beta]))


@pytest.mark.parametrize("unit", ["nats", "bits", "perplexity"])
def test_metrics_weigh_every_token_alike(unit):
    metric = TokenLoss(unit)
    metric.update(torch.tensor(1.0), 30)
    metric.update(torch.tensor(4.0), 10)
    expected = {"nats": 1.75, "bits": 1.75 / math.log(2), "perplexity": math.exp(1.75)}[unit]
    assert metric.compute().item() == pytest.approx(expected)


def test_it_learns_a_text_and_evaluation_does_not_depend_on_the_window(book, tmp_path):
    data = LanguageData(str(book), batch_size=8, eval_batch_size=1, window=15, validation=0.1, test=0.1)
    data.setup()
    task = make_task(data.facts())
    runner = trainer(tmp_path, max_epochs=6)
    runner.fit(task, datamodule=data)
    (measured,) = runner.test(task, datamodule=data, verbose=False)
    assert measured["test/bits_per_char"] < 0.2
    assert measured["test/bits_per_char"] == pytest.approx(measured["test/loss"] / math.log(2), rel=1e-5)
    other = LanguageData(str(book), eval_batch_size=1, window=37, validation=0.1, test=0.1)
    other.adopt(data.facts())
    (again,) = runner.test(task, datamodule=other, verbose=False)
    assert again["test/loss"] == pytest.approx(measured["test/loss"], rel=1e-4)
    assert "".join(task.sample("abcd ", sampling=Sampling(greedy=True))) == "abcd dcba"
    scores = task.score("abcd abcd dcba")
    assert [item.token for item in scores] == [*"abcd abcd dcba", "<eos>"]
    assert task.describe_scores(scores)["bits_per_char"] < 0.3
    assert task.describe_scores(task.score("dddd"))["bits_per_char"] > 2
    (record,) = task.predict_records(["abcd abc"])
    assert next(iter(record["next"])) == "d"
    for record in task.example_records(data, 2):
        assert set(record) == {"prompt", "model", "truth"}
        assert record["model"].startswith(record["truth"][:4])


def test_words_are_measured_by_perplexity(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text(" the cat sat \n the dog ran \n" * 60, encoding="utf-8")
    data = LanguageData(
        str(tmp_path), tokenizer="space", batch_size=4, window=10, vary_window=True, eval_batch_size=2
    )
    data.setup()
    task = make_task(data.facts(), tied=True, hidden_size=12, input_dropout=0.1, output_dropout=0.1)
    runner = trainer(tmp_path, max_epochs=15)
    runner.fit(task, datamodule=data)
    (measured,) = runner.test(task, datamodule=data, verbose=False)
    # Two choices of a line in eight tokens; the uniform guess over seven tokens is 7.
    assert 1.0 < measured["test/perplexity"] < 2.0
    assert task.headline == "test/perplexity"
    assert "".join(task.sample(seed=0, length=3)) in {"the cat sat", "the dog ran"}
    assert "".join(task.sample(seed=0, length=8, stop=False)).count("\n") == 2


def test_sampling_repeats_by_seed_and_leaves_the_mode_alone():
    task = make_task().train()
    texts = ["".join(task.sample("ab", seed=seed, length=40, stop=False)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 40
    assert "<" not in texts[0]
    assert task.training
    with pytest.raises(ValueError, match="was not trained on labels"):
        next(task.sample(label="Genesis"))


def test_scores_are_the_chain_rule_with_the_unknown_marked():
    task = make_task().eval()
    scores = task.score("ab?d")
    assert [item.known for item in scores] == [True, True, False, True, True]
    symbols = torch.tensor([2, 3, 4, 1, 6]).unsqueeze(1)
    expected = task.network(symbols).scores[:, 0].log_softmax(1)[range(5), [3, 4, 1, 6, 2]]
    torch.testing.assert_close(torch.tensor([s.log_probability for s in scores]), expected.double().float())
    assert len(task.score("ab", end=False)) == 2
    with pytest.raises(ValueError, match="no token to score"):
        task.score("", end=False)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # it kept the checkpoint, no more
@pytest.mark.parametrize("vary", [False, True])
def test_training_goes_on_in_the_middle_of_a_text_bit_for_bit(book, tmp_path, vary):
    def parts():
        data = LanguageData(str(book), batch_size=4, window=20, vary_window=vary, seed=3)
        data.setup()
        return data, make_task(data.facts())

    data, straight = parts()
    options = {"max_steps": 11, "limit_val_batches": 0}
    keep = ModelCheckpoint(tmp_path / "kept", "middle", every_n_train_steps=6, save_top_k=-1)
    trainer(tmp_path, callbacks=[keep], enable_checkpointing=True, **options).fit(straight, datamodule=data)
    path = tmp_path / "kept" / "middle.ckpt"
    assert all(s.abs().sum() > 0 for s in torch.load(path, weights_only=True)["carried_state"])
    data, resumed = parts()
    trainer(tmp_path, **options).fit(resumed, datamodule=data, ckpt_path=path, weights_only=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="time_reduction is 'mean' or 'sum'"):
        make_task(time_reduction="max")
    with pytest.raises(ValueError, match="penalties are at least 0"):
        make_task(slowness_penalty=-1.0)
    with pytest.raises(ValueError, match="holds '<eos>'"):
        make_task({**FACTS, "vocabulary": ["<pad>", "<unk>", "a"]})
