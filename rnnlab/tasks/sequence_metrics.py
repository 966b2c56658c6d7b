"""Metrics of written sequences with one or more right answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.functional.text import word_error_rate
from torchmetrics.text import BLEUScore, WordErrorRate


def closest(written: str, references: Sequence[str]) -> str:
    """The reference with the fewest edits from what was written, tokens between spaces; the first of several.

    An edit is a token inserted, left out, or replaced.
    """
    if len(references) == 1 or written in references:
        return written if written in references else references[0]
    edits = [
        round(float(word_error_rate([written], [reference])) * len(reference.split()))
        for reference in references
    ]
    return references[edits.index(min(edits))]


class TokenErrorRate(WordErrorRate):
    """Edits from the closest reference, divided by the tokens of those references.

    Of phonemes it is the phoneme error rate, of words the word error rate of speech recognition.
    """

    def update(self, preds: Sequence[str], target: Sequence[Sequence[str]]) -> None:
        """Count sequences, tokens between spaces, each with its references."""
        nearest = [closest(*pair) for pair in zip(preds, target, strict=True)]
        super().update(list(preds), nearest)


class SequenceErrorRate(MeanMetric):
    """The share of sequences that equal none of their references.

    Of pronunciations it is what the field calls the word error rate.
    """

    full_state_update = False

    def update(self, preds: Sequence[str], target: Sequence[Sequence[str]]) -> None:  # type: ignore[override]
        """Count sequences, each with its references."""
        wrong = [written not in references for written, references in zip(preds, target, strict=True)]
        super().update(torch.tensor(wrong, dtype=torch.float32, device=self.device))


def sequence_metrics(token: str, sequence: str, prefix: str) -> MetricCollection:
    """Error rates of tokens and of sequences by these names, and BLEU where the tokens are words.

    Sources: BLEU, Papineni et al. 2002, of up to four words, over the whole corpus, without smoothing.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        f"{token}_error_rate": TokenErrorRate(),
        f"{sequence}_error_rate": SequenceErrorRate(),
    }
    if token == "word":
        metrics["bleu"] = BLEUScore()
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
