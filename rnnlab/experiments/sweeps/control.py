"""The loop of a sweep: what is done already, what is started, what becomes of it."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rnnlab.experiments.sweeps.folder import (
    Job,
    Status,
    move_aside,
    read_job,
    read_status,
    write_about,
    write_status,
)
from rnnlab.experiments.sweeps.job import Order, has_checkpoint, is_disk_full, request_stop
from rnnlab.experiments.sweeps.launchers import Ended, Launcher, ProcessDied
from rnnlab.experiments.sweeps.plan import Planned, of_any_code
from rnnlab.experiments.sweeps.screen import Screen
from rnnlab.experiments.sweeps.search import Search

DISK_FULL = "no space left on the disk: the sweep ends here; start it again when there is room"


@dataclass
class Controller:
    """Keeps a launcher's slots full with the jobs of a search, until there is no other.

    Attributes:
        folder: of the sweep.
        about: what `sweep.yaml` holds; jobs are added as they come.
        search: where jobs come from.
        launcher: where they run.
        order: what all jobs are told.
        retries: how often a failed job is tried again.
        fail_fast: the first failure ends the sweep.
        any_code: results of other versions of the code count.
        screen: where it is told.
    """

    folder: Path
    about: dict[str, Any]
    search: Search
    launcher: Launcher
    order: Order
    retries: int
    fail_fast: bool
    any_code: bool
    screen: Screen
    jobs: dict[str, Job] = field(default_factory=dict)
    stopped_by: int | None = None
    _running: dict[str, Job] = field(default_factory=dict)
    _elsewhere: dict[str, Job] = field(default_factory=dict)
    _again: deque[Planned] = field(default_factory=deque)
    _planned: dict[str, Planned] = field(default_factory=dict)
    _starts_left: dict[str, int] = field(default_factory=dict)
    _failed: bool = False

    def run(self) -> int:
        """Do all jobs.

        Returns:
            0 if all are finished, 1 if some failed, 130 or 143 if it was interrupted.

        Raises:
            OSError: the disk is full; what is finished stays so.
        """
        # A shell starts what it puts into the background with SIGINT ignored; `kill -INT` is still meant.
        with _as_interrupt(signal.SIGTERM) as told, _as_interrupt(signal.SIGINT), self.screen:
            try:
                self._loop()
            except KeyboardInterrupt:
                self.stopped_by = told[0] if told else signal.SIGINT
            if self._is_stopping:
                self._stop_jobs()
        self.launcher.close(kill=bool(self._running))
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 0 if all(job.state == "finished" for job in self.jobs.values()) else 1

    @property
    def _is_stopping(self) -> bool:
        return self.stopped_by is not None or (self._failed and self.fail_fast)

    def _loop(self) -> None:
        while not self._is_stopping:
            while len(self._running) < self.launcher.slots and (planned := self._next()) is not None:
                self._start(planned)
            if not self._running and not self._elsewhere:
                return
            if not self._running:
                time.sleep(0.5)
            for ended in self.launcher.wait(0.5):
                self._end(ended)
            self._look_elsewhere()

    def _next(self) -> Planned | None:
        """The next job to be started; those that need no start are dealt with on the way."""
        while (planned := self.search.next()) is not None:
            job = self._enter(planned)
            if job.id in self._running or job.id in self._elsewhere:
                continue
            if job.state == "finished":
                self.screen.skipped(job)
                self.search.tell(job)
            elif job.state == "running":
                self._elsewhere[job.id] = job
                self.screen.found_running(job)
            elif job.state == "failed" and self.retries == 0:
                self._give_up(job)
            else:
                self._starts_left[job.id] = self.retries + (job.state != "failed")
                return planned
        return self._again.popleft() if self._again else None

    def _enter(self, planned: Planned) -> Job:
        """Take a job into the sweep: what its folder says of it, or a new folder."""
        if self.any_code:
            planned.job = of_any_code(planned.job)
        planned.job = enter(planned)
        job = planned.job
        self._planned[job.id] = planned
        self.jobs[job.id] = job
        if job.id not in self.about["jobs"]:
            self.about["jobs"].append(job.id)
            write_about(self.folder, self.about)
        return job

    def _start(self, planned: Planned) -> None:
        job = planned.job
        self._starts_left[job.id] -= 1
        self._running[job.id] = job
        self.screen.started(job)
        trial = self.search.trial_of(job)
        self.launcher.submit(replace(self.order, folder=str(job.folder), trial=trial))

    def _end(self, ended: Ended) -> None:
        job = self._running.pop(ended.folder.name)
        error = ended.error
        if isinstance(error, BaseException) and is_disk_full(error):
            self._stop_jobs()
            raise OSError(errno.ENOSPC, DISK_FULL, str(self.folder))
        if error is not None:
            reason = str(error) if isinstance(error, ProcessDied) else f"{type(error).__name__}: {error}"
            note_death(job.folder, reason)
        self._settle(job, died=error is not None)

    def _settle(self, job: Job, died: bool = False) -> None:
        """Look at what a job has come to: it is done, starts again, or is given up."""
        planned = self._planned[job.id]
        planned.job = job = self.jobs[job.id] = read_job(job.folder)
        if job.state == "finished":
            self.screen.finished(job)
            self.search.tell(job)
            return
        if job.state == "interrupted" and not died and self.launcher.slots == 1 and _own_process(job):
            # The user stopped it, and the job took the signal that was meant for the sweep.
            terminated = job.status.reason == "stopped by SIGTERM"
            self.stopped_by = signal.SIGTERM if terminated else signal.SIGINT
            return
        left = self._starts_left.get(job.id, 0)
        if left > 0 and not job.status.final and not (self.fail_fast and job.state == "failed"):
            self.screen.will_retry(job)
            self._again.append(planned)
            return
        if job.state != "failed":
            job.status.state = "failed"
            write_status(job.folder, job.status)
            job = self.jobs[job.id] = read_job(job.folder)
        self._give_up(job)

    def _give_up(self, job: Job) -> None:
        self._failed = True
        self.screen.failed(job)
        self.search.tell(job)

    def _look_elsewhere(self) -> None:
        """Jobs that another process was at work on when the sweep started."""
        for job in list(self._elsewhere.values()):
            now = read_job(job.folder)
            if now.state == "running":
                continue
            del self._elsewhere[job.id]
            self._starts_left[job.id] = 1 + self.retries
            self._settle(job)

    def _stop_jobs(self) -> None:
        """Ask what runs to save and end, and wait for it; a second interrupt does not wait."""
        if not self._running:
            return
        self.screen.stopping(len(self._running))
        for job in self._running.values():
            with contextlib.suppress(OSError):
                request_stop(job.folder)
        try:
            while self._running:
                for ended in self.launcher.wait(0.5):
                    job = self._running.pop(ended.folder.name)
                    self.jobs[job.id] = read_job(job.folder)
                    if self.jobs[job.id].state == "finished":
                        self.screen.finished(self.jobs[job.id])
                        self.search.tell(self.jobs[job.id])
        except KeyboardInterrupt:
            self.launcher.close(kill=True)
            self._running.clear()


def enter(planned: Planned) -> Job:
    """The job as its folder has it; a new folder where there is none, or only a damaged one."""
    folder = planned.job.folder
    if folder.exists():
        try:
            job = read_job(folder)
            if (folder / "config.yaml").is_file():
                return job
        except ValueError:
            pass
        move_aside(folder)
    planned.write()
    return read_job(folder)


def note_death(folder: Path, reason: str) -> None:
    """Write down what a job's process could not: that it died. What is finished stays so."""
    try:
        status = read_status(folder)
    except ValueError:
        status = Status()
    if status.state in ("finished", "failed"):
        return
    status.state, status.reason = "interrupted", reason
    write_status(folder, status)


def what_next(job: Job, retries: int) -> str:
    """What a start of the sweep does with a job, in a few words."""
    match job.state:
        case "finished":
            return "finished, stays"
        case "running":
            return "running already, waited for"
        case "interrupted":
            return f"goes on after epoch {job.status.epoch}" if has_checkpoint(job) else "starts again"
        case "failed":
            return "failed, tried again" if retries else "failed, stays (retries=0)"
        case _:
            return "new"


def _own_process(job: Job) -> bool:
    import os

    return job.status.pid == os.getpid()


@contextlib.contextmanager
def _as_interrupt(number: int) -> Iterator[list[int]]:
    """A signal ends what runs as Ctrl-C does; the list tells whether it came."""
    told: list[int] = []

    def interrupt(signum: int, frame: Any) -> None:
        told.append(signum)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before: Callable[..., Any] | int | None = signal.signal(number, interrupt)
    try:
        yield told
    finally:
        signal.signal(number, before if before is not None else signal.SIG_DFL)
