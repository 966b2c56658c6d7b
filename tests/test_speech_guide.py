"""The guide to speech and video: its Python runs, and its commands are composed."""

import re
import shlex
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speech-and-video.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(PAGE.read_text(encoding="utf-8"))
COMMANDS = [
    words[1:]
    for kind, block in BLOCKS
    if kind == "bash"
    for line in block.splitlines()
    if (words := shlex.split(line, comments=True))[0] == "rnnlab"
]


def test_python_runs_and_gives_what_it_says() -> None:
    scope: dict = {"__name__": "__main__"}
    exec(compile("\n".join(code for kind, code in BLOCKS if kind == "python"), str(PAGE), "exec"), scope)
    assert scope["steps"].shape[1:] == (2, 120)
    assert scope["path"] == []
    assert scope["labellings"][0][0] == [1]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    assert words[0] in {command.name for command in cli.COMMANDS}
    if words[0] == "train":
        compose(words[1:])


def test_the_extras_are_those_that_the_project_offers() -> None:
    import tomllib

    (line,) = [
        line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if "pip" in line
    ]
    named = re.search(r"rnnlab\[([\w,]+)\]", line)
    assert named is not None
    project = tomllib.loads((PAGE.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(named[1].split(",")) <= set(project["optional-dependencies"])
