"""One job of a sweep: its lock, its log, where it goes on, and what its status says in the end.

Everything is told by the job's folder, so that it matters not in which process a job runs:
`perform(order)` is called by every launcher, and `python -m rnnlab.experiments.sweeps.job ORDER` by jobs of
several processes, which Lightning starts by running the same command again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnnlab.experiments.sweeps.folder import (
    Busy,
    Job,
    State,
    Status,
    lock,
    read_job,
    write_status,
)


@dataclass(frozen=True)
class Order:
    """What a process must know to do a job.

    Attributes:
        folder: of the job.
        threads: CPU threads, unless the job's own settings say; None leaves the choice to PyTorch.
        objectives: `(metric, "min" or "max")`.
        asked: the user named them, so that a run that does not measure them has failed.
        trial: address of the study, its name and the trial, where trials are pruned.
        pruner: name and argument of the pruner.
        parent: the process whose death ends the job.
        path: folders where the user's own modules are found.
        trusted: modules that configurations may name.
        any_code: go on from what another version of the code has left.
        own_process: the process does nothing but jobs, and all its output is the job's.
        main: the process is the first of the job's own.
    """

    folder: str
    threads: int | None = None
    objectives: tuple[tuple[str, str], ...] = ()
    asked: bool = False
    trial: tuple[str, str, int] | None = None
    pruner: str = "none"
    parent: int | None = None
    path: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    any_code: bool = False
    own_process: bool = True
    main: bool = False


def perform(order: Order) -> State:
    """Do a job, or go on with it; a finished one is left alone. Its end stands in its status.

    Returns:
        finished, failed, or interrupted.

    Raises:
        OSError: the disk is full, or the job's folder cannot be written.
    """
    folder = Path(order.folder)
    for entry in order.path:
        if entry not in sys.path:
            sys.path.append(entry)
    with _trusting(order.trusted):
        if not order.main and is_distributed(_config(folder, order).trainer):
            return _in_processes_of_its_own(order)
        with _held(folder):
            job = read_job(folder)
            return "finished" if job.status.state == "finished" else _perform(order, job)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a job; who comes second waits for the first to end."""
    while True:
        with contextlib.suppress(Busy), lock(folder / "alive"):
            yield
            return
        time.sleep(0.2)


def _perform(order: Order, job: Job) -> State:
    from rnnlab.experiments.sweeps.isolation import isolated, output_to
    from rnnlab.experiments.sweeps.watch import STOP, Pulse

    config = _config(job.folder, order)
    goes_on = job.status.state in ("running", "interrupted") and has_checkpoint(job)
    status = _begin(order, job, config, goes_on)
    if status.state != "running":
        return status.state
    (job.folder / STOP).unlink(missing_ok=True)
    pulse = Pulse(job.folder, order.parent)
    began, before_s = time.monotonic(), status.seconds
    try:
        with isolated(), output_to(job.log, order.own_process):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.default_int_handler)
            pulse.start()
            try:
                _train(order, job, config, status, pulse, goes_on)
            except (KeyboardInterrupt, SystemExit) as stop:
                terminated = getattr(stop, "code", None) == 128 + signal.SIGTERM
                told = "stopped by SIGTERM" if terminated else "interrupted"
                status.state, status.reason = "interrupted", pulse.stop_asked or told
            except Exception as error:
                traceback.print_exc()
                if is_disk_full(error):
                    raise
                status.state, status.reason = "failed", f"{type(error).__name__}: {_one_line(error)}"
                status.final = isinstance(error, ValueError | TypeError) and not job.run.exists()
            finally:
                pulse.finish()
    finally:
        status.ended = time.time()
        status.seconds = before_s + time.monotonic() - began
        if status.state == "running":
            status.state, status.reason = "interrupted", "no space left on the disk"
        elif status.state == "finished":
            _settle(status, order)
        with contextlib.suppress(OSError) if status.state == "interrupted" else contextlib.nullcontext():
            write_status(job.folder, status)
    return status.state


def _begin(order: Order, job: Job, config: Any, goes_on: bool) -> Status:
    """The status of a job that starts now: from its beginning, or where it was interrupted."""
    from omegaconf import OmegaConf

    from rnnlab.experiments.sweeps.version import code_version

    status, before = job.status, job.status.state
    if not goes_on:
        if before == "failed" and job.run.exists():
            job.run.rename(_next_name(job.folder / "failed-1"))
        elif job.run.exists():
            shutil.rmtree(job.run)
        status = Status(attempts=status.attempts)
    if before not in ("running", "interrupted"):
        status.attempts += 1
    plain: Any = OmegaConf.to_container(config, resolve=True)
    status.code = code_version(plain)
    status.began, status.ended, status.reason = time.time(), None, None
    status.host, status.pid = socket.gethostname(), os.getpid()
    status.state = "running"
    if status.code != job.code and not order.any_code:
        status.state, status.final = "failed", True
        status.reason = (
            f"the code has changed since the job was planned ({job.code}, now {status.code}): "
            "start the sweep again, or give code=any"
        )
    write_status(job.folder, status)
    return status


