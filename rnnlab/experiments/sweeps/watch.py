"""What a job tells of itself while it trains, and how it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from rnnlab.experiments.sweeps.folder import BEAT_S, Status, write_status

# A request to stop, in a job's folder.
STOP = "stop"
# How often the progress of a job is written down.
TELL_S = 2.0


class Judge(Protocol):
    """Says after each validation whether a trial is hopeless."""

    def hopeless(self, value: float, step: int) -> bool: ...


class Pulse(threading.Thread):
    """Touches a job's `alive` file, and sees when the job is to stop: by request, or with its sweep.

    It then interrupts its process once, which lets a run finish its step, save and end.

    Args:
        folder: of the job.
        parent: the process of the sweep, where it is this one's parent; the job stops when that has died.
    """

    def __init__(self, folder: Path, parent: int | None) -> None:
        super().__init__(name="rnnlab-pulse", daemon=True)
        self.folder, self.parent = folder, parent
        self.stop_asked: str | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Until `finish`."""
        beaten = 0.0
        while not self._over.wait(0.25):
            if time.monotonic() - beaten >= BEAT_S:
                beaten = time.monotonic()
                with contextlib.suppress(OSError):  # the folder is gone; the run will find out
                    os.utime(self.folder / "alive")
            if self.stop_asked is not None:
                continue
            if self.parent is not None and os.getppid() != self.parent:
                self.stop_asked = "the sweep that it belongs to has ended"
            elif (self.folder / STOP).exists():
                self.stop_asked = "stopped with the sweep"
            if self.stop_asked is not None:
                os.kill(os.getpid(), signal.SIGINT)

    def finish(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


class Watch(Callback):
    """Writes a job's progress into its status, and ends its training when that is hopeless.

    Args:
        folder: of the job.
        status: what `status.json` holds; kept up to date.
        objectives: `(metric, "min" or "max")`; the best of each over all validations is kept.
        judge: ends a hopeless trial; None lets all run to their end.
    """

    def __init__(
        self,
        folder: Path,
        status: Status,
        objectives: Sequence[tuple[str, str]],
        judge: Judge | None = None,
    ) -> None:
        self.folder, self.status = folder, status
        self.objectives, self.judge = objectives, judge
        self._told_at = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.max_epochs
        self.status.epochs = last if last is not None and last > 0 else None
        self.status.parameters = sum(p.numel() for p in pl_module.parameters() if _has_shape(p))
        self._tell(trainer, at_once=True)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._tell(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn == "fit":
            self._tell(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        measured = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.status.metrics.update(measured)
        self.status.validations += 1
        for metric, mode in self.objectives:
            value = measured.get(metric)
            if value is not None and _is_better(value, self.status.best.get(metric), mode):
                self.status.best[metric] = value
        if self.judge is not None and self.objectives and trainer.is_global_zero:
            value = measured.get(self.objectives[0][0])
            if value is not None and self.judge.hopeless(value, self.status.validations):
                self.status.pruned = True
                self.status.reason = f"pruned after {self.status.validations} validations"
                trainer.should_stop = True
        self._tell(trainer, at_once=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.status.epoch = trainer.current_epoch + 1
        self._tell(trainer)

    def _tell(self, trainer: pl.Trainer, at_once: bool = False) -> None:
        now = time.monotonic()
        if not trainer.is_global_zero or (not at_once and now - self._told_at < TELL_S):
            return
        self._told_at = now
        self.status.step = trainer.global_step
        write_status(self.folder, self.status)


def _is_better(value: float, than: float | None, mode: str) -> bool:
    if value != value:  # not a number
        return False
    return than is None or (value < than if mode == "min" else value > than)


def _has_shape(parameter: Any) -> bool:
    from torch.nn.parameter import is_lazy

    return not is_lazy(parameter)
