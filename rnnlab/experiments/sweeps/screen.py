"""What a sweep says: a table that renews itself in a terminal, and a line an event anywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rnnlab.experiments.sweeps.folder import Job, read_status
from rnnlab.training.console import LOG_WIDTH
from rnnlab.training.shell import shell_line

SHOWN = 16


class Screen:
    """Says what becomes of the jobs of a sweep.

    Args:
        total: jobs in all.
        metric: the one that is shown; None shows none.
        console: where; standard output by default.
    """

    def __init__(self, total: int, metric: str | None, console: Console | None = None) -> None:
        self.total, self.metric = total, metric
        self.console = console or make_screen()
        self.counts: Counter[str] = Counter()
        self._running: dict[str, Job] = {}
        self._began_at = time.monotonic()
        self._worked = 0
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        self._began_at = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._render,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def skipped(self, job: Job) -> None:
        """A job was finished before."""
        self.counts["finished"] += 1

    def found_running(self, job: Job) -> None:
        """A job that another process works on."""
        self._say("running already", job)

    def started(self, job: Job) -> None:
        """A job begins, or goes on."""
        self._running[job.id] = job

    def finished(self, job: Job) -> None:
        """A job is done."""
        self._over(job, "finished")
        value = job.status.best.get(self.metric or "", job.metrics.get(self.metric or ""))
        told = "" if value is None else f"{self.metric} {value:.4f}  "
        pruned = "  pruned" if job.status.pruned else ""
        self._say("finished", job, f"{told}{clock(job.status.seconds)}{pruned}", "green")

    def failed(self, job: Job) -> None:
        """A job is given up."""
        self._over(job, "failed")
        self._say("failed", job, job.status.reason or "", "red")

    def will_retry(self, job: Job) -> None:
        """A job failed, and will be tried again."""
        self._running.pop(job.id, None)
        self._say("again", job, f"{job.state}: {job.status.reason or ''}", "yellow")

    def stopping(self, running: int) -> None:
        """The sweep is to end."""
        jobs = f"{running} job{'s' if running > 1 else ''}"
        self.console.print(f"stopping: {jobs} save where they are; Ctrl-C again does not wait")

    def _over(self, job: Job, state: str) -> None:
        self._running.pop(job.id, None)
        self.counts[state] += 1
        self._worked += 1

    def _say(self, event: str, job: Job, more: str = "", style: str = "") -> None:
        done = self.counts["finished"] + self.counts["failed"]
        line = Text(f"[{done}/{self.total}] ")
        line.append(f"{event:<9}", style=style)
        line.append(f" {job.label}")
        if more:
            line.append(f"  {more}", style="dim" if style != "red" else "red")
        self.console.print(line, soft_wrap=True)

    def _render(self) -> Group:
        done = self.counts["finished"] + self.counts["failed"]
        elapsed = time.monotonic() - self._began_at
        head = Table.grid(padding=(0, 2))
        words = f"{self.counts['finished']} of {self.total} finished"
        if self.counts["failed"]:
            words += f", {self.counts['failed']} failed"
        left = ""
        if self._worked:
            left = f"about {clock(elapsed / self._worked * (self.total - done))} left"
        head.add_row(ProgressBar(total=self.total, completed=done, width=30), words, clock(elapsed), left)
        rows = Table.grid(padding=(0, 2))
        for job in list(self._running.values())[:SHOWN]:
            rows.add_row(Text(job.label, style="bold"), *self._progress(job))
        return Group(head, rows)

    def _progress(self, job: Job) -> Sequence[str]:
        try:
            status = read_status(job.folder)
        except (ValueError, OSError):
            return ("",)
        epochs = f"/{status.epochs}" if status.epochs else ""
        value = status.metrics.get(self.metric or "")
        told = "" if value is None else f"{self.metric} {value:.4f}"
        return (f"epoch {status.epoch}{epochs}", f"step {status.step}", told)


def make_screen() -> Console:
    """Standard output as it is now; a job that redirects it later does not take it away."""
    import sys

    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=LOG_WIDTH)


def print_plan(rows: Sequence[tuple[Job, str]], console: Console, all_of_them: bool) -> None:
    """Which job is which before anything starts: counts, and every job where that is asked."""
    counts = Counter(_kind(what) for _, what in rows)
    told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    console.print(
        f"{len(rows)} job{'s' if len(rows) > 1 else ''}: {told}" if rows else "no jobs", soft_wrap=True
    )
    if not all_of_them:
        for job, what in rows:
            if what.startswith("damaged"):
                console.print(f"{job.id}: {what}", soft_wrap=True, markup=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("job", "point", "what happens"):
        table.add_column(name, overflow="fold")
    for job, what in rows:
        table.add_row(job.id, Text(job.label), what)
    console.print(table)


def _kind(what: str) -> str:
    if what.startswith("damaged"):
        return "damaged, moved aside, start again"
    return what if not what.startswith("goes on after") else "interrupted, go on"


def print_end(
    jobs: Sequence[Job], objectives: Sequence[tuple[str, str]], folder: Path, console: Console
) -> None:
    """What a sweep has come to: the best jobs, the failures, and where everything is."""
    states = Counter(job.outcome for job in jobs)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    console.print(f"\n{len(jobs)} job{'' if len(jobs) == 1 else 's'}: {told}", soft_wrap=True)
    ranked = [job for job in jobs if job.state == "finished" and job.status.values and not job.status.pruned]
    if objectives and ranked:
        sign = 1 if objectives[0][1] == "min" else -1
        ranked.sort(key=lambda job: _last_if_nan(sign * job.status.values[0]))
        table = Table(title="best", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("point", overflow="fold")
        for name, _ in objectives:
            table.add_column(name, justify="right")
        table.add_column("time", justify="right")
        for job in ranked[:5]:
            values = [f"{value:.4f}" for value in job.status.values]
            table.add_row(Text(job.label), *values, clock(job.status.seconds))
        console.print(table)
    for job in jobs:
        if job.state == "failed":
            console.print(Text(f"failed  {job.label}  {job.status.reason}", style="red"), soft_wrap=True)
            console.print(Text(f"        {job.log}"), soft_wrap=True)
    console.print(f"\neverything is in {folder}", soft_wrap=True, markup=False)
    if any(job.state == "finished" for job in jobs):
        report = shell_line(["rnnlab", "report", str(folder)])
        console.print(f"next:\n  {report}", soft_wrap=True, markup=False, highlight=False)


def _last_if_nan(value: float) -> float:
    return float("inf") if value != value else value


def clock(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d} min"
