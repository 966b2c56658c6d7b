"""Where the jobs of a sweep run: in this process, in worker processes, under SLURM, on a Ray cluster.

A launcher starts `perform(order)` somewhere and says when it is over. What a job came to stands in its
folder; a launcher adds only what the folder cannot tell: that a process has died.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import gc
import importlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rnnlab.experiments.sweeps.job import Order, perform, request_stop
from rnnlab.experiments.sweeps.settings import SweepSettings
from rnnlab.training.importing import quick_imports


@dataclass(frozen=True)
class Ended:
    """A job that is over for its launcher; `error` is what killed it, where it could not say so itself."""

    folder: Path
    error: BaseException | str | None = None


class Launcher(Protocol):
    """Runs jobs.

    Attributes:
        slots: jobs at a time.
    """

    slots: int

    def submit(self, order: Order) -> None:
        """Start a job; there is a free slot."""

    def wait(self, timeout_s: float) -> list[Ended]:
        """Those that have ended, after at most so many seconds if none has."""

    def close(self, kill: bool = False) -> None:
        """Give everything back; `kill` ends what still runs."""


class InProcess:
    """One job after the other, in this process: no interpreter is started, nothing imported twice."""

    def __init__(self) -> None:
        self.slots = 1
        self._orders: list[Order] = []
        self._ended: list[Ended] = []

    def submit(self, order: Order) -> None:
        """Remember the job."""
        self._orders.append(replace(order, own_process=False))

    def wait(self, timeout_s: float) -> list[Ended]:
        """Do the job; one that is interrupted is told of by the next call."""
        while self._orders:
            order = self._orders.pop(0)
            try:
                perform(order)
            except Exception as error:
                self._ended.append(Ended(Path(order.folder), error))
            except BaseException:
                self._ended.append(Ended(Path(order.folder)))
                raise
            else:
                self._ended.append(Ended(Path(order.folder)))
        ended, self._ended = self._ended, []
        return ended

    def close(self, kill: bool = False) -> None:
        """Nothing is held."""


class Joblib:
    """Worker processes by joblib's loky, one a slot, which live and keep their imports as long as the sweep.

    A slot is an executor of one worker, so that a worker that dies takes no other job with it, and so that
    its GPU and its threads are its own from the start.

    Args:
        workers: slots.
        threads: CPU threads of each.
        gpus: the GPUs of each slot, as `CUDA_VISIBLE_DEVICES`; None leaves them alone.
    """

    def __init__(self, workers: int, threads: int, gpus: Sequence[str] | None = None) -> None:
        self.slots, self.threads, self.gpus = workers, threads, gpus
        self._executors: dict[int, Any] = {}
        self._running: dict[int, tuple[Order, Future[Any]]] = {}

    def warm(self) -> None:
        """Let the workers import what every job needs, while the jobs are still being planned."""
        for slot in range(self.slots):
            self._executor(slot).submit(_import_what_jobs_need)

    def submit(self, order: Order) -> None:
        """Start a job in a free slot."""
        slot = next(number for number in range(self.slots) if number not in self._running)
        own = replace(order, threads=order.threads or self.threads, parent=os.getpid())
        try:
            future = self._executor(slot).submit(_work, own)
        except RuntimeError:  # the worker died while it was idle
            self._drop(slot)
            future = self._executor(slot).submit(_work, own)
        self._running[slot] = (order, future)

    def wait(self, timeout_s: float) -> list[Ended]:
        """Those that have ended; a slot whose worker died gets another worker."""
        futures = [future for _, future in self._running.values()]
        if not futures:
            return []
        wait(futures, timeout=timeout_s, return_when=FIRST_COMPLETED)
        ended = []
        for slot, (order, future) in list(self._running.items()):
            if not future.done():
                continue
            del self._running[slot]
            error = future.exception()
            if error is not None and "Terminated" in type(error).__name__ + type(error).__mro__[1].__name__:
                self._drop(slot)
                error = ProcessDied("the worker process died: killed, or out of memory")
            ended.append(Ended(Path(order.folder), error))
        return ended

    def close(self, kill: bool = False) -> None:
        """End the workers at once: what they have done is on disk."""
        for executor in self._executors.values():
            executor.shutdown(wait=True, kill_workers=True)
        self._executors.clear()

    def environment(self, slot: int) -> dict[str, str]:
        """What the worker of a slot finds in its environment."""
        found = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        if self.gpus is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.gpus[slot]
        return found

    def _executor(self, slot: int) -> Any:
        from joblib.externals.loky.process_executor import ProcessPoolExecutor

        if slot not in self._executors:
            self._executors[slot] = ProcessPoolExecutor(
                max_workers=1,
                env=self.environment(slot),
                initializer=_become_worker,
                initargs=(os.getpid(),),
            )
        return self._executors[slot]

    def _drop(self, slot: int) -> None:
        executor = self._executors.pop(slot, None)
        if executor is not None:
            executor.shutdown(wait=False, kill_workers=True)


class ProcessDied(RuntimeError):
    """The process of a job has died."""


_at_work = threading.Lock()


def _become_worker(parent: int) -> None:
    """Leave Ctrl-C to the sweep, which asks its jobs itself to save and end; do not outlive it."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _import_what_jobs_need() -> None:
    """Import once for all jobs; the collection of garbage after each need not look through it again."""
    with quick_imports():
        importlib.import_module("rnnlab.training.run")
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules complain at the end of what was never collected


