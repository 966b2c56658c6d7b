"""Exact resume: what a checkpoint holds beyond Lightning's own, so that nothing shows where a run stopped.

Lightning keeps weights, optimisers, schedules, callbacks and counters. Added here are the random generators,
the sums behind the means of an epoch, the metrics that callbacks watch, gradients that still accumulate, and
the loggers' rows; and the counters get the form from which Lightning's loops go on with exactly the next
thing: a batch, a validation, or an epoch. This is the one file that knows the insides of those loops.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torchmetrics import Metric

KEY = "resume"
FORMAT = 1

_EPOCHS = "epoch_progress"
_BATCHES = "epoch_loop.batch_progress"
_VALIDATION = "epoch_loop.val_loop.batch_progress"


class ExactResume(Callback):
    """Puts the rest of a run's state into its checkpoints, and takes it up again.

    A run goes on to the bit from a checkpoint that was saved in `on_train_batch_start` (before that batch),
    `on_validation_start` (before that validation), `on_validation_end` or `on_train_epoch_start`.
    """

    def __init__(self) -> None:
        self._found: dict[str, Any] | None = None
        self._between_epochs = False
        self._validated = False
        self._loaders: list[Any] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._between_epochs = True
        self._loaders = []

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._between_epochs = False

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        # The next batch is fetched before any hook is called, so the loaders are asked now where they stand.
        loader = trainer.fit_loop._combined_loader
        self._loaders = [] if loader is None else loader._state_dicts()
        self._validated = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # In an epoch that was resumed Lightning would leave out the schedules that watch a metric.
        trainer.fit_loop._restarting = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._between_epochs = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what is missing, and give the counters their form."""
        if trainer.state.fn != "fit":
            return
        loops = copy.deepcopy(checkpoint["loops"]["fit_loop"])
        # An epoch that max_steps has cut short goes on in a run with more steps.
        between = self._between_epochs and (_epoch_is_full(trainer) or _batches_done(trainer) == 0)
        if between:
            _stand_between_epochs(loops)
        else:
            _stand_within_epoch(loops, trainer, self._validated, self._loaders)
        checkpoint["loops"]["fit_loop"] = loops
        checkpoint[KEY] = {
            "format": FORMAT,
            "between_epochs": between,
            "validated": self._validated,
            "stopped": bool(trainer.should_stop),
            "random": random_state(),
            "sums": _sums(trainer.fit_loop.epoch_loop._results),
            "metrics": dict(trainer._logger_connector._callback_metrics),
            "torchmetrics": _metric_states(pl_module),
            "gradients": _gradients(pl_module) if _accumulating(trainer) else {},
            "loggers": [_logger_state(logger) for logger in trainer.loggers],
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the state until training starts; loggers go back to their rows at once."""
        self._found = checkpoint.get(KEY)
        if self._found is None:
            return
        self._validated = self._found["validated"]
        self._loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
        # By their order among those that have a state: loggers without one may come and go.
        takers = (logger for logger in trainer.loggers if hasattr(logger, "load_state_dict"))
        for logger, state in zip(takers, filter(None, self._found["loggers"]), strict=False):
            logger.load_state_dict(state)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the metrics of before; a run that had stopped by itself stays stopped."""
        if self._found is not None:
            trainer._logger_connector._callback_metrics.update(self._found["metrics"])
            trainer.should_stop = self._found["stopped"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up everything else."""
        if self._found is None:
            return
        found, self._found = self._found, None
        fit = trainer.fit_loop
        if found["between_epochs"]:
            # The next epoch begins as in a run that never stopped: with new iterators, all counters at zero.
            fit._resuming_from_checkpoint = False
            for loop in (fit, fit.epoch_loop, fit.epoch_loop.val_loop):
                loop._restarting = False
        else:
            _restore_sums(trainer, pl_module, found["sums"])
            # A schedule that asks for the number of steps lets Lightning set the loaders up before it can
            # tell them where they stood.
            assert fit._combined_loader is not None and fit._data_fetcher is not None
            fit._combined_loader._load_state_dicts(self._loaders)
            iter(fit._data_fetcher)
        _restore_metric_states(pl_module, found["torchmetrics"])
        named = dict(pl_module.named_parameters())
        for name, gradient in found["gradients"].items():
            named[name].grad = gradient.to(named[name].device)
        set_random_state(found["random"])


def _batches_done(trainer: pl.Trainer) -> int:
    """Batches of this epoch that are wholly trained on."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    return int(progress.current.processed)


def _epoch_is_full(trainer: pl.Trainer) -> bool:
    progress = trainer.fit_loop.epoch_loop.batch_progress
    done = _batches_done(trainer)
    return done >= trainer.num_training_batches or (progress.is_last_batch and progress.current.ready == done)


def _accumulating(trainer: pl.Trainer) -> bool:
    """Whether gradients of finished batches wait for the optimiser's step."""
    return _batches_done(trainer) % trainer.accumulate_grad_batches != 0 and not _epoch_is_full(trainer)


def _level(tracker: dict[str, int], begun: int, done: int) -> None:
    tracker.update({"ready": begun, "started": begun, "processed": done, "completed": done})


def _stand_between_epochs(loops: dict[str, Any]) -> None:
    """The counters when one epoch is over and no other has begun."""
    for part in ("total", "current"):
        done = loops[_EPOCHS][part]["processed"]
        _level(loops[_EPOCHS][part], done, done)
        done = loops[_BATCHES][part]["processed"] if part == "total" else 0
        _level(loops[_BATCHES][part], done, done)
        _level(loops[_VALIDATION][part], 0, 0)
    loops[_BATCHES]["is_last_batch"] = False
    loops["state_dict"]["combined_loader"] = []


def _stand_within_epoch(
    loops: dict[str, Any], trainer: pl.Trainer, validated: bool, loaders: list[Any]
) -> None:
    """The counters after the last finished batch of an epoch; a validation that is due is still to come."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    before_the_end = trainer.validating or progress.current.completed < progress.current.processed
    done, full, accumulating = _batches_done(trainer), _epoch_is_full(trainer), _accumulating(trainer)
    for part in ("total", "current"):
        begun = loops[_EPOCHS][part]["started"]
        _level(loops[_EPOCHS][part], begun, begun - 1)
        batches = loops[_BATCHES][part]["processed"]
        _level(loops[_BATCHES][part], batches, batches)
        _level(loops[_VALIDATION][part], 0, 0)
    loops[_BATCHES]["is_last_batch"] = full
    due = _validation_due(trainer, loops[_BATCHES])
    if due and done > 0 and not validated:
        loops[_VALIDATION]["total"].update({"ready": 1, "started": 1})
    # What the end of a batch adds to the steps of the loggers: it is still to come here, and Lightning goes
    # through it once more where a validation is due, be it done or not.
    step = 0 if accumulating else 1
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] += step * (before_the_end - due)
    loops["state_dict"]["combined_loader"] = copy.deepcopy(loaders) if done > 0 else []


def _validation_due(trainer: pl.Trainer, batches: Mapping[str, Any]) -> bool:
    """What Lightning will find when it goes on from these counters."""
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return False  # by the clock, which starts anew
    loop = trainer.fit_loop.epoch_loop
    now, stop = copy.deepcopy(loop.batch_progress.state_dict()), trainer.should_stop
    loop.batch_progress.load_state_dict(copy.deepcopy(dict(batches)))
    trainer.should_stop = False
    try:
        return bool(loop._should_check_val_fx(trainer.fit_loop._data_fetcher))  # type: ignore[arg-type]
    finally:
        loop.batch_progress.load_state_dict(now)
        trainer.should_stop = stop


def _sums(results: Any) -> list[dict[str, Any]]:
    """What has been logged in this epoch so far, by the names that `_ResultMetric` gives it."""
    found = []
    for key, item in results.items():
        if item.has_reset:
            continue
        meta = item.meta
        entry = {
            "key": key,
            "reduce_fx": meta.reduce_fx.__name__,
            "sync": [meta.sync.should, meta.sync.rank_zero_only],
            "forward": item._forward_cache,
            **{name: getattr(meta, name) for name in _META},
        }
        if item.is_tensor:
            entry["value"] = item.value
            entry["count"] = item.cumulated_batch_size if meta.is_mean_reduction else None
        found.append(entry)
    return found


_META = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)


def _restore_sums(trainer: pl.Trainer, pl_module: pl.LightningModule, entries: list[dict[str, Any]]) -> None:
    results = trainer.fit_loop.epoch_loop._results
    for entry in entries:
        meta = _Metadata(**{name: entry[name] for name in _META}, reduce_fx=entry["reduce_fx"])
        should, rank_zero_only = entry["sync"]
        meta.sync = _Sync(fn=trainer.strategy.reduce, _should=should, rank_zero_only=rank_zero_only)
        item = _ResultMetric(meta, is_tensor="value" in entry)
        if item.is_tensor:
            item.value = entry["value"]
            if meta.is_mean_reduction:
                item.cumulated_batch_size = entry["count"]
        else:
            item.value = pl_module.get_submodule(entry["metric_attribute"])
        item._forward_cache = entry["forward"]
        item._update_count = 1
        results[entry["key"]] = item.to(pl_module.device)
    # Else the next batch would count as the loop's first, and empty what stands here.
    trainer._logger_connector._first_loop_iter = True


def _metrics(pl_module: pl.LightningModule) -> dict[str, Metric]:
    return {name: part for name, part in pl_module.named_modules() if isinstance(part, Metric)}


def _metric_states(pl_module: pl.LightningModule) -> dict[str, dict[str, Any]]:
    """The states of the torchmetrics that are in the middle of something."""
    return {
        name: {"updates": metric._update_count, "states": dict(metric.metric_state)}
        for name, metric in _metrics(pl_module).items()
        if metric._update_count
    }


def _restore_metric_states(pl_module: pl.LightningModule, states: Mapping[str, Any]) -> None:
    for name, metric in _metrics(pl_module).items():
        if name in states:
            for key, value in states[name]["states"].items():
                setattr(metric, key, value)
            metric._update_count = states[name]["updates"]
            metric.to(pl_module.device)


def _gradients(pl_module: pl.LightningModule) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in pl_module.named_parameters() if value.grad is not None}


def _logger_state(logger: Any) -> dict[str, Any]:
    return logger.state_dict() if hasattr(logger, "state_dict") else {}


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and PyTorch's generators, as tensors and plain containers."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the one that others use
    return {
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64).copy()), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take up what `random_state` has told."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
