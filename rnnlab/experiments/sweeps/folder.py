"""What a sweep leaves on disk, and how it is read: `read_sweep(folder)`.

    sweep.yaml                what was asked, and the jobs of the last start in order
    lock                      held by the one sweep that is at work here
    study.db                  Optuna's study, where there is one
    jobs/ID/config.yaml       the configuration of the run, as it was composed when the job was planned
    jobs/ID/job.yaml          the words and the point of a job, written once
    jobs/ID/status.json       its state, attempts, times, measures; replaced as a whole
    jobs/ID/alive             locked and touched by the process that works on it
    jobs/ID/log.txt           what the job said
    jobs/ID/run/              the records of the run, as `rnnlab train` leaves them
    jobs/ID/failed-N/         what attempt N left, where that attempt failed

docs/decisions/sweeps.md says why.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

FORMAT = 1
State = Literal["pending", "running", "finished", "failed", "interrupted"]
STATES: tuple[State, ...] = get_args(State)
# A job on another machine is taken for dead when its process has said nothing for so long.
SILENCE_S = 120.0
BEAT_S = 10.0


@dataclass
class Status:
    """`status.json`.

    Attributes:
        state: as it was last written; `Job.state` also knows whether a process is still at work.
        attempts: how often the job was started anew; a job that goes on from a checkpoint is not.
        began: start of the last attempt or continuation, seconds since the epoch.
        ended: its end.
        seconds: time at work, over all attempts and continuations.
        metrics: the last measures of training and validation, and those of the test.
        parameters: numbers in the model's parameters.
        reason: why it failed or was interrupted, in one line.
        epoch: epochs completed.
        epochs: epochs to be made, where that is known.
        step: optimiser steps made.
        host: the machine it ran on.
        pid: the process it ran in.
        device: what it ran on, such as `cpu, 1 threads`.
        code: version of the code that the last attempt ran.
        validations: how often the model was validated.
        best: the best of each objective over all validations.
        values: what the finished job comes to, one number an objective: the best of all validations where it
            is validated, else the last measure.
        pruned: it was ended early, as hopeless; its measures are those of that moment.
        final: it failed in a way that would be the same again.
    """

    state: State = "pending"
    attempts: int = 0
    began: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    reason: str | None = None
    epoch: int = 0
    epochs: int | None = None
    step: int = 0
    host: str | None = None
    pid: int | None = None
    device: str | None = None
    code: str | None = None
    validations: int = 0
    best: dict[str, float] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    pruned: bool = False
    final: bool = False


@dataclass
class Job:
    """One job of a sweep, as its folder tells it.

    Attributes:
        folder: `jobs/ID`.
        id: hash of what the job is: its configuration and the version of the code.
        number: its place in the sweep, from 0.
        words: the settings that make it, `rnnlab train WORDS`.
        point: the value of each swept key.
        code: version of the code that it was planned for.
        config_dir: the user's own configuration folder, or None.
        trial: number of the Optuna trial, or None.
        status: its `status.json`.
        state: `status.state`, except that `running` without a living process is `interrupted`.
    """

    folder: Path
    id: str
    number: int
    words: list[str]
    point: dict[str, Any]
    code: str
    config_dir: str | None = None
    trial: int | None = None
    status: Status = field(default_factory=Status)
    state: State = "pending"

    @property
    def run(self) -> Path:
        """The folder of the run: `config.yaml`, `metrics.csv`, `checkpoints/`."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """What the job said."""
        return self.folder / "log.txt"

    @property
    def metrics(self) -> dict[str, float]:
        """The last measures of training and validation, and those of the test."""
        return self.status.metrics

    @property
    def measures(self) -> dict[str, float]:
        """`metrics`, but of an objective that is validated the best, as the sweep itself ranks by it."""
        return {**self.status.metrics, **self.status.best}

    @property
    def outcome(self) -> str:
        """`state`, but `pruned` of a job that was ended early as hopeless: it is done, and not comparable."""
        return "pruned" if self.state == "finished" and self.status.pruned else self.state

    @property
    def label(self) -> str:
        """The point in one line: `cell=gru seed=1`."""
        return " ".join(f"{key}={_plain(value)}" for key, value in self.point.items()) or self.id

    def write(self) -> None:
        """Make the folder with `job.yaml`; what is there already stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "job.yaml").exists():
            known = {
                "format": FORMAT,
                "id": self.id,
                "number": self.number,
                "words": self.words,
                "point": self.point,
                "code": self.code,
                "config_dir": self.config_dir,
                "trial": self.trial,
            }
            write_whole(self.folder / "job.yaml", yaml.safe_dump(known, sort_keys=False, allow_unicode=True))


