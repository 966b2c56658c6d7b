"""Problems of long memory: an answer at the end of a sequence, or at each step of it.

Legend: `T` time, `B` batch, `I` input, `O` outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from rnnlab.data.batching import SequenceBatch
from rnnlab.data.memory import make_problem
from rnnlab.data.streams import NO_TARGET
from rnnlab.nn.heads import DenseHead, SymbolEmbedding
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features


class Memory(Task):
    """Recurrent layers and dense layers that answer where the problem asks.

    The loss is the mean squared error of numbers and the cross-entropy of classes, in the mean over all steps
    with an answer. Logged are the loss, its share of what an answer without memory costs (`of_baseline`,
    below 1 where something was remembered), and for classes the accuracy of what is to be recalled.

    Args:
        problem, length, test_length: see `MemoryData`.
        model: makes the recurrent layers, `model(input_size=...)`, one direction only.
        optimizer, scheduler: see `Task`.
        embedding: of symbols, `"one_hot"` or `"learned"` vectors; unused where inputs are numbers.
        embedding_size: features of a learned vector.
        dense_sizes: features of dense layers before the last one.
        dropout: probability of zeroing a feature before each dense layer.

    Raises:
        ValueError: a setting out of range, or a bidirectional model, which would see the future.
    """

    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        *,
        problem: str,
        length: int,
        test_length: int,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        embedding: Literal["learned", "one_hot"] = "one_hot",
        embedding_size: int = 32,
        dense_sizes: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if embedding not in ("learned", "one_hot"):
            raise ValueError(f"embedding is 'learned' or 'one_hot'; got {embedding!r}")
        self.problem = make_problem(problem, length)
        self.baselines = {
            "val": self.problem.baseline(),
            "test": make_problem(problem, test_length).baseline(),
        }
        self.classes = self.problem.outputs > 1
        self.headline = "test/accuracy" if self.classes else "test/loss"
        symbols = self.problem.symbols
        self.input_shape = (None,) if symbols else (None, self.problem.features)
        self.embedding: nn.Module = nn.Identity()
        size = self.problem.features
        if symbols and embedding == "one_hot":
            self.embedding, size = Unit(symbols), symbols
        elif symbols:
            self.embedding, size = SymbolEmbedding(symbols + 1, embedding_size), embedding_size
        self.rnn = model(input_size=size)
        if getattr(self.rnn, "bidirectional", False):
            raise ValueError("memory is tested forwards only: model.bidirectional=false, got true")
        self.head = DenseHead(
            output_features(self.rnn), self.problem.outputs, hidden_sizes=dense_sizes, dropout=dropout
        )
        self.val_loss, self.val_accuracy = MeanMetric(), MeanMetric()
        self.test_loss, self.test_accuracy = MeanMetric(), MeanMetric()

    def forward(self, inputs: Tensor) -> Tensor:
        """Answers `[T, B, O]` at each step of inputs `[T, B]` (int64) or `[T, B, I]`."""
        x = inputs
        if self.problem.symbols:
            # Number 0 of an embedding is padding, which no symbol of a problem is.
            x = self.embedding(inputs + 1 if isinstance(self.embedding, SymbolEmbedding) else inputs)
        return self.head(self.rnn(x)[0])

    def _loss(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """The mean loss, and the share of right answers where classes are to be recalled."""
        answers = self(batch.inputs)
        targets = batch.targets
        if not self.classes:
            asked = ~targets.isnan()
            return F.mse_loss(answers[asked].squeeze(1), targets[asked]), answers.new_zeros(())
        steps = self.problem.recalled(len(targets))
        right = (answers[steps].argmax(2) == targets[steps]).float().mean()
        return F.cross_entropy(answers.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET), right

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss, _ = self._loss(batch)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: Literal["val", "test"], batch: SequenceBatch) -> None:
        loss, right = self._loss(batch)
        metrics = {"val": (self.val_loss, self.val_accuracy), "test": (self.test_loss, self.test_accuracy)}
        values = {"loss": loss} | ({"accuracy": right} if self.classes else {})
        for (name, value), metric in zip(values.items(), metrics[stage], strict=False):
            metric.update(value, len(batch))
            self.log(f"{stage}/{name}", metric, on_epoch=True, batch_size=len(batch))
        share = loss / self.baselines[stage]
        self.log(f"{stage}/of_baseline", share, on_epoch=True, batch_size=len(batch), sync_dist=True)

    @torch.no_grad()
    def _answer(self, inputs: Tensor) -> Any:
        """What the model says of one sequence, `[T]` or `[T, I]`."""
        training = self.training
        self.eval()
        try:
            answers = self(inputs.unsqueeze(1).to(self.device))[:, 0].cpu()
        finally:
            self.train(training)
        return self.problem.answer(answers.argmax(1) if self.classes else answers[:, 0])

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """What the model says of each sequence, written as the problem's class says.

        Returns:
            A dict a sequence: `input` and `answer`.

        Raises:
            ValueError: an input is no sequence of the problem.
        """
        return [{"input": text, "answer": self._answer(self.problem.parse(text))} for text in inputs]

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test sequences with `input`, `truth` and `answer`."""
        return [
            {
                "input": self.problem.write(inputs),
                "truth": self.problem.answer(targets),
                "answer": self._answer(inputs),
            }
            for inputs, targets in datamodule.examples("test", n)
        ]


class Unit(nn.Module):
    """All symbols as unit vectors: no number is padding.

    Args:
        symbols: how many there are.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.eye(symbols), persistent=False)
        self.vectors: Tensor

    def forward(self, symbols: Tensor) -> Tensor:
        """Map `[*]` (int64) to `[*, symbols]`."""
        return F.embedding(symbols, self.vectors)
