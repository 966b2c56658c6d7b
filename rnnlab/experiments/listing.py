"""The command `experiments`: what can be trained by name, from the comments of the configuration files.

An experiment's file opens with its description, and then `# shape:`, `# data:`, `# expect:` (the figure that
it reaches) and `# time:` (on two CPU cores).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rnnlab.experiments import groups

FIELDS = ("shape", "data", "expect", "time")

EXPERIMENTS = """\
List the experiments: what each learns, the shape of its task, its data, and what to expect of it.

examples:
  rnnlab experiments
  rnnlab experiments char_lm                      one of them, and the settings that it makes
  rnnlab train experiment=char_lm                 train it
  rnnlab train experiment=char_lm cell=gru        the same with another cell
"""


def describe(file: Path) -> dict[str, str]:
    """The description of an experiment's file and its fields; a field that it does not have is empty."""
    found = dict.fromkeys(FIELDS, "")
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        key, colon, value = line.lstrip("# ").partition(":")
        if colon and key in FIELDS:
            found[key] = value.strip()
    return {"about": groups.summary(file), **found}


def experiments(argv: list[str]) -> int:
    """`rnnlab experiments`."""
    from rnnlab.experiments.commands import make_parser

    parser = make_parser("experiments", EXPERIMENTS)
    parser.usage = "rnnlab experiments [options] [NAME ...]"
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configuration files")
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    files = groups.read_groups(groups.search_path(options.config_dir)).get("experiment", {})
    for name in options.names:
        if name not in files:
            raise ValueError(f"there is no experiment {name!r}; there are {', '.join(sorted(files))}")
    if options.names:
        for name in options.names:
            print(f"{name}: {files[name]}\n\n{files[name].read_text(encoding='utf-8')}")
        return 0
    _print_table({name: describe(files[name]) for name in sorted(files)})
    return 0


def _print_table(rows: dict[str, dict[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1), title="rnnlab train experiment=NAME", title_justify="left"
    )
    table.add_column("NAME", no_wrap=True, style="bold")
    for column in ("about", *FIELDS):
        table.add_column(column, overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *row.values())
    console.print(table)
