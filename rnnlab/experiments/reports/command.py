"""`rnnlab report`: what a sweep came to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, cast

from rnnlab.experiments.commands import is_setting, make_parser, split_settings

HELP = """\
Say what a sweep came to, as a table here, as CSV, and as one page that opens without a network: leaderboard
with the spread over seeds, learning curves, the effect of each swept key, what quality costs, what failed and
why, and the command of each job. The sweep may be at work meanwhile.

settings:
  metric=NAME     rank by it; the sweep's own objective by default
  mode=min|max    whether it is better small or large, where its name does not tell
  output=DIR      where the files go; `report` in the sweep's folder by default
  page=true       write report.html (needs plotly: pip install 'rnnlab[report]')

examples:
  rnnlab report sweeps/sentiment-1a2b3c
  rnnlab report sweeps/sentiment-1a2b3c metric=test/f1 output=for_the_paper
"""


def main(argv: list[str]) -> int:
    """`rnnlab report`."""
    parser = make_parser("report", HELP)
    parser.usage = "rnnlab report [options] SWEEP_DIR [key=value ...]"
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    words = parser.parse_intermixed_args(argv).words
    folders = [word for word in words if not is_setting(word)]
    settings = [word for word in words if is_setting(word)]
    own, _ = split_settings(settings, ("metric", "mode", "output", "page"), ())
    if len(folders) != 1:
        got = f"got {len(folders)}" if folders else "got none"
        raise ValueError(f"SWEEP_DIR is required, one folder that `rnnlab sweep` made; {got}")
    if own.get("mode", "min") not in ("min", "max"):
        raise ValueError(f"mode={own['mode']}: expected min or max")
    if own.get("page", "true") not in ("true", "false"):
        raise ValueError(f"page={own['page']}: expected true or false")
    mode = cast(Literal["min", "max"] | None, own.get("mode"))
    report(
        folders[0],
        metric=own.get("metric"),
        mode=mode,
        output=own.get("output"),
        page=own.get("page", "true") == "true",
        console=True,
    )
    return 0


def report(
    folder: str | Path,
    *,
    metric: str | None = None,
    mode: Literal["min", "max"] | None = None,
    output: str | Path | None = None,
    page: bool = True,
    console: bool = False,
) -> list[Path]:
    """Write what a sweep came to.

    Args:
        folder: of the sweep.
        metric: by which settings are ranked; the sweep's own objective where None.
        mode: whether that is better small or large.
        output: where the files go; `report` in the sweep's folder where None.
        page: write the page beside the tables.
        console: show the tables on screen, too.

    Returns:
        The files: `leaderboard.csv`, `jobs.csv`, `report.html`.

    Raises:
        FileNotFoundError, ValueError: see `read_sweep`; no such metric; plotly is missing.
        OSError: no room on the disk; what was there before stays.
    """
    from rnnlab.experiments.reports.gather import Report
    from rnnlab.experiments.reports.page import plotly_script, render
    from rnnlab.experiments.reports.tables import print_report, write_csv
    from rnnlab.experiments.sweeps.folder import read_sweep
    from rnnlab.training.console import make_console
    from rnnlab.training.storage import write_text_whole

    found = Report(read_sweep(folder), metric, mode)
    plotly = plotly_script() if page else ""
    out = make_console(quiet=not console)
    print_report(found, out)
    place = Path(output).expanduser() if output is not None else Path(folder).expanduser() / "report"
    place.mkdir(parents=True, exist_ok=True)
    written = write_csv(found, place)
    if page:
        write_text_whole(place / "report.html", render(found, plotly))
        written.append(place / "report.html")
    out.print()
    for file in written:
        out.print(str(file), markup=False, soft_wrap=True)
    return written
