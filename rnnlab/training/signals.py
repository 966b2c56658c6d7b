"""Signals that stop a run: it finishes its step, saves, and ends with 128 + the signal's number.

SIGINT and SIGTERM do so everywhere; SIGUSR1 under SLURM, which sends it before a job's time is over, also
puts the job back into the queue. A second signal ends at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from rnnlab.data.batching import GRACE_S
from rnnlab.training.callbacks import Checkpoint


class Stopped(SystemExit):
    """A run was stopped by a signal; uncaught, it ends the process with 128 + the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class StopSignals:
    """Handlers of the signals that stop a run, installed while the block runs.

    What the process inherited, an ignored SIGINT too, is put back at the end. In another thread than the main
    one, where Python allows no handlers, the signals do what they did before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.training = False  # whether there is a step to finish
        self._signals = [signal.SIGINT, signal.SIGTERM]
        if under_slurm():
            self._signals.append(signal.SIGUSR1)
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignals:
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def install(self) -> None:
        """Take the signals, from Lightning's own handlers as well."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in self._signals:
            before = signal.signal(signum, self._handle)
            self._before.setdefault(signum, before)

    def _handle(self, signum: int, frame: object) -> None:
        if os.getpid() != self._process:  # a worker that was forked from the run
            if signum != signal.SIGINT:
                signal.alarm(GRACE_S)
            return
        if self.received is not None:
            end_at_once(signum)
        self.received = signum
        if not self.training:
            raise KeyboardInterrupt if signum == signal.SIGINT else Stopped(signum)
        name = signal.Signals(signum).name
        # Not `print`: the signal may have come in the middle of one.
        os.write(2, f"\nrnnlab: {name}: saving after this step; a second signal ends at once\n".encode())


def end_at_once(signum: int) -> None:
    """End the process and its workers, without saving anything."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + signum)


class StopAtSignal(Callback):
    """Ends training at the next place from which it can go on, once a signal has come.

    Args:
        signals: tells whether one has come.
    """

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, which stops elsewhere and requeues in mid-step."""
        self.signals.install()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        # What there is to save was saved before the validation, which is done anew.
        if self.signals.received is not None and trainer.world_size == 1 and trainer.state.fn == "fit":
            raise Stopped(self.signals.received)

    def _stop(self, trainer: pl.Trainer) -> None:
        signum = self.signals.received
        if trainer.world_size > 1:  # all processes stop at the same step
            wanted = trainer.strategy.reduce_boolean_decision(signum is not None, all=False)
            signum = (signum or signal.SIGTERM) if wanted else None
        if signum is None:
            return
        save_now(trainer)
        raise Stopped(signum)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save if the signal, sent to the whole group, has ended a data-loading worker before the run."""
        if self.signals.received is not None and is_between_batches(trainer, exception):
            save_now(trainer)


def is_between_batches(trainer: pl.Trainer, error: BaseException) -> bool:
    """Whether an error comes from fetching a batch, with the one before it wholly done."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    lost = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
    return lost and bool(trainer.training) and progress.ready == progress.completed


def save_now(trainer: pl.Trainer) -> None:
    """Let the run's checkpoint callback, if it has one, keep the present state."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, Checkpoint):
            callback.save_last_now(trainer)


def under_slurm() -> bool:
    """Whether this process belongs to a SLURM job."""
    return "SLURM_JOB_ID" in os.environ


def requeue() -> str:
    """Put this SLURM job back into the queue; what came of it, in words."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ and "SLURM_ARRAY_TASK_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} could not be requeued: {error}"
    if done.returncode:
        return f"job {job} could not be requeued: {(done.stderr or done.stdout).strip()}"
    return f"job {job} is back in the queue"
