"""The guide to series: its Python runs, its commands are known and composed."""

import re
import shlex
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose

PAGE = Path(__file__).resolve().parent.parent / "docs" / "series.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE.read_text(encoding="utf-8"))
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
]


def test_python_runs() -> None:
    scope: dict = {"__name__": "__main__"}
    exec(compile("\n".join(code for kind, code in BLOCKS if kind == "python"), str(PAGE), "exec"), scope)
    assert scope["scores"].shape == (25, 4, 9)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    assert words[0] in {command.name for command in cli.COMMANDS}
    if words[0] == "train":
        compose(words[1:])
