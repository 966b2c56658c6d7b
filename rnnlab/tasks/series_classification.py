"""Many to one: the class of a series of vectors.

Legend: `T` time, `B` batch, `I` channels, `C` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rnnlab.data.series import BUNDLED_SERIES, DIGITS, read_parts
from rnnlab.data.series_files import LabelledSeries, columns_of, read_series
from rnnlab.data.vectors import VectorSequences
from rnnlab.nn.language_model import VariationalDropout
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler
from rnnlab.tasks.classification import Classification


class SeriesClassification(Classification):
    """Recurrent layers over standardised channels, pooling and dense layers, trained with cross-entropy.

        x = (series - mean) / std,   in training  x + noise N(0, 1), then variational dropout

    Args:
        labels: names of the classes.
        channels: names of the channels, as files have them.
        mean, std: of the channels in the training data.
        max_length: steps of a series that are read; None for all.
        reading: how files are read, for `predict_records`; see `read_series`.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer, scheduler: see `Task`.
        pooling: `"last"`, `"mean"`, `"max"` or `"attention"`.
        dense_sizes: features of dense layers before the last one.
        noise: standard deviation of the noise that training adds, where a channel's own is 1.
        input_dropout: probability of losing a whole channel of a series in training.
        dropout: probability of zeroing a feature before each dense layer.
        label_smoothing: share of each target that is spread over all classes.

    Raises:
        ValueError: a setting out of range.

    Source of the noise: Jim, Giles and Horne 1996, "An analysis of noise in recurrent neural networks".
    """

    # Of a few validation series many epochs get the same number right; the loss tells those epochs apart.
    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        *,
        labels: Sequence[str],
        channels: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        max_length: int | None,
        reading: Mapping[str, Any],
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        pooling: Literal["last", "mean", "max", "attention"] = "mean",
        dense_sizes: Sequence[int] = (),
        noise: float = 0.0,
        input_dropout: float = 0.0,
        dropout: float = 0.3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            labels=labels, optimizer=optimizer, scheduler=scheduler, label_smoothing=label_smoothing
        )
        if noise < 0:
            raise ValueError(f"noise is at least 0; got {noise}")
        self.channels = list(channels)
        self.max_length, self.reading, self.noise = max_length, dict(reading), noise
        # Made from the facts, so that a checkpoint need not hold them twice.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.input_dropout = VariationalDropout(input_dropout)
        self.build_layers(len(channels), model, pooling=pooling, dense_sizes=dense_sizes, dropout=dropout)

    def embed(self, inputs: Tensor) -> Tensor:
        """Standardised channels `[T, B, I]`, noisy in training."""
        x = (inputs - self.mean) / self.std
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        return self.input_dropout(x)

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """The most probable class of each series.

        Args:
            inputs: files (`.ts`, CSV, TSV), or names of sets that come with rnnlab, whose test series are
                meant; `FILE:3` is the third series of a file.

        Returns:
            A dict a series, see `class_records`.

        Raises:
            ValueError: a file cannot be read, its channels are not the model's, or it has no such series.
        """
        series, names = [], []
        for word in inputs:
            found = self._find(word)
            if found.channels != self.channels:
                raise ValueError(
                    f"{word}: {len(found.channels)} channels ({', '.join(found.channels[:8])}), the model "
                    f"reads {len(self.channels)} ({', '.join(self.channels[:8])})"
                )
            series += [each[: self.max_length] for each in found.series]
            names += found.names
        if not series:
            return []
        return self.class_records(names, self.class_probabilities(VectorSequences(series)))

    def _find(self, word: str) -> LabelledSeries:
        name, colon, number = word.rpartition(":")
        if not (colon and number.isdigit()):
            name, number = word, ""
        if name in BUNDLED_SERIES or name in DIGITS:
            parts = read_parts(name)
            found = parts.get("test") or parts["train"]
        else:
            reading = {**self.reading, "channels": columns_of(self.channels)}
            found = read_series(Path(name).expanduser(), **reading)
            found.names = [f"{name}:{i + 1}" for i in range(len(found))]
        if not number:
            return found
        if not 1 <= int(number) <= len(found):
            raise ValueError(f"{word}: there is no series number {number}; {name} has 1 to {len(found)}")
        return found.take([int(number) - 1])

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test series with `series`, `truth`, `predicted` and `confidence`."""
        examples = datamodule.examples("test", n)
        probabilities = self.class_probabilities(VectorSequences([series for _, series, _ in examples]))
        said = self.class_records([name for name, _, _ in examples], probabilities)
        return [
            {
                "series": name,
                "truth": truth,
                "predicted": record["label"],
                "confidence": record["probability"],
            }
            for (name, _, truth), record in zip(examples, said, strict=True)
        ]
