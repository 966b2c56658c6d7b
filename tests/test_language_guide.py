"""The guide to language models: its Python runs, its commands are composed, its experiments train."""

from pathlib import Path

import pytest
from guides import Guide, check_command

from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

GUIDE = Guide("language-models.md")


@pytest.fixture
def penn(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        lines = [f" the cat number N sat on <unk> {split} mats \n"] * 150
        (tmp_path / f"ptb.{split}.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_python_runs() -> None:
    scope = GUIDE.run_python()
    assert scope["symbols"].shape == (20, 4)


@pytest.mark.parametrize("words", GUIDE.commands, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    check_command(words)


@pytest.mark.parametrize("name", ["char_lm", "word_lm", "verses", "ptb_small", "ptb_awd"])
def test_each_experiment_trains_a_step(name: str, penn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(penn)
    small = {"ptb_awd": "model.hidden_size=[24,24,16]", "ptb_small": "model.hidden_size=16"}
    words = [f"experiment={name}", small.get(name, "model.hidden_size=16")]
    words += ["task.embedding_size=16", "debug=fast_dev_run", "logger=none", "examples=1"]
    words += [f"data.source={penn}"] if name.startswith("ptb") else ["data.batch_size=8"]
    result = train(compose(words).config)
    assert result.task.headline in result.metrics
    assert len(result.examples) == 1


@pytest.mark.usefixtures("local_data")
def test_tiny_shakespeare_has_its_symbols(local_data: Path) -> None:
    from rnnlab.data import LanguageData

    data = LanguageData(str(local_data / "tinyshakespeare.txt"))
    data.setup()
    summary = data.summary()
    assert sum(summary["tokens"].values()) == 1_115_394
    # 65 symbols, the end of a line among them as <eos>; with <pad> and <unk>.
    assert summary["vocabulary"] == 67
