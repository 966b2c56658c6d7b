"""Callbacks of a run: what a checkpoint says of itself, the line of progress, the learning curve."""

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from rnnlab.training.loggers import MetricsCSV
from rnnlab.training.plots import learning_curve


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
    """`best.ckpt` by one metric, and `last.ckpt` after each validation and when the run is interrupted.

    Args:
        folder: where they are written.
        monitor: the metric; the task's own unless it is given.
        mode: whether the metric is best when it is smallest or largest; the task's own unless it is given.
        save_last: keep `last.ckpt` as well.
        save_weights_only: leave out what only continued training needs.
    """

    def __init__(
        self,
        folder: str | Path,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        save_last: bool = True,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=save_last,
            save_weights_only=save_weights_only,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

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
        """Keep at least the last state of a run that ends before its first validation."""
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
        elif self.save_last:
            self._save_now(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep what an interrupted run has learned."""
        if isinstance(exception, KeyboardInterrupt) and self.save_last and trainer.global_step > 0:
            self._save_now(trainer)

    def _save_now(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(str(Path(self.dirpath or ".") / "last.ckpt"), self.save_weights_only)


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

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._due(trainer):
            self._show("testing")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show("")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {
            key: float(value)
            for key, value in sorted(trainer.callback_metrics.items())
            if not key.endswith("_step")
        }
        names = {key.removesuffix("_epoch"): value for key, value in metrics.items()}
        told = "  ".join(f"{key} {value:.4f}" for key, value in names.items())
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
