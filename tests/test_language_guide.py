"""The guide to language models: its Python runs, its commands are composed, its experiments train."""

import re
import shlex
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

PAGE = Path(__file__).resolve().parent.parent / "docs" / "language-models.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE.read_text(encoding="utf-8"))
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
]


@pytest.fixture
def penn(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        lines = [f" the cat number N sat on <unk> {split} mats \n"] * 150
        (tmp_path / f"ptb.{split}.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_python_runs() -> None:
    scope: dict = {"__name__": "__main__"}
    exec(compile("\n".join(code for kind, code in BLOCKS if kind == "python"), str(PAGE), "exec"), scope)
    assert scope["symbols"].shape == (20, 4)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    assert words[0] in {command.name for command in cli.COMMANDS}
    if words[0] == "train":
        compose(words[1:])


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
