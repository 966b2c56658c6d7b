"""Precision, recall and F1 of spans.

Legend: `N` tokens, `C` tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from rnnlab.data.bio import spans
from rnnlab.data.streams import NO_TARGET


class SpanF1(Metric):
    """One measure of whole spans, over all sentences together.

        precision = right / found,   recall = right / true,   f1 = 2 right / (found + true)

    A span is right where a true one has both its ends and its kind. A measure is 0 where it would be 0 / 0.

    Args:
        labels: the C tags, of the scheme BIO.
        measure: `"precision"`, `"recall"` or `"f1"`.

    Source: Tjong Kim Sang and De Meulder 2003, section 3 ("exact match"), as `conlleval` counts.
    """

    full_state_update = False
    higher_is_better = True
    right: Tensor
    found: Tensor
    true: Tensor

    def __init__(self, labels: Sequence[str], measure: Literal["precision", "recall", "f1"] | str) -> None:
        super().__init__()
        if measure not in ("precision", "recall", "f1"):
            raise ValueError(f"measure is 'precision', 'recall' or 'f1'; got {measure!r}")
        self.labels, self.measure = list(labels), measure
        for name in ("right", "found", "true"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count sentences.

        Args:
            preds: `[N, C]`, scores of the tags.
            target: `[N]`, tags; sentences stand one after the other with a `NO_TARGET` between two.
        """
        best, truth = preds.argmax(1).tolist(), target.tolist()
        said: list[str] = []
        right: list[str] = []
        for number, wanted in zip([*best, 0], [*truth, NO_TARGET], strict=True):
            if wanted != NO_TARGET:
                said.append(self.labels[number])
                right.append(self.labels[wanted])
            elif right:
                found, true = set(spans(said)), set(spans(right))
                self.right += len(found & true)
                self.found += len(found)
                self.true += len(true)
                said, right = [], []

    def compute(self) -> Tensor:
        """The measure of all sentences so far."""
        below = {"precision": self.found, "recall": self.true, "f1": (self.found + self.true) / 2}
        return self.right / below[self.measure].clamp(min=0.5)
