"""Callbacks of a run: what a checkpoint says of itself, the line of progress, the learning curve."""

import contextlib
import shutil
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from rnnlab.training.loggers import MetricsCSV
from rnnlab.training.plots import learning_curve
from rnnlab.training.storage import WholeCheckpointIO, clean_leftovers


class Provenance(Callback):
    """Puts the record that rebuilds the model into every checkpoint of a run.

    Args:
        record: of `rnnlab.training.checkpoint.describe_model`.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = dict(record)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["rnnlab"] = self.record


class Checkpoint(ModelCheckpoint):
    """`best.ckpt` by one metric, and `last.ckpt`, from which training goes on to the bit.

    `last.ckpt` is written before each validation, after each epoch, and when a signal stops the run; the one
    before it stays as `previous.ckpt`.

    Args:
        folder: where they are written.
        monitor: the metric; the task's own unless it is given.
        mode: whether the metric is best when it is smallest or largest; the task's own unless it is given.
        save_last: keep `last.ckpt` as well.
        save_weights_only: leave out of `best.ckpt` what only continued training needs.
        every_n_steps: write `last.ckpt` after every so many steps too.
        every_minutes: write it when so much time has passed since it was written.

    Raises:
        ValueError: an interval that is not positive.
    """

    def __init__(
        self,
        folder: str | Path,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_last: bool = True,
        save_weights_only: bool = False,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value}: expected more than 0, or null")
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=False,
            enable_version_counter=False,
            auto_insert_metric_name=False,
            # Metrics of training are whole at the end of an epoch, those of validation before.
            save_on_train_epoch_end=monitor is not None and monitor.startswith("train/"),
        )
        self.keep_last = save_last
        self.best_without_training_state = save_weights_only
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._last_step = 0
        self._last_written = time.monotonic()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take away what a killed run has left half-written."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and Path(self.dirpath or "").is_dir():
            clean_leftovers(Path(self.dirpath or ""))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_step, self._last_written = trainer.global_step, time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the state of an epoch that had no validation."""
        self._save_last(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Keep the state after the steps that were asked for."""
        step = trainer.global_step
        by_step = self.every_n_steps is not None and step > 0 and step % self.every_n_steps == 0
        if by_step or self._time_is_over(trainer):
            self._save_last(trainer)

    def _time_is_over(self, trainer: pl.Trainer) -> bool:
        if self.every_minutes is None:
            return False
        over = time.monotonic() - self._last_written > 60 * self.every_minutes
        return trainer.strategy.reduce_boolean_decision(over, all=False) if trainer.world_size > 1 else over

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the state before a validation, which a run that goes on from here begins with."""
        self._save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, unless the metric that is watched does not exist.

        Raises:
            ValueError: validation has logged no metric of that name.
        """
        measured = sorted(trainer.callback_metrics)
        if trainer.state.fn == "fit" and self.monitor is not None and self.monitor not in measured:
            raise ValueError(
                f"callbacks.checkpoint.monitor={self.monitor}: there is no such metric; "
                f"there are {', '.join(measured)}"
            )
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the state of an epoch that `max_steps` cuts short, while its means are still there."""
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
        if not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self.save_last_now(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the final state."""
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self.save_last_now(trainer)

    def save_last_now(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`, even where this step has been saved in another state."""
        trying: Any = getattr(trainer, "fast_dev_run", False)
        if self.keep_last and not trying and not trainer.sanity_checking:
            file = str(Path(self.dirpath or ".") / "last.ckpt")
            self._write(trainer, file, {"keep": "previous.ckpt"})
            self._last_step, self._last_written = trainer.global_step, time.monotonic()

    def _save_last(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn == "fit" and trainer.global_step > self._last_step:
            self.save_last_now(trainer)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self._write(trainer, filepath, {"weights_only": self.best_without_training_state})
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(weakref.proxy(self))

    def _write(self, trainer: pl.Trainer, file: str, options: dict[str, Any]) -> None:
        ours = isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO)
        trainer.save_checkpoint(file, weights_only=False, storage_options=options if ours else None)

    def state_dict(self) -> dict[str, Any]:
        """Scores, and names without their folder, which may be moved."""
        return {
            "best_model_score": self.best_model_score,
            "current_score": self.current_score,
            "kth_value": self.kth_value,
            "best": {Path(file).name: score for file, score in self.best_k_models.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, in the folder of now."""
        folder = Path(self.dirpath or ".")
        self.best_model_score = state_dict["best_model_score"]
        self.current_score = state_dict["current_score"]
        self.kth_value = state_dict["kth_value"]
        self.best_k_models = {str(folder / name): score for name, score in state_dict["best"].items()}
        self.best_model_path = self.kth_best_model_path = next(iter(self.best_k_models), "")


class Progress(Callback):
    """One line of progress, rewritten in a terminal; in a file, one line an epoch.

    Args:
        refresh_s: seconds between two updates in a terminal.
        stream: where it is printed; standard error by default.

    Raises:
        ValueError: `refresh_s` is not positive.
    """

    def __init__(self, refresh_s: float = 0.2, stream: TextIO | None = None) -> None:
        if refresh_s <= 0:
            raise ValueError(f"refresh_s={refresh_s}: expected more than 0 seconds")
        self.refresh_s = refresh_s
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._shown_at = self._began_at = 0.0
        self._validated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # An epoch that is resumed in its middle has no start of its own.
        self._began_at = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._due(trainer):
            return
        elapsed = max(time.monotonic() - self._began_at, 1e-9)
        done, total = batch_idx + 1, trainer.num_training_batches
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        tail = f"{done / elapsed:6.1f} batches/s"
        if isinstance(total, int):
            tail += f"  {_clock((total - done) * elapsed / done)} left"
        if loss is not None:
            tail += f"  loss {float(loss):.4f}"
        self._show(f"{self._epoch(trainer)} {_bar(done, total)} {tail}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._due(trainer):
            self._show(f"{self._epoch(trainer)} validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._due(trainer):
            self._show("testing")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show("")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # Lightning keeps the measures of an earlier validation, which this epoch may not have had.
        names = {
            key.removesuffix("_epoch"): float(value)
            for key, value in trainer.callback_metrics.items()
            if not key.endswith("_step") and (self._validated or not key.startswith("val/"))
        }
        self._validated = False
        ordered = sorted(names, key=lambda key: (key.partition("/")[0], not key.endswith("/loss"), key))
        told = "  ".join(f"{key} {names[key]:.4f}" for key in ordered)
        self._show("")
        spent = _clock(time.monotonic() - self._began_at)
        print(f"{self._epoch(trainer)}  {told}  {spent}", file=self.stream, flush=True)

    def on_exception(self, trainer: pl.Trainer, *args: Any) -> None:
        self._show("")

    def _due(self, trainer: pl.Trainer) -> bool:
        if not self.live or not trainer.is_global_zero or trainer.sanity_checking:
            return False
        now = time.monotonic()
        if now - self._shown_at < self.refresh_s:
            return False
        self._shown_at = now
        return True

    def _epoch(self, trainer: pl.Trainer) -> str:
        last = trainer.max_epochs
        of = f"/{last}" if last is not None and last > 0 else ""
        return f"epoch {trainer.current_epoch + 1}{of}"

    def _show(self, text: str) -> None:
        """Rewrite the line; a terminal that is too narrow cuts it."""
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\033[K{text[:width]}")
            self.stream.flush()


class LearningCurve(Callback):
    """`learning_curve.png`, drawn from `metrics.csv` when training ends or is interrupted.

    Args:
        file: the picture.
        width_inch: its width, in inches.
        height_inch: its height, in inches.

    Raises:
        ValueError: a size that is not positive.
    """

    def __init__(self, file: str | Path, width_inch: float = 8.0, height_inch: float = 3.6) -> None:
        if width_inch <= 0 or height_inch <= 0:
            raise ValueError(f"width_inch={width_inch}, height_inch={height_inch}: expected more than 0")
        self.file = Path(file)
        self.size_inch = (width_inch, height_inch)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer)

    def on_exception(self, trainer: pl.Trainer, *args: Any) -> None:
        with contextlib.suppress(OSError):  # what stopped the run, a full disk, must not be hidden by this
            self._draw(trainer)

    def _draw(self, trainer: pl.Trainer) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
        if trainer.is_global_zero and loggers:
            loggers[0].finalize("draw")
            if loggers[0].file.exists():
                learning_curve(loggers[0].file, self.file, self.size_inch)


def _bar(done: int, total: float, width: int = 24) -> str:
    if not isinstance(total, int) or total <= 0:
        return f"{done} batches"
    full = width * done // total
    return f"[{'=' * full}{' ' * (width - full)}] {done}/{total}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
