"""An encoder-decoder learns to reverse words, and the commands show what it says."""

import json
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.tasks import Translation
from rnnlab.training.run import RunResult, train


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    lines = ["source\ttarget"]
    for n in range(400):
        word = "".join("abcdefg"[(n // 7**k) % 7] for k in range(2 + n % 3))
        lines.append(f"{word}\t{' '.join(reversed(word.upper()))}")
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    return path


def words_of(table: Path, *more: str) -> list[str]:
    words = ["data=pairs", f"data.source={table}", "data.source_tokenizer=char", "task=translation"]
    words += ["data.target_tokenizer=space", "data.token_name=phoneme", "data.sequence_name=word"]
    words += ["data.batch_size=8", "data.max_source=6", "data.max_target=6", "model.num_layers=1"]
    return [*words, "model.hidden_size=32", "task.embedding_size=16", "optim.lr=0.01", "logger=none", *more]


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("run") / "run"
    words = words_of(table, f"run_dir={folder}", "trainer.max_epochs=10", "task.attention=additive")
    return train(compose(words).config, overrides=words)


def test_it_learns_to_reverse(run: RunResult) -> None:
    assert run.metrics["test/phoneme_error_rate"] < 0.1
    assert run.metrics["test/word_error_rate"] < 0.35
    assert set(run.examples[0]) == {"source", "model", "truth"}
    assert (run.folder / "attention_1.png").read_bytes()[:4] == b"\x89PNG"


def test_it_looks_at_the_letter_that_it_writes(run: RunResult) -> None:
    task = run.task
    assert isinstance(task, Translation)
    source, target, weights = task.look("abc")
    assert source == ["a", "b", "c"] and target[-1] == "<eos>"
    assert weights.shape == (len(target), 3)
    assert weights.sum(1).tolist() == pytest.approx([1.0] * len(target), abs=1e-5)


def test_predictions_are_shown_written_and_drawn(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "looked.png"
    words = ["predict", f"checkpoint={run.folder}", "abc", "gz", "json=true", f"picture={picture}"]
    assert cli.main(words) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["output"] == "C B A"
    assert first["log_probability"] < 0 and "unknown" not in first
    assert second["unknown"] == ["z"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert cli.main(["predict", f"checkpoint={run.folder}", "abcdefgabcdefg"]) == 2
    assert "has 14 tokens; the model was trained on at most 6" in capsys.readouterr().err


def test_eval_says_the_same_of_the_same_data(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    from rnnlab.experiments.evaluate import evaluate

    measured = evaluate(str(run.folder))
    for key, value in measured.items():
        assert value == pytest.approx(run.metrics[key], abs=1e-6), key


def test_the_data_of_another_task_are_refused(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", f"checkpoint={run.folder}", "data=marked_verses"]) == 2
    assert (
        "the checkpoint's model knows no vocabulary: it was trained on other data" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "settings",
    [
        ["task.input_feeding=true", "cell=gru"],
        ["task.teacher_forcing=0.8", "task.teacher_forcing_end=0.2", "task.attention=none"],
        ["task.attention=dot", "model.merge=sum", "task.embedding=one_hot"],
        ["model.num_layers=2", "task.label_smoothing=0.1", "task.beam=1", "trainer.max_epochs=1"],
    ],
    ids=" ".join,
)
def test_every_kind_trains_a_step(settings: list[str], table: Path, tmp_path: Path) -> None:
    words = words_of(table, "debug=fast_dev_run", f"output_dir={tmp_path}", "examples=1", *settings)
    result = train(compose(words).config)
    assert result.metrics["test/loss"] > 0
    assert len(result.examples) == 1


def test_settings_out_of_range_are_refused(table: Path, tmp_path: Path) -> None:
    for word, told in (
        ("task.beam=0", "beam is at least 1"),
        ("task.teacher_forcing=1.5", "teacher_forcing is a probability"),
        ("task.label_smoothing=1.0", "label_smoothing lies in"),
        ("task.attention=dot", "use attention=general, or merge=sum"),
    ):
        with pytest.raises(ValueError, match=told):
            train(compose(words_of(table, word, f"output_dir={tmp_path}")).config)
    assert not list(tmp_path.iterdir())