def _train(order: Order, job: Job, config: Any, status: Status, pulse: Any, goes_on: bool) -> None:
    from rnnlab.experiments.sweeps.watch import Watch
    from rnnlab.training.run import train

    judge = None
    if order.trial is not None and order.pruner != "none":
        from rnnlab.experiments.sweeps.optuna_search import OptunaJudge

        judge = OptunaJudge(*order.trial, order.pruner)
    watch = Watch(job.folder, status, order.objectives, judge)
    resume = str(job.run) if goes_on else None
    result = train(config, resume=resume, overrides=job.words, callbacks=[watch], console=True)
    status.metrics.update(result.metrics)
    status.step = result.trainer.global_step
    status.device = _device(result)
    if result.interrupted:
        signum = result.signum or signal.SIGINT
        status.state = "interrupted"
        status.reason = pulse.stop_asked or f"stopped by {signal.Signals(signum).name}"
        return
    missing = [name for name, _ in order.objectives if _value(status, name) is None]
    if missing and order.asked:
        logged = ", ".join(sorted(status.metrics))
        raise ValueError(f"the run has not measured {', '.join(missing)}; there are {logged}")
    status.state = "finished"


def _settle(status: Status, order: Order) -> None:
    """What the job comes to, one number an objective; times are known only now."""
    values = [_value(status, name) for name, _ in order.objectives]
    status.values = [float("nan") if value is None else value for value in values]


def _value(status: Status, name: str) -> float | None:
    """An objective's value: the best of all validations, else the last measure of that name."""
    if name == "seconds":
        return status.seconds
    if name == "parameters":
        return None if status.parameters is None else float(status.parameters)
    return status.best.get(name, status.metrics.get(name))


def has_checkpoint(job: Job) -> bool:
    """Whether there is something to go on from."""
    return any((job.run / "checkpoints").glob("*.ckpt"))


def is_distributed(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer runs in more than one process."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, list | tuple):
        several = len(devices) > 1
    else:
        several = str(devices) not in ("1", "auto")
    return several or int(trainer.get("num_nodes") or 1) > 1


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what led to it, is a disk without room."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _config(folder: Path, order: Order) -> Any:
    from omegaconf import OmegaConf

    config: Any = OmegaConf.load(folder / "config.yaml")
    config.run_dir = str((folder / "run").resolve())
    if config.get("threads") is None:
        config.threads = order.threads
    return config


def _in_processes_of_its_own(order: Order) -> State:
    """A job of several processes, all of which run one command: Lightning repeats that of the first."""
    from rnnlab.experiments.sweeps.folder import write_whole

    folder = Path(order.folder)
    if order.pruner != "none":
        raise ValueError(f"pruner={order.pruner}: a job of several processes cannot be pruned")
    own = dataclasses.replace(order, main=True, own_process=True, parent=os.getpid())
    file = folder / "order.json"
    write_whole(file, json.dumps(asdict(own)))
    words = [sys.executable, "-m", "rnnlab.experiments.sweeps.job", str(file.resolve())]
    with (folder / "log.txt").open("ab") as log:
        # In a session of its own, or Ctrl-C would come twice, and the second one does not wait.
        process = subprocess.Popen(
            words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait()
        except KeyboardInterrupt:
            request_stop(folder)
            process.wait()
            raise
    return read_job(folder).state


def request_stop(folder: Path) -> None:
    """Ask a job to save and end."""
    from rnnlab.experiments.sweeps.watch import STOP

    (folder / STOP).touch()


@contextlib.contextmanager
def _trusting(modules: tuple[str, ...]) -> Iterator[None]:
    """Configurations may name these modules meanwhile."""
    if not modules:
        yield
        return
    from rnnlab.training.trust import allowing

    with allowing(*modules):
        yield


def _next_name(folder: Path) -> Path:
    stem = folder.name.rpartition("-")[0]
    return next(place for n in range(1, 10_000) if not (place := folder.with_name(f"{stem}-{n}")).exists())


def _device(result: Any) -> str:
    import torch

    where = str(result.trainer.strategy.root_device)
    return f"{where}, {torch.get_num_threads()} threads" if where == "cpu" else where


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def main(argv: list[str]) -> int:
    """Do the job of an order on file, or help to do it where another process is the first."""
    known = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    known["objectives"] = tuple(tuple(pair) for pair in known["objectives"])
    fields: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    order = Order(**fields)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        return 0 if perform(order) == "finished" else 1
    for entry in order.path:
        if entry not in sys.path:
            sys.path.append(entry)
    from rnnlab.training.run import train

    with _trusting(order.trusted):
        train(_config(Path(order.folder), order))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
