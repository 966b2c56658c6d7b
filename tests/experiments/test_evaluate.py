"""A checkpoint measured again, and on other data."""

from pathlib import Path

import pytest

from rnnlab.experiments.compose import compose
from rnnlab.experiments.evaluate import evaluate
from rnnlab.training.run import RunResult, train
from rnnlab.training.validate import ConfigError


def write(file: Path, words: dict[str, str], count: int = 60) -> Path:
    rows = [f"a {word} film number {n}\t{label}" for n in range(count) for label, word in words.items()]
    file.write_text("text\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("evaluate")
    source = write(folder / "films.tsv", {"good": "fine", "bad": "dull"})
    words = ["data=texts", f"data.source={source}", "data.batch_size=8", "data.min_count=1", "optim.lr=0.02"]
    words += ["model.hidden_size=8", "model.num_layers=1", "task.embedding_size=8", "trainer.max_epochs=3"]
    words += ["trainer.accelerator=cpu", f"run_dir={folder / 'run'}", "trainer.limit_test_batches=1.0"]
    return train(compose(words).config)


def test_the_measures_are_those_of_the_run(run: RunResult) -> None:
    again = evaluate(str(run.folder))
    assert again == {key: pytest.approx(run.metrics[key], abs=1e-6) for key in again}
    assert set(evaluate(str(run.folder), split="validation")) == {"val/accuracy", "val/f1", "val/loss"}


def test_settings_of_training_do_not_shorten_the_measure(run: RunResult, tmp_path: Path) -> None:
    one = evaluate(str(run.folder), ["trainer.limit_test_batches=1", "data.eval_batch_size=2"])
    assert one["test/loss"] != pytest.approx(run.metrics["test/loss"], abs=1e-9)


def test_other_data_are_read_with_the_models_own_words(run: RunResult, tmp_path: Path) -> None:
    turned = write(tmp_path / "turned.tsv", {"bad": "fine", "good": "dull"})
    found = evaluate(str(run.folder), [f"data.source={turned}"], split="test")
    assert found["test/accuracy"] == pytest.approx(1 - run.metrics["test/accuracy"])
    assert evaluate(str(run.folder), ["data=texts", f"data.source={turned}"], split="test") == found


def test_all_of_another_file_is_measured(run: RunResult, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.tsv", {"good": "fine", "bad": "dull"}, 30)
    rows = [line.split("\t") for line in mine.read_text(encoding="utf-8").splitlines()[1:]]
    said = run.task.predict_records([text for text, _ in rows])
    right = sum(record["label"] == label for record, (_, label) in zip(said, rows, strict=True))
    found = evaluate(str(run.folder), [f"data.source={mine}"])
    assert found["test/accuracy"] == pytest.approx(right / 60)
    source = run.datamodule.source
    assert evaluate(str(run.folder), [f"data.source={source}"]) == evaluate(str(run.folder), split="test")


def test_labels_that_the_model_does_not_know_are_refused(run: RunResult, tmp_path: Path) -> None:
    strange = write(tmp_path / "strange.tsv", {"good": "fine", "ugly": "dull"})
    with pytest.raises(ValueError, match="ugly"):
        evaluate(str(run.folder), [f"data.source={strange}"])


def test_misspelt_settings_are_told(run: RunResult) -> None:
    with pytest.raises(ConfigError, match=r"did you mean data\.batch_size"):
        evaluate(str(run.folder), ["data.bach_size=3"])
