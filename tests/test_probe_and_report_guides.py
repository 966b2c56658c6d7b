"""The guides to probes, reports and comparisons: their Python runs, their commands are known."""

import re
import shlex
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose

DOCS = Path(__file__).resolve().parent.parent / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ("probes", "reports")
BLOCKS = {page: FENCE.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")) for page in PAGES}
COMMANDS = [
    shlex.split(line.replace("<", "").replace(">", ""), comments=True)[1:]
    for blocks in BLOCKS.values()
    for kind, block in blocks
    if kind == "bash"
    for line in block.splitlines()
]


@pytest.mark.parametrize("page", PAGES)
def test_python_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(block for kind, block in BLOCKS[page] if kind == "python")
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    assert words[0] in {command.name for command in cli.COMMANDS}
    if words[0] == "train":
        compose(words[1:])
