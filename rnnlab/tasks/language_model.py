"""Many to many, same length: the next character or word of a running text.

Legend: `T` steps of a window, `B` streams, `V` vocabulary, `F` features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from rnnlab.data.streams import StreamBatch
from rnnlab.nn.generation import Sampling
from rnnlab.nn.states import detached, map_state
from rnnlab.tasks.text_generation import TextGeneration


class LanguageModel(TextGeneration):
    """A recurrent language model, trained by truncated backpropagation through time with carried state.

        loss = -sum_{t,b} log p(s_{t+1,b} | s_{<=t,b}) / (B T)
               + alpha mean(d_t^2) + beta mean((h_{t+1} - h_t)^2)

    with `h` the outputs of the recurrent layers, `d` the same after dropout. `T` is the typical length of a
    window, so that a shorter one counts for as many tokens as it has.

    Args:
        window: T.
        time_reduction: divide the loss by T ("mean"), or not ("sum", as Zaremba et al. 2014).
        activation_penalty: alpha, of large outputs.
        slowness_penalty: beta, of outputs that change from step to step.
        settings: of the network, the vocabulary and the optimiser; see `TextGeneration`.

    Raises:
        ValueError: a setting out of range, or a bidirectional model.

    Sources: carried state, Mikolov et al. 2010; the penalties, Merity, Keskar and Socher 2018, section 4.6.
    """

    def __init__(
        self,
        *,
        window: int,
        time_reduction: Literal["mean", "sum"] = "mean",
        activation_penalty: float = 0.0,
        slowness_penalty: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if time_reduction not in ("mean", "sum"):
            raise ValueError(f"time_reduction is 'mean' or 'sum'; got {time_reduction!r}")
        if activation_penalty < 0 or slowness_penalty < 0:
            raise ValueError(
                f"the penalties are at least 0; got {activation_penalty=} and {slowness_penalty=}"
            )
        self.steps = window if time_reduction == "mean" else 1
        self.penalties = (activation_penalty, slowness_penalty)
        self._carried: Any = None
        self._eval_carried: Any = None

    def forward(self, symbols: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scores `[T, B, V]` of what follows symbols `[T, B]`, and the state after them."""
        predictions = self.network(symbols, state)
        return predictions.scores, predictions.state

    def training_step(self, batch: StreamBatch, batch_idx: int) -> Tensor:
        """The loss of one window; the state after it is kept for the next, without its history."""
        before = None if batch.first else map_state(lambda s: s.to(self.device), self._carried)
        predictions = self.network(batch.inputs, before)
        self._carried = detached(predictions.state)
        nats = F.cross_entropy(predictions.scores.flatten(0, 1), batch.targets.flatten())
        self.log("train/loss", nats.detach(), on_step=False, on_epoch=True, batch_size=batch.inputs.numel())
        loss = nats * (len(batch.inputs) / self.steps)
        alpha, beta = self.penalties
        if alpha:
            loss = loss + alpha * predictions.dropped.square().mean()
        if beta and len(batch.inputs) > 1:
            loss = loss + beta * predictions.outputs.diff(dim=0).square().mean()
        return loss

    def validation_step(self, batch: StreamBatch, batch_idx: int) -> None:
        """Count one window into the validation metrics; its streams carry a state of their own."""
        self._evaluate(batch, "val")

    def test_step(self, batch: StreamBatch, batch_idx: int) -> dict[str, Tensor]:
        """Count one window into the test metrics.

        Returns:
            What each stream came to in it, `[B]` each: `loss` (nats a token), and `weight` (tokens).
        """
        scores = self._evaluate(batch, "test")
        nats = F.cross_entropy(scores.flatten(0, 1), batch.targets.flatten(), reduction="none")
        tokens = (batch.targets >= 0).sum(0)
        return {"loss": nats.view_as(batch.targets).sum(0) / tokens.clamp(min=1), "weight": tokens}

    def _evaluate(self, batch: StreamBatch, stage: Literal["val", "test"]) -> Tensor:
        predictions = self.network(batch.inputs, None if batch.first else self._eval_carried)
        self._eval_carried = detached(predictions.state)
        tokens = int((batch.targets >= 0).sum())
        if tokens:
            nats = F.cross_entropy(predictions.scores.flatten(0, 1), batch.targets.flatten())
            self._log_losses(stage, nats, tokens, len(batch))
        return predictions.scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the carried state, so that training goes on in the middle of a text."""
        checkpoint["carried_state"] = map_state(lambda s: s.cpu().clone(), self._carried)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the carried state."""
        self._carried = checkpoint.get("carried_state")

    def _prepare(self, label: str | None) -> tuple[Any, Tensor | None]:
        if label is not None:
            raise ValueError(f"label={label!r}: this language model was not trained on labels; give a prompt")
        return None, None

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """How probable each text is, and what would come next.

        Returns:
            A dict a text: `input`, `log_probability` (in nats, with its end), `tokens`, the loss a token in
            the task's own measure, and `next`, the most probable next tokens.
        """
        return [
            {"input": text, **self.describe_scores(self.score(text)), "next": self.most_probable(text)}
            for text in inputs
        ]

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Beginnings of held-out lines, how the model goes on (temperature 0.8), and how the text does."""
        records = []
        for line in datamodule.examples("test", n):
            prompt, truth = _cut_in_two(line)
            sampling = Sampling(0.8, forbidden=tuple(range(self.eos)))
            written = "".join(self.sample(prompt, sampling=sampling, length=60, seed=0))
            records.append({"prompt": prompt, "model": written.strip(), "truth": truth})
        return records


def _cut_in_two(line: str) -> tuple[str, str]:
    """The first third of a line, at most 40 characters, up to the end of a word; and the rest."""
    place = line.rfind(" ", 0, min(40, max(10, len(line) // 3)))
    place = place if place > 0 else min(len(line), 10)
    return line[:place], line[place:].strip()[:80]
