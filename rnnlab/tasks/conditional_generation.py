"""One to many: a text from a label.

Legend: `T` time, `B` batch, `V` vocabulary, `C` features of a label.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rnnlab.data.batching import SequenceBatch
from rnnlab.nn.generation import Sampling
from rnnlab.nn.pooling import valid_steps
from rnnlab.nn.states import InitialState
from rnnlab.tasks.text_generation import TextGeneration


class ConditionalGeneration(TextGeneration):
    """A language model of texts that starts from a label.

    The label's vector sets the first state of the recurrent layers (`"state"`), is read beside each symbol
    (`"input"`), or both.

    Args:
        labels: names of the labels.
        max_length: tokens of a training text, the default length of samples.
        condition: where the label enters: `"state"`, `"input"` or `"both"`.
        label_size: C.
        settings: of the network, the vocabulary and the optimiser; see `TextGeneration`.

    Raises:
        ValueError: a setting out of range, or a bidirectional model.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        max_length: int,
        condition: Literal["state", "input", "both"] = "both",
        label_size: int = 32,
        **settings: Any,
    ) -> None:
        if condition not in ("state", "input", "both"):
            raise ValueError(f"condition is 'state', 'input' or 'both'; got {condition!r}")
        if label_size < 1:
            raise ValueError(f"label_size is at least 1; got {label_size}")
        super().__init__(0 if condition == "state" else label_size, **settings)
        self.labels = list(labels)
        self.max_length = max_length
        self.label_vectors = nn.Embedding(len(self.labels), label_size)
        self.fed = condition != "state"
        self.initial_state = (
            None
            if condition == "input"
            else InitialState(self.network.rnn, self.network.input_size, label_size)
        )

    def _conditioned(self, labels: Tensor) -> tuple[Any, Tensor | None]:
        """The first state and the condition `[B, C]` of each step, of labels `[B]`."""
        vectors = self.label_vectors(labels)
        state = None if self.initial_state is None else self.initial_state(vectors)
        return state, vectors if self.fed else None

    def forward(self, symbols: Tensor, labels: Tensor) -> Tensor:
        """Scores of the symbols of each text.

        Args:
            symbols: `[T, B]`, the texts; the model is fed `<eos>` and all but the last.
            labels: `[B]`.

        Returns:
            `[T, B, V]`; at t the scores of `symbols[t]`, before the softmax.
        """
        fed = torch.cat([torch.full_like(symbols[:1], self.eos), symbols[:-1]])
        state, condition = self._conditioned(labels)
        return self.network(fed, state, condition).scores

    def _nats(self, batch: SequenceBatch) -> Tensor:
        """Cross-entropy of the tokens of a batch, `[T, B]` flattened to those within each row's length."""
        assert batch.targets is not None
        # Rows past their end are read on, which changes nothing before it, and are left out here.
        kept = valid_steps(batch.inputs, batch.lengths)
        scores = self(batch.inputs, batch.targets)
        return F.cross_entropy(scores[kept], batch.inputs[kept])

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch's tokens."""
        nats = self._nats(batch)
        tokens = int(batch.lengths.sum())
        self.log("train/loss", nats.detach(), on_step=False, on_epoch=True, batch_size=tokens)
        return nats

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._log_losses("val", self._nats(batch), int(batch.lengths.sum()), len(batch))

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._log_losses("test", self._nats(batch), int(batch.lengths.sum()), len(batch))

    def _prepare(self, label: str | None) -> tuple[Any, Tensor | None]:
        if label not in self.labels:
            near = difflib.get_close_matches(str(label), self.labels, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(map(repr, self.labels[:12])) + (", ..." if len(self.labels) > 12 else "")
            given = "a label is needed" if label is None else f"label {label!r} is not known"
            raise ValueError(f"{given}{hint or f': one of {shown}'}")
        return self._conditioned(torch.tensor([self.labels.index(label)], device=self.device))

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """A text for each label, sampled at temperature 0.7; the same each time.

        Returns:
            A dict a label: `label` and `text`.
        """
        sampling = Sampling(0.7, forbidden=tuple(range(self.eos)))
        return [
            {
                "label": label,
                "text": "".join(self.sample(label=label, length=self.max_length, sampling=sampling, seed=0)),
            }
            for label in inputs
        ]

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Labels of held-out texts, a text that the model writes, and the true one."""
        pairs = datamodule.examples("test", n)
        written = self.predict_records([label for _, label in pairs])
        return [
            {"label": label, "model": record["text"], "truth": text}
            for (text, label), record in zip(pairs, written, strict=True)
        ]