def _work(order: Order) -> str:
    with _at_work:
        return perform(order)


def _end_with(parent: int) -> None:
    """End this process when its parent has, but let a job save first."""
    while os.getppid() == parent:
        time.sleep(0.5)
    with _at_work:
        os._exit(1)


class Submitit:
    """Jobs of a SLURM cluster, or of submitit's local stand-in for one.

    Args:
        folder: for submitit's own files.
        workers: jobs in the queue at a time.
        parameters: `cluster` (slurm or local), and what `AutoExecutor.update_parameters` takes.

    Raises:
        ValueError: submitit or the scheduler is not there, or a parameter is unknown.
    """

    def __init__(self, folder: Path, workers: int, parameters: Mapping[str, Any]) -> None:
        submitit = _import("submitit")
        self.slots = workers
        rest = dict(parameters)
        cluster = str(rest.pop("cluster", "slurm"))
        if cluster not in ("slurm", "local"):
            raise ValueError(f"submitit.cluster={cluster}: expected slurm or local")
        if cluster == "slurm" and not _on_path("sbatch"):
            raise ValueError(
                "launcher=submitit: there is no sbatch on this machine; start the sweep where SLURM is, "
                "or give submitit.cluster=local"
            )
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(**{"name": "rnnlab", "timeout_min": 60, **rest})
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            for made in (folder, folder.parent):
                with contextlib.suppress(OSError):  # not empty: it was there before
                    made.rmdir()
            raise ValueError(_submitit_says(error, rest)) from error
        self._running: list[tuple[Order, Any]] = []

    def submit(self, order: Order) -> None:
        """Put a job into the queue."""
        self._running.append((order, self.executor.submit(PreemptibleJob(order))))

    def wait(self, timeout_s: float) -> list[Ended]:
        """Those that have left the queue."""
        until = time.monotonic() + timeout_s
        while True:
            over = [(order, job) for order, job in self._running if job.done()]
            if over or time.monotonic() >= until:
                break
            time.sleep(0.2)
        ended = []
        for order, job in over:
            self._running.remove((order, job))
            error = job.exception()
            if error is not None:
                error = ProcessDied(f"submitit's job {job.job_id}: {_last_line(job)}")
            ended.append(Ended(Path(order.folder), error))
        return ended

    def close(self, kill: bool = False) -> None:
        """Leave the queue; `kill` cancels what is in it."""
        for _, job in self._running if kill else ():
            job.cancel(check=False)


def _submitit_says(error: BaseException, parameters: Mapping[str, Any]) -> str:
    """Its message; where it lists all that it knows after a misspelt parameter, only the nearest of them."""
    told = " ".join(str(error).split())
    for key in parameters:
        _, underscore, name = key.rpartition("slurm_")
        if f"'{name}'" in told and "nknown" in told:
            known = set(re.findall(r"\w+", told)) - {key, name}
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean submitit.{underscore}{near[0]}?" if near else f": {told}"
            return f"submitit.{key}: submitit has no such parameter{hint}"
    return f"submitit: {told}"


class PreemptibleJob:
    """A job as submitit runs it: told that its time is over, it saves, and is put into the queue again."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __call__(self) -> str:
        """Do the job; requeue it where the scheduler has interrupted it."""
        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        requeue = signal.getsignal(number)
        told: list[int] = []

        def remember(signum: int, frame: Any) -> None:
            told.append(signum)
            request_stop(Path(self.order.folder))

        signal.signal(number, remember)
        state = perform(self.order)
        if told and state == "interrupted" and callable(requeue):
            requeue(number, None)
        return state

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same; the job's folder knows the rest."""
        return _import("submitit").helpers.DelayedSubmission(PreemptibleJob(self.order))


