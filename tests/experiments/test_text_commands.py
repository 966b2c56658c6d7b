"""`rnnlab sample` and `rnnlab score`, on real checkpoints of a short training each."""

import json
import math
import sys
from io import StringIO
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

QUICK = [
    "model.hidden_size=16",
    "model.bidirectional=false",
    "task.embedding_size=8",
    "trainer.accelerator=cpu",
    "logger=none",
    "callbacks=checkpoint",
    "examples=0",
    "test=false",
    "optim.lr=0.03",
]


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character model of one line."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "book.txt").write_text("the cat sat on a mat\n" * 300, encoding="utf-8")
    words = ["data=text", f"data.source={folder / 'book.txt'}", "data.window=21", "data.batch_size=8"]
    words += ["task=language_model", f"run_dir={folder / 'run'}", "trainer.max_epochs=10", *QUICK]
    return train(compose(words).config).folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word model that starts from labels."""
    folder = tmp_path_factory.mktemp("labelled")
    lines = [
        f"{label}\t{text} {'very ' * (n % 9)}well\n"
        for n in range(90)
        for label, text in (("a", "he"), ("b", "she"))
    ]
    (folder / "texts.tsv").write_text("label\ttext\n" + "".join(lines), encoding="utf-8")
    words = ["data=labelled_texts", f"data.source={folder / 'texts.tsv'}", "data.tokenizer=word"]
    words += ["data.validation=0.2", "data.test=0.2", "data.batch_size=4", "task=conditional_generation"]
    words += [f"run_dir={folder / 'run'}", "trainer.max_epochs=6", *QUICK]
    return train(compose(words).config).folder


def say(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    return told.err


def test_a_prompt_is_gone_on_with_to_the_end_of_the_line(language, capsys):
    assert (
        say(capsys, "sample", f"checkpoint={language}", "the cat", "greedy=true") == "the cat sat on a mat\n"
    )
    by_name = say(capsys, "sample", f"checkpoint={language}", "prompt=the cat s", "greedy=true", "length=3")
    assert by_name == "the cat sat \n"


def test_without_a_stop_it_goes_on_to_the_length(language, capsys):
    text = say(capsys, "sample", f"checkpoint={language}", "stop=false", "length=50", "top_k=1")
    assert len(text) == 51
    assert text.startswith("the cat sat on a mat\nthe cat")


def test_samples_repeat_by_seed_and_differ_from_each_other(language, capsys):
    words = ["sample", f"checkpoint={language}", "temperature=3", "length=30", "seed=5", "stop=false"]
    first = say(capsys, *words)
    assert say(capsys, *words) == first
    three = say(capsys, *words, "samples=3")
    assert three.startswith(first)
    assert say(capsys, *words[:-2], "seed=6", "stop=false") in three


def test_the_text_streams(language, monkeypatch):
    class Stream(StringIO):
        flushes = 0

        def flush(self):
            self.flushes += 1

    monkeypatch.setattr(sys, "stdout", Stream())
    assert cli.main(["sample", f"checkpoint={language}", "length=12", "stop=false"]) == 0
    assert sys.stdout.flushes >= 11


def test_labels_decide_the_text_and_the_nearest_is_suggested(labelled, capsys):
    for label, start in (("a", "he "), ("b", "she ")):
        text = say(capsys, "sample", f"checkpoint={labelled}", f"label={label}", "seed=1", "temperature=0.5")
        assert text.startswith(start)
    assert "a label is needed: one of 'a', 'b'" in refused(capsys, "sample", f"checkpoint={labelled}")


def test_scores_add_up_and_tell_the_unknown(language, capsys):
    line = say(capsys, "score", f"checkpoint={language}", "json=true", "the cat sat")
    (record,) = map(json.loads, line.splitlines())
    assert [item["token"] for item in record["each"]] == [*"the cat sat", "<eos>"]
    total = sum(item["log_probability"] for item in record["each"])
    assert record["log_probability"] == pytest.approx(total)
    assert record["bits_per_char"] == pytest.approx(-total / math.log(2) / 12)
    long = "the cat sat on the mat and the dog sat on the cat"
    assert say(capsys, "score", f"checkpoint={language}", long).splitlines()[0] == long
    table = say(capsys, "score", f"checkpoint={language}", "cat\u00e9", "end=false")
    assert "\u00e9  (unknown, read as <unk>)" in table
    assert "of 4 tokens, bits per char" in table


def test_a_file_is_scored_line_by_line(labelled, tmp_path, capsys):
    file = tmp_path / "texts.txt"
    file.write_text("he very well\n\nshe very well\n", encoding="utf-8")
    words = ["score", f"checkpoint={labelled}", f"file={file}", "label=a", "json=true"]
    right, wrong = map(json.loads, say(capsys, *words).splitlines())
    assert right["perplexity"] < wrong["perplexity"]


def test_predict_and_eval_know_both_models(language, labelled, capsys):
    (record,) = map(
        json.loads, say(capsys, "predict", f"checkpoint={language}", "the ca", "json=true").splitlines()
    )
    assert next(iter(record["next"])) == "t"
    (record,) = map(
        json.loads, say(capsys, "predict", f"checkpoint={labelled}", "b", "json=true").splitlines()
    )
    assert record["text"].startswith("she ")
    assert "bits_per_char" in say(capsys, "eval", f"checkpoint={language}")
    assert "perplexity" in say(capsys, "eval", f"checkpoint={labelled}", "split=validation")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample"], "checkpoint=PATH is required"),
        (["sample", "checkpoint=none.ckpt"], "there is no such file or folder"),
        (["sample", "checkpoint=x", "tempratur=1"], "did you mean temperature?"),
        (["sample", "checkpoint=x", "temperature=warm"], "temperature=warm: expected a number"),
        (["sample", "checkpoint=x", "temperature=0"], "temperature is above 0"),
        (["sample", "checkpoint=x", "top_k=2.5"], "top_k=2.5: expected an int"),
        (["sample", "checkpoint=x", "top_p=2"], "top_p lies in (0, 1]; got 2.0"),
        (["sample", "checkpoint=x", "greedy=yes"], "greedy=yes: expected true or false"),
        (["sample", "checkpoint=x", "length=0"], "expected at least 1"),
        (["sample", "checkpoint=x", "prompt=a", "b"], "the prompt is given twice"),
        (["sample", "checkpoint=x", "device=abacus"], "device=abacus: cannot be used here"),
        (["score", "checkpoint=x"], "nothing to score"),
        (["score", "checkpoint=x", "file=none.txt"], "none.txt"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_clear_message(words, message, capsys):
    assert message in refused(capsys, *words)


def test_a_model_without_language_is_told_apart(tmp_path, capsys):
    lines = [f"a {word} film number {n}\t{word}\n" for n in range(40) for word in ("fine", "dull")]
    (tmp_path / "reviews.tsv").write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
    words = ["data=texts", f"data.source={tmp_path / 'reviews.tsv'}", f"run_dir={tmp_path / 'run'}"]
    words += ["trainer.fast_dev_run=false", "trainer.max_steps=1", *QUICK]
    folder = train(compose(words).config).folder
    told = refused(capsys, "sample", f"checkpoint={folder}")
    assert "a TextClassification writes neither text nor music" in told


def test_a_prompt_that_the_model_cannot_read_is_told(language, capsys):
    assert cli.main(["sample", f"checkpoint={language}", "caf\u00e9", "length=2"]) == 0
    assert "does not know 'f', '\u00e9' and reads <unk>" in capsys.readouterr().err
