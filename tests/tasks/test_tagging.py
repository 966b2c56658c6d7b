"""Taggers learn what a small file can teach, and the commands show what they say."""

import json
from pathlib import Path

import pytest
import torch

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.nn.spelling import Spelling
from rnnlab.training.run import RunResult, train

NAMES = ["Anna", "Berta", "Clara", "Dora"]
VERBS = ["sees", "knows", "calls", "hears"]
SMALL = ["model.hidden_size=16", "model.num_layers=1", "task.embedding_size=8", "task.spelling_size=8"]
SMALL += ["data.batch_size=8", "optim.lr=0.02", "logger=none", "data.min_count=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People and what they do, by BIO tags; a name may have two words."""
    path = tmp_path_factory.mktemp("names")
    for split, start in (("train", 0), ("dev", 500), ("test", 700)):
        lines = []
        for n in range(start, start + (160 if split == "train" else 30)):
            first, second, verb = NAMES[n % 4], NAMES[n // 4 % 4], VERBS[n // 16 % 4]
            lines += [f"{first} B-PER", *([f"{second} I-PER"] if n % 3 else []), f"{verb} O", "him O", ". O"]
            lines.append("")
        (path / f"{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("run") / "run"
    words = ["data=conll", f"data.source={folder}", "data.scheme=bio", "task=span_tagging", *SMALL]
    words += [f"run_dir={out}", "trainer.max_epochs=4"]
    return train(compose(words).config, overrides=words)


def test_spans_are_learned(run: RunResult) -> None:
    assert run.metrics["test/accuracy"] > 0.9
    assert run.metrics["test/span_f1"] > 0.9
    assert run.metrics["test/span_precision"] > 0.9 and run.metrics["test/span_recall"] > 0.9
    assert set(run.examples[0]) == {"tokens", "model", "truth"}


def test_predictions_are_tokens_with_tags_and_spans(
    run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", f"checkpoint={run.folder}", "Anna Clara knows him.", "Zoe!"]
    assert cli.main([*words, "json=true"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["tagged"] == ["Anna/B-PER", "Clara/I-PER", "knows/O", "him/O", "./O"]
    assert first["spans"] == ["PER: Anna Clara"]
    assert len(second["tagged"]) == 2
    assert cli.main(words) == 0
    assert "Anna/B-PER" in capsys.readouterr().out
    assert cli.main(["predict", f"checkpoint={run.folder}", " "]) == 2
    assert "has no token to tag" in capsys.readouterr().err
    assert cli.main([*words, "picture=x.png"]) == 2
    assert "a SpanTagging draws nothing" in capsys.readouterr().err


def test_tags_of_a_sentence_do_not_depend_on_its_batch_and_long_ones_go_piece_by_piece(
    run: RunResult,
) -> None:
    task = run.task
    sentences = [["Anna", "sees", "him"], ["Berta"], ["Clara", "Dora", "calls", "Anna", "."] * 40]
    together = task.tag(sentences)
    assert together[:2] == [task.tag([sentence])[0] for sentence in sentences[:2]]
    assert [len(tags) for tags in together] == [3, 1, 200]
    assert task.tag([]) == []


def test_tags_without_the_scheme_are_refused_by_spans(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        text = (folder / f"{split}.conll").read_text(encoding="utf-8")
        (tmp_path / f"{split}.conll").write_text(text.replace("B-PER", "NAME"), encoding="utf-8")
    words = ["data=conll", f"data.source={tmp_path}", "task=span_tagging", *SMALL]
    with pytest.raises(ValueError, match=r"tag 'NAME' is not of the scheme BIO.*task=tagging takes any"):
        train(compose([*words, f"output_dir={tmp_path}"]).config)
    with pytest.raises(ValueError, match=r"dev\.conll, line 1: tag 'NAME' is not of the scheme BIO"):
        train(compose([*words, "data.scheme=bio", f"output_dir={tmp_path}"]).config)


@pytest.mark.parametrize("spelling", ["rnn", "none", "cnn"])
def test_every_spelling_trains_a_step(spelling: str, folder: Path, tmp_path: Path) -> None:
    words = ["data=conll", f"data.source={folder}", "task=tagging", *SMALL, f"task.spelling={spelling}"]
    words += ["debug=fast_dev_run", f"output_dir={tmp_path}", "examples=1"]
    words += ["task.embedding_size=0"] if spelling == "cnn" else []
    result = train(compose(words).config)
    assert "test/accuracy" in result.metrics and "test/span_f1" not in result.metrics


@pytest.mark.parametrize("kind", ["cnn", "rnn"])
def test_the_padding_of_a_spelling_changes_nothing(kind: str) -> None:
    spelling = Spelling(kind, 9, 6).eval()
    words = torch.tensor([[0, 0, 0], [3, 0, 0], [4, 5, 6]])
    features = spelling(words)
    torch.testing.assert_close(spelling(torch.cat([words, torch.zeros(3, 2).long()], 1)), features)
    torch.testing.assert_close(spelling(words[1:2, :1]), features[1:2])
    with pytest.raises(ValueError, match="its size is even; got 5"):
        Spelling("rnn", 9, 5)


def test_verses_are_given_their_capitals_and_marks_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiment=restore", "trainer.max_epochs=1", "trainer.limit_train_batches=30", *SMALL[:3]]
    words += ["trainer.limit_val_batches=2", "trainer.limit_test_batches=2", f"run_dir={tmp_path / 'run'}"]
    result = train(compose([*words, "logger=none", "examples=1"]).config)
    assert set(result.examples[0]) == {"words", "model", "truth"}
    assert cli.main(["predict", f"checkpoint={result.folder}", "And God said", "json=true"]) == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["text"].lower().startswith("and god said")
