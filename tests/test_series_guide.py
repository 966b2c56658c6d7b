"""The guide to series: its Python runs, its commands are known and composed."""

import pytest
from guides import Guide, check_command

GUIDE = Guide("series.md")


def test_python_runs() -> None:
    scope = GUIDE.run_python()
    assert scope["scores"].shape == (25, 4, 9)


@pytest.mark.parametrize("words", GUIDE.commands, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    check_command(words)
