"""Averaged weights for stochastic gradient descent, begun when it no longer gets better."""

from __future__ import annotations

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging


class NonMonotoneAveraging(WeightAveraging):
    """Average the weights of all steps from the moment that the validation metric stalls.

        begin when  v_k > min(v_1 .. v_(k-n)),   v_k the k-th value of the metric

    With `torch.optim.SGD` at a constant learning rate this is NT-ASGD. Once it has begun, validation,
    checkpoints and the trained model hold the averaged weights, and a checkpoint the current ones as well.

    Args:
        patience: n, validations that may pass without a new best value.
        monitor: the metric; the task's own unless it is given.
        mode: whether it is best when it is smallest or largest; the task's own unless it is given.

    Raises:
        ValueError: a patience below 1.

    Source: Merity, Keskar and Socher 2018, "Regularizing and Optimizing LSTM Language Models", algorithm 1.
    """

    def __init__(
        self, patience: int = 5, monitor: str = "val/loss", mode: Literal["min", "max"] = "min"
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience}: expected at least 1 validation")
        super().__init__(use_buffers=False)
        self.patience = patience
        self.monitor = monitor
        self.mode = mode
        self.values: list[float] = []
        self.begun = False

    @property
    def averaging(self) -> bool:
        """Whether there is an average yet: one step was taken since it began."""
        return self.begun and self._average_model is not None and int(self._average_model.n_averaged) > 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After each step, once averaging has begun."""
        return self.begun and step_idx is not None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether the metric has stalled.

        Raises:
            ValueError: the metric is not logged.
        """
        if trainer.sanity_checking or self.begun or self._average_model is None:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"monitor={self.monitor}: there is no such metric; there are {known}")
        sign = 1 if self.mode == "min" else -1
        self.values.append(sign * float(trainer.callback_metrics[self.monitor]))
        before = self.values[: -self.patience]
        self.begun = bool(before) and self.values[-1] > min(before)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the averaged weights for validation, once there are any."""
        if self.averaging:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the current weights back."""
        if self.averaging:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the averaged weights in the model, if there are any."""
        if self.averaging:
            super().on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The values seen so far, and whether averaging has begun."""
        return {**super().state_dict(), "values": list(self.values), "begun": self.begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict)
        self.values, self.begun = list(state_dict["values"]), state_dict["begun"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the averaged weights as those of the checkpoint, and the current ones beside them."""
        if self.averaging:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up both, where the checkpoint has them."""
        if "averaging_state" in checkpoint and self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
