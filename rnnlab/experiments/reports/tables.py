"""A report as tables: in the terminal, and as CSV files."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnnlab.experiments.reports.gather import COSTS, Report, brief, command, number, reason, text
from rnnlab.training.storage import write_text_whole

SHOWN = 20


def print_report(report: Report, console: Console) -> None:
    """The leaderboard, the factors, and what is not finished."""
    state = ", ".join(f"{count} {name}" for name, count in report.counts.items() if name != "finished")
    done = report.counts.get("finished", 0)
    _line(
        console,
        f"{report.sweep.folder}: {done} of {report.planned} jobs finished" + (f"; {state}" if state else ""),
    )
    if report.sweep.others:
        _line(
            console,
            f"{len(report.sweep.others)} more jobs lie in this folder that the last start did not ask for "
            "(other code, or an earlier grid); they are not counted",
        )
    if not done:
        _line(console, "no job has finished yet: there is nothing to rank")
    else:
        _leaderboard(report, console)
        _factors(report, console)
    _unfinished(report, console)


def _line(console: Console, message: str) -> None:
    console.print(message, markup=False, soft_wrap=True)


def _table(title: str, columns: list[tuple[str, bool]]) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", padding=(0, 1))
    for name, right in columns:
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return table


def _leaderboard(report: Report, console: Console) -> None:
    keys = [key for key in report.sweep.axes if key not in report.seeds]
    better = "higher is better" if report.mode == "max" else "lower is better"
    others = [name for name in report.metrics if name != report.metric and name.startswith("test/")][:2]
    costs = [name for name in reversed(COSTS) if name != report.metric]
    several = any(len(setting.jobs) > 1 for setting in report.settings)
    spread = "; mean ± standard deviation over n seeds" if several else ""
    table = _table(
        f"by {report.metric}, {better}{spread}",
        [
            ("", True),
            *((key, False) for key in keys),
            (report.metric, True),
            ("n", True),
            *((name, True) for name in others),
            *((name, True) for name in costs),
        ],
    )
    for place, setting in enumerate(report.settings[:SHOWN], 1):
        value = setting.measure(report.metric)
        total = len(setting.jobs)
        pruned = any(job.outcome == "pruned" for job in setting.jobs)
        cells = [
            str(place) if value.count else "",
            *(brief(setting.point.get(key)) for key in keys),
            "pruned" if pruned and not value.count else str(value),
            str(value.count) if value.count == total else f"{value.count} of {total}",
            *(str(setting.measure(name)) for name in others),
            *(number(cost.mean) if cost.count else "-" for cost in map(setting.measure, costs)),
        ]
        table.add_row(*map(Text, cells), style="bold" if place == 1 and value.count else "")
    console.print()
    console.print(table)
    if len(report.settings) > SHOWN:
        _line(console, f"{len(report.settings) - SHOWN} more in leaderboard.csv")


def _factors(report: Report, console: Console) -> None:
    if not report.factors:
        return
    table = _table(
        f"effect of each swept key on {report.metric}: mean ± standard deviation over all finished jobs",
        [("key", False), ("value", False), (report.metric, True), ("jobs", True), ("of the variance", True)],
    )
    for factor in report.factors:
        if factor.continuous:
            low, high = factor.levels[0].value, factor.levels[-1].value
            found = factor.correlation
            told = "" if found is None else f"rank correlation {found:+.2f}"
            span = f"{brief(low)} to {brief(high)}"
            jobs = sum(level.spread.count for level in factor.levels)
            table.add_row(*map(Text, (factor.name, span, told, str(jobs), "")), end_section=True)
            continue
        for index, (label, level) in enumerate(zip(factor.labels, factor.levels, strict=True)):
            share = "" if index or factor.share is None else f"{100 * factor.share:.0f} %"
            cells = (
                factor.name if not index else "",
                label,
                str(level.spread),
                str(level.spread.count),
            )
            table.add_row(*map(Text, (*cells, share)), end_section=index + 1 == len(factor.levels))
    console.print()
    console.print(table)
    if any(not factor.balanced and not factor.continuous for factor in report.factors):
        _line(console, "values have unequally many jobs: differences may come of the other keys")


def _unfinished(report: Report, console: Console) -> None:
    rows = [job for job in report.sweep.jobs if job.outcome not in ("finished", "pruned", "pending")]
    if not rows and not report.sweep.damaged:
        return
    table = _table("not finished", [("job", False), ("state", False), ("tries", True), ("why", False)])
    for job in rows:
        table.add_row(*map(Text, (job.label, job.state, str(job.status.attempts), reason(job))))
    for folder, fault in report.sweep.damaged:
        table.add_row(*map(Text, (folder.name, "damaged", "", fault)))
    console.print()
    console.print(table)


def write_csv(report: Report, folder: Path) -> list[Path]:
    """`leaderboard.csv`, a row a setting, and `jobs.csv`, a row a job with its command."""
    keys = [key for key in report.sweep.axes if key not in report.seeds]
    spreads = [f"{name} {what}" for name in report.metrics for what in ("mean", "standard deviation", "n")]
    board: list[list[Any]] = [["rank", *keys, "finished", "jobs", *spreads, *COSTS]]
    for place, setting in enumerate(report.settings, 1):
        measures = [setting.measure(name) for name in report.metrics]
        board.append(
            [place if setting.measure(report.metric).count else ""]
            + [*(text(setting.point.get(key)) for key in keys), len(setting.finished), len(setting.jobs)]
            + [value for m in measures for value in (_plain(m.mean), _plain(m.deviation), m.count)]
            + [_plain(setting.measure(name).mean) for name in COSTS]
        )
    axes = list(report.sweep.axes)
    metrics = [name for name in report.metrics if name not in COSTS]
    facts = ["parameters", "seconds", "attempts", "reason", "folder", "command"]
    jobs: list[list[Any]] = [["number", "id", "state", *axes, *metrics, *facts]]
    for job in report.sweep.jobs:
        jobs.append(
            [job.number, job.id, job.outcome, *(text(job.point.get(key)) for key in axes)]
            + [job.measures.get(name, "") for name in metrics]
            + [job.status.parameters or "", round(job.status.seconds, 3), job.status.attempts]
            + [reason(job), str(job.run), command(job, report.sweep.allowed)]
        )
    written = []
    for name, rows in (("leaderboard", board), ("jobs", jobs)):
        file = folder / f"{name}.csv"
        stream = io.StringIO(newline="")
        csv.writer(stream).writerows(rows)
        write_text_whole(file, stream.getvalue())
        written.append(file)
    return written


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else ""