class Ray:
    """Tasks of a Ray cluster whose machines see the sweep's folder.

    Args:
        workers: tasks at a time.
        threads: CPUs of each.
        gpus: GPUs of each.
        address: the cluster; None starts one on this machine.

    Raises:
        ValueError: Ray is not there, or the cluster does not answer.
    """

    def __init__(self, workers: int, threads: int, gpus: int = 0, address: str | None = None) -> None:
        ray = self._ray = _import("ray")
        self.slots, self.threads = workers, threads
        if address is not None:
            _require_listener(address)
        local = {} if address else {"num_cpus": max(1, workers * threads), "include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, OSError) as error:
            raise ValueError(f"ray_address={address}: no cluster answers there: {error}") from error
        variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        task = ray.remote(perform)
        self._task = task.options(
            num_cpus=threads, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": variables}
        )
        self._running: dict[Any, Order] = {}

    def submit(self, order: Order) -> None:
        """Start a task."""
        reference = self._task.remote(replace(order, threads=order.threads or self.threads))
        self._running[reference] = order

    def wait(self, timeout_s: float) -> list[Ended]:
        """Those that have ended."""
        if not self._running:
            return []
        over, _ = self._ray.wait(list(self._running), timeout=timeout_s)
        ended = []
        for reference in over:
            order = self._running.pop(reference)
            error: BaseException | None = None
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as failure:
                error = failure.as_instanceof_cause()
            except self._ray.exceptions.RayError as failure:
                error = ProcessDied(f"the task died: {str(failure).splitlines()[0]}")
            ended.append(Ended(Path(order.folder), error))
        return ended

    def close(self, kill: bool = False) -> None:
        """Leave the cluster."""
        for reference in self._running if kill else ():
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _require_listener(address: str) -> None:
    """Ray asks a machine that does not answer for minutes: find out before.

    Raises:
        ValueError: nobody listens at `HOST:PORT`, or `ray://HOST:PORT`.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`: Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"ray_address={address}: no cluster answers there: {error}") from error


def make_launcher(settings: SweepSettings, folder: Path) -> Launcher:
    """The launcher that the settings name.

    Raises:
        ValueError: it cannot run here.
    """
    gpus = visible_gpus()
    per_job = settings.gpus_per_job
    if per_job is None:
        per_job = 1 if len(gpus) > 1 and settings.launcher in ("joblib", "ray") else 0
    cores = len(os.sched_getaffinity(0))
    match settings.launcher:
        case "in_process":
            return InProcess()
        case "joblib":
            _import("joblib")
            shares = share_gpus(gpus, per_job) if per_job else None
            workers = settings.workers or (len(shares) if shares else cores)
            if shares is not None and workers > len(shares):
                raise ValueError(
                    f"workers={workers}: {len(gpus)} GPUs, {per_job} a job, serve {len(shares)} workers"
                )
            return Joblib(workers, max(1, cores // workers), shares)
        case "submitit":
            return Submitit(folder / "submitit", settings.workers or 64, settings.submitit)
        case "ray":
            workers = settings.workers or (len(gpus) // per_job if per_job else cores)
            threads = max(1, cores // workers)
            return Ray(workers, threads, per_job, settings.ray_address)


def share_gpus(gpus: Sequence[str], per_job: int) -> list[str]:
    """`CUDA_VISIBLE_DEVICES` of each slot: so many GPUs each, none twice.

    Raises:
        ValueError: there are fewer than one job needs.
    """
    if per_job > len(gpus):
        raise ValueError(f"gpus_per_job={per_job}: this machine has {len(gpus)}")
    return [",".join(gpus[i : i + per_job]) for i in range(0, len(gpus) - per_job + 1, per_job)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, found without touching one."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [part.strip() for part in given.split(",") if part.strip() not in ("", "-1")]
    if not _on_path("nvidia-smi"):
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(found))]


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"launcher={package}: needs the package {error.name!r}: pip install 'rnnlab[{package}]'"
        ) from error


def _on_path(program: str) -> bool:
    import shutil

    return shutil.which(program) is not None


def _last_line(job: Any) -> str:
    text = (job.stderr() or job.stdout() or "").strip()
    return text.splitlines()[-1][:300] if text else "it ended without a word"
