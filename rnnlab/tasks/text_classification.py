"""Many to one: a text's label.

Legend: `T` time, `B` batch, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from rnnlab.data.batching import SequenceBatch, TokenSequences
from rnnlab.data.text_classification import encode_tokens
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.nn.heads import DenseHead, OneHot, SymbolEmbedding
from rnnlab.nn.pooling import make_pooling
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features


class TextClassification(Task):
    """Embedding, recurrent layers, pooling and dense layers, trained with cross-entropy.

    Logged are the loss, the accuracy (share of texts) and F1 (mean over the classes).

    Args:
        vocabulary: all tokens, `<pad>` and `<unk>` first.
        labels: names of the classes.
        tokenizer: `"word"` or `"char"`.
        lowercase: fold texts to lower case.
        max_length: tokens of a text that are read.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer: see `Task`.
        scheduler: see `Task`.
        embedding: `"learned"` vectors, or `"one_hot"`.
        embedding_size: features of a learned vector.
        embedding_dropout: probability of zeroing a feature of a vector.
        word_dropout: probability of reading `<unk>` instead of a token.
        pooling: `"last"`, `"mean"`, `"max"` or `"attention"`.
        dense_sizes: features of dense layers before the last one.
        dropout: probability of zeroing a feature before each dense layer.
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
        vocabulary: Sequence[str],
        labels: Sequence[str],
        tokenizer: str,
        lowercase: bool,
        max_length: int,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        embedding: Literal["learned", "one_hot"] = "learned",
        embedding_size: int = 64,
        embedding_dropout: float = 0.6,
        word_dropout: float = 0.0,
        pooling: Literal["last", "mean", "max", "attention"] = "max",
        dense_sizes: Sequence[int] = (),
        dropout: float = 0.5,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if embedding not in ("learned", "one_hot"):
            raise ValueError(f"embedding is 'learned' or 'one_hot'; got {embedding!r}")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing lies in [0, 1); got {label_smoothing}")
        self.vocabulary = Vocabulary(vocabulary)
        self.labels = list(labels)
        self.tokenize = get_tokenizer(tokenizer, lowercase=lowercase)
        self.max_length = max_length
        self.label_smoothing = label_smoothing
        self.embedding: OneHot | SymbolEmbedding
        if embedding == "one_hot":
            self.embedding = OneHot(len(self.vocabulary))
        else:
            self.embedding = SymbolEmbedding(
                len(self.vocabulary), embedding_size, dropout=embedding_dropout, symbol_dropout=word_dropout
            )
        self.rnn = model(input_size=self.embedding.output_size)
        features = output_features(self.rnn)
        side_by_side = (
            getattr(self.rnn, "bidirectional", False) and getattr(self.rnn, "merge", "") == "concat"
        )
        self.pooling = make_pooling(pooling, features, directions=2 if side_by_side else 1)
        self.head = DenseHead(features, len(self.labels), hidden_sizes=dense_sizes, dropout=dropout)
        self.val_metrics = self._metrics("val/")
        self.test_metrics = self._metrics("test/")

    def _metrics(self, prefix: str) -> MetricCollection:
        classes = len(self.labels)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "f1": MulticlassF1Score(classes, average="macro"),
            },
            prefix=prefix,
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores of the classes.

        Args:
            tokens: `[T, B]`, int64, 0 past each row's length.
            lengths: `[B]`, int64, on the CPU.

        Returns:
            `[B, C]`, before the softmax.
        """
        outputs, _ = self.rnn(self.embedding(tokens), lengths=lengths)
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

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._evaluate(batch, "test/loss", self.test_metrics)

    def _evaluate(self, batch: SequenceBatch, loss_name: str, metrics: MetricCollection) -> None:
        scores = self(batch.inputs, batch.lengths)
        metrics.update(scores, batch.targets)
        loss = F.cross_entropy(scores, batch.targets)
        self.log(loss_name, loss, on_epoch=True, batch_size=len(batch), sync_dist=True)
        self.log_dict(metrics, on_epoch=True, batch_size=len(batch))

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Probabilities of the classes for each text, `[N, C]`, on the CPU; dropout is off meanwhile."""
        numbers = [encode_tokens(self.tokenize(text), self.vocabulary, self.max_length) for text in texts]
        rows = TokenSequences(numbers)
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

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """The most probable label of each text.

        Returns:
            A dict a text: `input`, `label`, `probability`, and `probabilities` by label.
        """
        if not inputs:
            return []
        records = []
        for text, row in zip(inputs, self.probabilities(inputs).tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            records.append(
                {
                    "input": text,
                    "label": self.labels[best],
                    "probability": row[best],
                    "probabilities": dict(zip(self.labels, row, strict=True)),
                }
            )
        return records

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test texts with `text`, `truth`, `predicted` and `confidence`."""
        pairs = datamodule.examples("test", n)
        said = self.predict_records([text for text, _ in pairs])
        return [
            {"text": text, "truth": truth, "predicted": record["label"], "confidence": record["probability"]}
            for (text, truth), record in zip(pairs, said, strict=True)
        ]
