"""The guides to probes, reports and comparisons: their Python runs, their commands are known."""

import pytest
from guides import Guide, check_command

PROBES, REPORTS = Guide("probes.md"), Guide("reports.md")


@pytest.mark.parametrize("guide", [PROBES, REPORTS], ids=lambda guide: guide.path.stem)
def test_python_runs(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    guide.run_python()
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("words", [*PROBES.commands, *REPORTS.commands], ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    check_command(words)
