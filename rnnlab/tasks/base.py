"""What every task is and shares: how it is optimised, and how it shows what it has learned."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

MakeModel = Callable[..., nn.Module]
MakeOptimizer = Callable[[Any], Optimizer]
MakeScheduler = Callable[..., LRScheduler | ReduceLROnPlateau]


class Task(LightningModule):
    """A LightningModule built as `Task(**facts, **config)`: facts of the data, then settings.

    Subclasses define `training_step`, `validation_step`, `test_step`, and the two methods that show what was
    learned, `predict_records` and `example_records`.

    Attributes:
        headline: the metric that a summary leads with.
        monitor: the metric by which the best checkpoint is chosen.
        monitor_mode: whether that metric is better when larger ("max") or smaller ("min").
        input_shape: steps (None where any number will do) and the shape of one step that `forward` reads,
            where that is not what the recurrent layers read; a step of shape () is a symbol.

    Args:
        optimizer: makes an optimiser of parameter groups, such as `partial(AdamW, lr=1e-3)`.
        scheduler: makes a schedule of the optimiser; it is stepped after every batch if it takes
            `total_steps`, else after every epoch. None for a constant learning rate.
    """

    headline: str = "test/loss"
    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"
    input_shape: tuple[int | None, ...] | None = None

    def __init__(self, *, optimizer: MakeOptimizer, scheduler: MakeScheduler | None = None) -> None:
        super().__init__()
        self._make_optimizer = optimizer
        self._make_scheduler = scheduler

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """What the model says of each input, in JSON's own types."""
        raise NotImplementedError

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """What the model says of `n` held-out examples, beside the truth, in JSON's own types."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """The optimiser over decayed and undecayed parameters, and its schedule.

        Raises:
            ValueError: the schedule needs the number of steps, and training has no end.
        """
        optimizer = self._make_optimizer(parameter_groups(self.named_parameters()))
        if self._make_scheduler is None:
            return optimizer
        if "total_steps" in inspect.signature(self._make_scheduler).parameters:
            steps = self.trainer.estimated_stepping_batches
            if steps == float("inf"):
                raise ValueError(
                    "the schedule needs the number of training steps; give trainer.max_epochs or "
                    "trainer.max_steps, or a schedule that does without"
                )
            scheduler = self._make_scheduler(optimizer, total_steps=max(1, int(steps)))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        scheduler = self._make_scheduler(optimizer)
        plan = {"scheduler": scheduler, "interval": "epoch", "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": plan}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the whole gradient, before it is clipped, on the steps that are logged."""
        every = getattr(self.trainer, "log_every_n_steps", 0)
        if every and (self.trainer.global_step + 1) % every == 0:
            self.log("train/grad_norm", gradient_norm(self.parameters()))


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Matrices, which weight decay shrinks, and vectors (biases, norms, peepholes), which it leaves alone."""
    trained = [parameter for _, parameter in named if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    spared = [parameter for parameter in trained if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all gradients together."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def output_features(model: nn.Module) -> int:
    """Features of a recurrent model's outputs.

    Raises:
        TypeError: the model does not say.
    """
    size = getattr(model, "output_size", None)
    if not isinstance(size, int):
        raise TypeError(
            f"{type(model).__name__} has no integer `output_size`, the number of features of its outputs; "
            "rnnlab.DeepRNN has"
        )
    return size
