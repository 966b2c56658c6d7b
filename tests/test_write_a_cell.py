"""The guide to writing a cell: its files, its Python and its commands, as a reader would use them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rnnlab import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "write-a-cell.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What makes a training a matter of seconds; nothing else about it is changed.
SHORT = ["debug=fast_dev_run", "logger=none", "examples=1"]


def blocks(language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(PAGE.read_text(encoding="utf-8")) if kind == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("rnnlab ")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder in which the reader has saved the files of the guide."""
    (tmp_path / "light_gru.py").write_text(blocks("python")[0], encoding="utf-8")
    for block in blocks("yaml"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("light_gru", None)


def test_the_cell_has_fifteen_lines(here):
    lines = (here / "light_gru.py").read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith('"""')]
    assert len(code) <= 15


def test_the_python_runs(here):
    # In a process of its own, from a file, as torch.export wants the source of a cell.
    (here / "guide.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    done = subprocess.run([sys.executable, "guide.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [w for w in commands() if w[0] in ("check", "explain")], ids=" ".join)
def test_it_is_checked_and_explained(here, capsys, words):
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "LightGRU" in told and "fused" in told


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "train"], ids=" ".join)
def test_it_is_trained_beside_the_lstm(here, capsys, words):
    assert cli.main([*words, *SHORT]) == 0
    assert "test/accuracy" in capsys.readouterr().out
    name = next(word.removeprefix("name=") for word in words if word.startswith("name="))
    assert len(list(here.glob(f"runs/{name}/*/config.yaml"))) == 1


def test_no_other_command_is_left_untried():
    assert {words[0] for words in commands()} == {"check", "explain", "train"}
    text = PAGE.read_text(encoding="utf-8")
    (inline,) = re.findall(r"`rnnlab (train [^`]+)`", text)
    assert inline.split()[1:] == ["cell=zoneout", "cell.cell=gru", "cell.p=0.1"]


def test_the_wrapped_cell_trains(here):
    assert cli.main(["train", "cell=zoneout", "cell.cell=gru", "cell.p=0.1", *SHORT]) == 0
