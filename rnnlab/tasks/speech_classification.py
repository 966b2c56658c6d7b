"""Many to one: which word an utterance is.

Legend: `T` time, `B` batch, `I` input, `C` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rnnlab.data.audio import LogMel
from rnnlab.data.speech import hear
from rnnlab.data.vectors import VectorSequences
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler
from rnnlab.tasks.classification import Classification


class SpeechClassification(Classification):
    """Log-mel features, recurrent layers, pooling and dense layers, trained with cross-entropy.

    Args:
        labels: names of the classes.
        sample_rate: to which sounds are resampled.
        features: arguments of `LogMel`.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer, scheduler: see `Task`.
        pooling: `"last"`, `"mean"`, `"max"` or `"attention"`.
        dense_sizes: features of dense layers before the last one.
        input_dropout: probability of zeroing an input feature.
        dropout: probability of zeroing a feature before each dense layer.
        label_smoothing: share of each target that is spread over all classes.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        sample_rate: int,
        features: Mapping[str, Any],
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        pooling: Literal["last", "mean", "max", "attention"] = "mean",
        dense_sizes: Sequence[int] = (),
        input_dropout: float = 0.0,
        dropout: float = 0.3,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            labels=labels, optimizer=optimizer, scheduler=scheduler, label_smoothing=label_smoothing
        )
        self.features, self.sample_rate = LogMel(**features), sample_rate
        self.input_dropout = torch.nn.Dropout(input_dropout)
        self.build_layers(
            self.features.output_size, model, pooling=pooling, dense_sizes=dense_sizes, dropout=dropout
        )

    def embed(self, inputs: Tensor) -> Tensor:
        """Features `[T, B, I]` as they are, some dropped in training."""
        return self.input_dropout(inputs)

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """The most probable label of each sound file.

        Returns:
            A dict a file: `input`, `label`, `probability`, and `probabilities` by label.
        """
        if not inputs:
            return []
        sounds = [hear(word, self.sample_rate) for word in inputs]
        steps = [self.features([sound], self.sample_rate)[0][:, 0] for sound in sounds]
        return self.class_records(inputs, self.class_probabilities(VectorSequences(steps)))

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test sounds with `file`, `truth`, `predicted` and `confidence`."""
        pairs = datamodule.examples("test", n)
        said = self.predict_records([file for file, _ in pairs])
        return [
            {"file": file, "truth": truth, "predicted": record["label"], "confidence": record["probability"]}
            for (file, truth), record in zip(pairs, said, strict=True)
        ]
