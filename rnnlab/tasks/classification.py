"""Many to one: what tasks share that give a class to a sequence, whatever the sequence holds.

Legend: `T` time, `B` batch, `I` input, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from rnnlab.data.batching import SequenceBatch
from rnnlab.nn.heads import DenseHead
from rnnlab.nn.pooling import make_pooling
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features


class Classification(Task):
    """Recurrent layers, pooling and dense layers, trained with cross-entropy.

    Subclasses call `build_layers` once they know what the recurrent layers read, and define `embed`. Logged
    are the loss, the accuracy (share of sequences) and F1 (mean over the classes).

    Args:
        labels: names of the classes.
        optimizer, scheduler: see `Task`.
        label_smoothing: share of each target that is spread over all classes.

    Raises:
        ValueError: a setting out of range.
    """

    headline: str = "test/accuracy"
    monitor: ClassVar[str] = "val/accuracy"
    monitor_mode: ClassVar[Literal["min", "max"]] = "max"

    def __init__(
        self,
        *,
        labels: Sequence[str],
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing lies in [0, 1); got {label_smoothing}")
        self.labels = list(labels)
        self.label_smoothing = label_smoothing
        self.val_metrics = self._metrics("val/")
        self.test_metrics = self._metrics("test/")

    def build_layers(
        self, input_size: int, model: MakeModel, *, pooling: str, dense_sizes: Sequence[int], dropout: float
    ) -> None:
        """Make `rnn`, `pooling` and `head`.

        Args:
            input_size: I, features of what `embed` gives.
            model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
            pooling: `"last"`, `"mean"`, `"max"` or `"attention"`.
            dense_sizes: features of dense layers before the last one.
            dropout: probability of zeroing a feature before each dense layer.
        """
        self.rnn = model(input_size=input_size)
        features = output_features(self.rnn)
        side_by_side = (
            getattr(self.rnn, "bidirectional", False) and getattr(self.rnn, "merge", "") == "concat"
        )
        self.pooling = make_pooling(pooling, features, directions=2 if side_by_side else 1)
        self.head = DenseHead(features, len(self.labels), hidden_sizes=dense_sizes, dropout=dropout)

    def embed(self, inputs: Tensor) -> Tensor:
        """What the recurrent layers read, `[T, B, I]`, of a batch's inputs `[T, B, *]`."""
        raise NotImplementedError

    def _metrics(self, prefix: str) -> MetricCollection:
        classes = len(self.labels)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "f1": MulticlassF1Score(classes, average="macro"),
            },
            prefix=prefix,
        )

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Scores of the classes.

        Args:
            inputs: `[T, B, *]`, zero past each row's length.
            lengths: `[B]`, int64, on the CPU.

        Returns:
            `[B, C]`, before the softmax.
        """
        outputs, _ = self.rnn(self.embed(inputs), lengths=lengths)
        return self.head(self.pooling(outputs, lengths))

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        scores = self(batch.inputs, batch.lengths)
        loss = F.cross_entropy(scores, batch.targets, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._evaluate(batch, "val/loss", self.val_metrics)

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """Count one batch into the test metrics.

        Returns:
            What each row came to, `[B]` each: `loss`, `accuracy` (0 or 1), `predicted` and `truth` (classes).
        """
        scores = self._evaluate(batch, "test/loss", self.test_metrics)
        predicted = scores.argmax(1)
        return {
            "loss": F.cross_entropy(scores, batch.targets, reduction="none"),
            "accuracy": (predicted == batch.targets).to(scores.dtype),
            "predicted": predicted,
            "truth": batch.targets,
        }

    def _evaluate(self, batch: SequenceBatch, loss_name: str, metrics: MetricCollection) -> Tensor:
        scores = self(batch.inputs, batch.lengths)
        metrics.update(scores, batch.targets)
        loss = F.cross_entropy(scores, batch.targets)
        self.log(loss_name, loss, on_epoch=True, batch_size=len(batch), sync_dist=True)
        self.log_dict(metrics, on_epoch=True, batch_size=len(batch))
        return scores

    @torch.no_grad()
    def class_probabilities(self, rows: Any, *, batch_size: int = 256) -> Tensor:
        """Probabilities of the classes for each row, `[N, C]`, on the CPU; dropout is off meanwhile.

        Args:
            rows: a dataset with `lengths` `[N]`, which gives a `SequenceBatch` for a list of rows.
            batch_size: rows of similar length that are read together.
        """
        result = torch.empty(len(rows), len(self.labels))
        training = self.training
        self.eval()
        try:
            for chunk in rows.lengths.argsort(stable=True).split(batch_size):
                batch = rows[chunk.tolist()].to(self.device)
                result[chunk] = self(batch.inputs, batch.lengths).float().softmax(1).cpu()
        finally:
            self.train(training)
        return result

    def class_records(self, names: Sequence[str], probabilities: Tensor) -> list[dict[str, Any]]:
        """A dict a row: `input` (its name), `label`, `probability`, and `probabilities` by label."""
        records = []
        for name, row in zip(names, probabilities.tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            records.append(
                {
                    "input": name,
                    "label": self.labels[best],
                    "probability": row[best],
                    "probabilities": dict(zip(self.labels, row, strict=True)),
                }
            )
        return records
