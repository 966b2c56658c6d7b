"""What tasks that write text share: the alphabet, sampling, and metrics a token.

Legend: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from rnnlab.data.language import text_tokens
from rnnlab.data.tokenizers import Joiner
from rnnlab.data.vocabulary import EOS, PAD, UNK, Vocabulary
from rnnlab.nn.generation import Sampling, generate
from rnnlab.nn.language_model import RecurrentLM
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task


class TokenLoss(MeanMetric):
    """The mean cross-entropy a token in `"nats"`, in `"bits"`, or as `"perplexity"` (e to the nats)."""

    full_state_update = False

    def __init__(self, unit: Literal["nats", "bits", "perplexity"]) -> None:
        super().__init__()
        self.unit = unit

    def compute(self) -> Tensor:
        """The mean over all tokens so far."""
        nats = super().compute()
        return {"nats": nats, "bits": nats / math.log(2), "perplexity": nats.exp()}[self.unit]


@dataclass(frozen=True)
class TokenScore:
    """A token and what a model thought of it.

    Attributes:
        token: as it was given.
        known: whether it is in the vocabulary; else it was read as `<unk>`.
        log_probability: given all tokens before it, in nats.
    """

    token: str
    known: bool
    log_probability: float


class TextGeneration(Task):
    """A task around a `RecurrentLM` that is fed `<eos>` first, and ends what it writes with `<eos>`.

    Subclasses define `_prepare`. Logged are the cross-entropy a token in nats (`loss`) and, for characters,
    the bits per character, else the perplexity.

    Args:
        condition_size: features that the network reads beside each symbol; 0 for none.
        vocabulary: all tokens, `<pad>`, `<unk>`, `<eos>` first.
        tokenizer: `"char"`, `"word"` or `"space"`.
        lowercase: fold texts to lower case.
        model: makes the recurrent layers, `model(input_size=...)`.
        optimizer, scheduler: see `Task`.
        embedding, embedding_size, tied, dense_sizes, init_range: see `RecurrentLM`.
        embedding_dropout, input_dropout, output_dropout: see `RecurrentLM`.

    Raises:
        ValueError: the vocabulary has no `<eos>`, a setting out of range, or a bidirectional model.
    """

    monitor: ClassVar[str] = "val/loss"

    def __init__(
        self,
        condition_size: int = 0,
        /,
        *,
        vocabulary: Sequence[str],
        tokenizer: str,
        lowercase: bool,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        embedding: str = "learned",
        embedding_size: int = 64,
        tied: bool = False,
        dense_sizes: Sequence[int] = (),
        embedding_dropout: float = 0.0,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        init_range: float | None = None,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        self.vocabulary = Vocabulary(vocabulary)
        self.tokenizer, self.lowercase = tokenizer, lowercase
        if EOS not in self.vocabulary:
            raise ValueError(f"the vocabulary of what writes text holds {EOS!r}; this one does not")
        self.eos = self.vocabulary.encode([EOS])[0]
        unit: Literal["bits", "perplexity"] = "bits" if tokenizer == "char" else "perplexity"
        self.measure = "bits_per_char" if unit == "bits" else "perplexity"
        self.headline = f"test/{self.measure}"
        self.val_loss, self.test_loss = TokenLoss("nats"), TokenLoss("nats")
        self.val_measure, self.test_measure = TokenLoss(unit), TokenLoss(unit)
        self.network = RecurrentLM(
            len(self.vocabulary),
            model,
            embedding=embedding,
            embedding_size=embedding_size,
            tied=tied,
            dense_sizes=dense_sizes,
            embedding_dropout=embedding_dropout,
            input_dropout=input_dropout,
            output_dropout=output_dropout,
            condition_size=condition_size,
            init_range=init_range,
        )

    def _log_losses(self, stage: Literal["val", "test"], nats: Tensor, tokens: int, rows: int) -> None:
        """Count the mean cross-entropy of a batch of so many tokens into the metrics of a stage."""
        losses = {"val": (self.val_loss, self.val_measure), "test": (self.test_loss, self.test_measure)}[
            stage
        ]
        for name, metric in zip(("loss", self.measure), losses, strict=True):
            metric.update(nats.detach(), tokens)
            self.log(f"{stage}/{name}", metric, on_epoch=True, batch_size=rows)

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's tokens, `<eos>` for each end of a line, without one at the end."""
        return self.vocabulary.encode(self.tokens(text))

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text."""
        return text_tokens(text, self.tokenizer, lowercase=self.lowercase)

    def _prepare(self, label: str | None) -> tuple[Any, Tensor | None]:
        """The state before `<eos>`, and the condition `[1, C]` of each step."""
        raise NotImplementedError

    @torch.no_grad()
    def _read(self, text: str, label: str | None) -> tuple[Tensor, Any, Tensor | None]:
        """Scores of what follows each of `<eos>` and the tokens, `[T, V]`, the state, and the condition."""
        state, condition = self._prepare(label)
        symbols = torch.tensor([self.eos, *self.encode(text)], device=self.device).unsqueeze(1)
        read = self.network(symbols, state, condition)
        return read.scores[:, 0], read.state, condition

    def sample(
        self,
        prompt: str = "",
        *,
        label: str | None = None,
        length: int = 200,
        sampling: Sampling | None = None,
        stop: bool = True,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Go on with a text, piece by piece, as it is written.

        Args:
            prompt: the text to go on with; empty for a new one.
            label: what to write of, where the task generates from labels.
            length: most tokens.
            sampling: how a token is picked; `<pad>` and `<unk>` are never picked unless it allows them.
            stop: end at the first `<eos>`, else go on to `length`, with `<eos>` as the end of a line.
            seed: of the random numbers; None for other ones each time.

        Yields:
            The text that each token adds.

        Raises:
            ValueError: a length below 1, or a label that is missing, unknown, or not wanted.
        """
        sampling = sampling or Sampling(forbidden=tuple(self.vocabulary.encode([PAD, UNK])))
        training = self.training
        self.eval()
        try:
            scores, state, condition = self._read(prompt, label)
            join = Joiner(self.tokenizer, [EOS, *self.tokens(prompt)][-1])
            for symbols in generate(
                lambda symbol, before: self.network.step(symbol, before, condition),
                scores[-1:],
                state,
                sampling.chooser(seed),
                length=length,
                stop=self.eos if stop else None,
            ):
                (token,) = self.vocabulary.decode(symbols.tolist())
                if stop and token == EOS:
                    return
                yield join(token)
        finally:
            self.train(training)

    def score(self, text: str, *, label: str | None = None, end: bool = True) -> list[TokenScore]:
        """The log-probability of each token of a text, given those before it.

        Args:
            text: one or more lines.
            label: what it was written of, where the task generates from labels.
            end: whether the text ends there, so that the last token is `<eos>`.

        Raises:
            ValueError: there is no token to score, or a label that is missing, unknown, or not wanted.
        """
        tokens = self.tokens(text) + [EOS] * end
        if not tokens:
            raise ValueError("there is no token to score; give a text")
        training = self.training
        self.eval()
        try:
            scores, _, _ = self._read(text, label)
        finally:
            self.train(training)
        numbers = torch.tensor(self.vocabulary.encode(tokens), device=scores.device)
        found = F.log_softmax(scores[: len(tokens)].double(), dim=1).gather(1, numbers.unsqueeze(1))
        return [
            TokenScore(token, token in self.vocabulary, value)
            for token, value in zip(tokens, found.squeeze(1).tolist(), strict=True)
        ]

    def describe_scores(self, scores: Sequence[TokenScore]) -> dict[str, float | int]:
        """A text's log-probability, its tokens, and the loss a token in the task's own measure."""
        total = sum(score.log_probability for score in scores)
        nats = -total / len(scores)
        measure = nats / math.log(2) if self.measure == "bits_per_char" else math.exp(min(nats, 700.0))
        return {"log_probability": total, "tokens": len(scores), self.measure: measure}

    def most_probable(self, text: str, n: int = 3, *, label: str | None = None) -> dict[str, float]:
        """The n most probable next tokens with their probabilities."""
        training = self.training
        self.eval()
        try:
            scores, _, _ = self._read(text, label)
        finally:
            self.train(training)
        values, numbers = scores[-1].softmax(0).topk(min(n, len(self.vocabulary)))
        return dict(zip(self.vocabulary.decode(numbers.tolist()), values.tolist(), strict=True))
