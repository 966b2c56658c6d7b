"""The guide to sweeps: its commands can be run, its Python runs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from rnnlab.experiments.sweeps.command import sweep
from rnnlab.experiments.sweeps.plan import Planner, corner_points, read_space
from rnnlab.experiments.sweeps.settings import SweepSettings, split_words

PAGE = Path(__file__).resolve().parents[3] / "docs" / "sweeps.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for kind, block in BLOCKS
    if kind in ("bash", "text")
    for line in block.splitlines()
    if line.startswith("rnnlab ")
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_known(words: list[str], tmp_path: Path) -> None:
    assert words[:2] == ["rnnlab", "sweep"]
    settings, run_words = split_words([word for word in words[2:] if not word.startswith("--")])
    assert settings != SweepSettings() or run_words
    space = read_space(run_words)
    assert Planner(space, tmp_path).plan(corner_points(space)[0], 0).job.point.keys() == {
        axis.key for axis in space.axes
    }


def test_python_runs(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep([*small, "cell=rnn,gru", "trainer.max_epochs=1", "sweep_dir=sweeps/cells"]) == 0
    capsys.readouterr()
    for kind, code in BLOCKS:
        if kind == "python":
            exec(compile(code, str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["cell=rnn", "finished"], ["cell=gru", "finished"]]
    shutil.rmtree("sweeps")
