"""The guide to speech and video: its Python runs, and its commands are composed."""

import re

import pytest
from guides import DOCS, Guide, check_command

GUIDE = Guide("speech-and-video.md")


def test_python_runs_and_gives_what_it_says() -> None:
    scope = GUIDE.run_python()
    assert scope["steps"].shape[1:] == (2, 120)
    assert scope["path"] == []
    assert scope["labellings"][0][0] == [1]


@pytest.mark.parametrize("words", GUIDE.commands, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    check_command(words)


def test_the_extras_are_those_that_the_project_offers() -> None:
    import tomllib

    (line,) = [line for line in GUIDE.lines if "pip" in line]
    named = re.search(r"rnnlab\[([\w,]+)\]", line)
    assert named is not None
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(named[1].split(",")) <= set(project["optional-dependencies"])
