"""A page of the documentation as its tests see it: Python that runs, and command lines."""

import re
import shlex
from pathlib import Path
from typing import Any

from rnnlab import cli
from rnnlab.experiments.compose import compose

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Guide:
    """The fenced blocks of a page.

    Attributes:
        lines: those of its `bash` blocks.
        commands: the words behind `rnnlab` in each line that calls it.
    """

    def __init__(self, name: str) -> None:
        self.path = DOCS / name
        self.blocks: list[tuple[str, str]] = FENCE.findall(self.path.read_text(encoding="utf-8"))
        self.lines = [line for kind, block in self.blocks if kind == "bash" for line in block.splitlines()]
        # <names> stand for what the reader puts there; a shell would take them for redirections.
        told = [shlex.split(line.replace("<", "").replace(">", ""), comments=True) for line in self.lines]
        others = {words[0] for words in told if words} - {"rnnlab", "pip"}
        assert not others, f"{name} calls {others}"
        self.commands = [words[1:] for words in told if words[:1] == ["rnnlab"]]
        assert self.commands, f"{name} shows no command"

    def run_python(self) -> dict[str, Any]:
        """What its `python` blocks, run one after the other, leave behind."""
        scope: dict[str, Any] = {"__name__": "__main__"}
        code = "\n".join(block for kind, block in self.blocks if kind == "python")
        exec(compile(code, str(self.path), "exec"), scope)
        return scope


def check_command(words: list[str]) -> None:
    """Hold a command to one that there is, and its configuration to one that can be composed."""
    assert words[0] in {command.name for command in cli.COMMANDS}
    if words[0] == "train":
        compose(words[1:])