@dataclass
class Sweep:
    """A sweep as its folder tells it.

    Attributes:
        folder: where it lies.
        about: `sweep.yaml`.
        jobs: those of the last start, in order.
        others: jobs in the folder that the last start did not ask for (other code, an earlier grid).
        damaged: folders under `jobs` that cannot be read, each with the reason.
    """

    folder: Path
    about: dict[str, Any]
    jobs: list[Job]
    others: list[Job]
    damaged: list[tuple[Path, str]]

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The swept keys, each with the values that the jobs have of it, in order of appearance."""
        found: dict[str, list[Any]] = {}
        for job in self.jobs:
            for key, value in job.point.items():
                values = found.setdefault(key, [])
                if value not in values:
                    values.append(value)
        return found

    @property
    def objectives(self) -> list[tuple[str, str]]:
        """What the sweep looks at: `(metric, "min" or "max")`, the first one foremost."""
        return [(str(item["metric"]), str(item["mode"])) for item in self.about.get("objectives", [])]

    @property
    def allowed(self) -> list[str]:
        """Modules that the user let the last start name: a record for commands shown, no permission."""
        modules = self.about.get("allow")
        return [str(module) for module in modules] if isinstance(modules, list) else []


def read_sweep(folder: str | Path) -> Sweep:
    """The sweep in a folder; it may be at work meanwhile.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: not the folder of a sweep, or of a newer rnnlab.
    """
    given = Path(folder).expanduser()
    if not given.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    file = given / "sweep.yaml"
    if not file.is_file():
        raise ValueError(f"{folder}: not the folder of a sweep: it has no sweep.yaml")
    about = _read_yaml(file, "sweep.yaml")
    if about.get("format") != FORMAT:
        raise ValueError(f"{file}: format {about.get('format')!r}, this rnnlab reads {FORMAT}: update rnnlab")
    jobs: dict[str, Job] = {}
    damaged: list[tuple[Path, str]] = []
    for place in sorted((given / "jobs").glob("*")) if (given / "jobs").is_dir() else []:
        if not place.is_dir() or "." in place.name:  # moved aside
            continue
        try:
            jobs[place.name] = read_job(place)
        except (ValueError, OSError) as error:
            damaged.append((place, str(error)))
    order = [str(name) for name in about.get("jobs", [])]
    asked = [jobs.pop(name) for name in order if name in jobs]
    return Sweep(given, about, asked, sorted(jobs.values(), key=lambda job: job.number), damaged)


def read_job(folder: Path) -> Job:
    """One job.

    Raises:
        ValueError: its files are missing or damaged.
    """
    known = _read_yaml(folder / "job.yaml", "job.yaml")
    try:
        job = Job(
            folder=folder,
            id=str(known["id"]),
            number=int(known["number"]),
            words=[str(word) for word in known["words"]],
            point=dict(known["point"]),
            code=str(known["code"]),
            config_dir=known.get("config_dir"),
            trial=known.get("trial"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"job.yaml is damaged: {error!r}") from error
    if job.id != folder.name:
        raise ValueError(f"job.yaml is of the job {job.id}, not of {folder.name}")
    job.status = read_status(folder)
    job.state = job.status.state
    if job.state == "running" and not is_alive(folder, job.status):
        job.state = "interrupted"
    return job


def read_status(folder: Path) -> Status:
    """`status.json` of a job; the status of a job that never began where there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        text = (folder / "status.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return Status()
    try:
        content = json.loads(text)
        names = {item.name for item in fields(Status)}
        status = Status(**{key: value for key, value in content.items() if key in names})
        status.metrics = {str(key): float(value) for key, value in status.metrics.items()}
        status.best = {str(key): float(value) for key, value in status.best.items()}
        status.values = [float(value) for value in status.values]
        if status.state not in STATES:
            raise ValueError(f"the state {status.state!r} does not exist")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"status.json is damaged: {error}") from error
    return status


def write_status(folder: Path, status: Status) -> None:
    """Replace `status.json` as a whole; numbers that JSON does not know (nan, inf) are written as text."""
    content = asdict(status)
    for name in ("metrics", "best"):
        content[name] = {key: _spelt(value) for key, value in content[name].items()}
    content["values"] = [_spelt(value) for value in status.values]
    write_whole(folder / "status.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Replace `sweep.yaml` as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"format": FORMAT, **about}, sort_keys=False, allow_unicode=True)
    write_whole(folder / "sweep.yaml", text)


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader, and a crash, finds the old content or the new, and nothing between."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def move_aside(folder: Path) -> Path:
    """Take a damaged folder of a job out of the way, and say where it lies now."""
    numbered = (folder.with_name(f"{folder.name}.damaged-{n}") for n in itertools.count(1))
    target = next(place for place in numbered if not place.exists())
    shutil.move(folder, target)
    return target


def is_alive(folder: Path, status: Status) -> bool:
    """Whether a process works on a job: it holds the lock here, or was heard of from another machine."""
    file = folder / "alive"
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # readers do not disturb each other
    except OSError:
        return True
    finally:
        os.close(handle)
    elsewhere = status.host not in (None, socket.gethostname())
    return elsewhere and time.time() - file.stat().st_mtime < SILENCE_S


class Busy(Exception):
    """Somebody else holds the lock."""


@contextmanager
def lock(file: Path, content: str = "") -> Iterator[int]:
    """Hold the lock of a file; it falls with the process, however that ends.

    Raises:
        Busy: somebody else holds it; the message is what the holder wrote into it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Busy(os.read(handle, 4096).decode("utf-8", "replace").strip()) from error
        os.ftruncate(handle, 0)
        os.write(handle, content.encode("utf-8"))
        yield handle
    finally:
        os.close(handle)


def _read_yaml(file: Path, name: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{name} is missing") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} is damaged: expected a mapping")
    return cast("dict[str, Any]", content)


def _spelt(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_plain(item) for item in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
