"""What the DataModules of texts with labels share: reading, settings, facts and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import TokenSequences
from rnnlab.data.corpora import Corpus, LabelledTexts
from rnnlab.data.splits import SPLITS, Split, check_fractions
from rnnlab.data.vocabulary import Vocabulary

Texts = dict[Split, LabelledTexts]


class LabelledTextData(DataModule):
    """Texts with one label each; subclasses say how they are read, tokenised and ended, and which labels fit.

    The splits are the source's own; what it lacks is taken from its training texts by a hash of each text.

    Args:
        source: where the texts are.
        reading: further arguments of `read_corpus`.
        fractions: of validation and test, where the source has no such split.
        tokenizer, lowercase: how texts are tokenised.
        vocabulary_size: most tokens in the vocabulary, special ones included; None for no limit.
        min_count: fewest occurrences of a token in the vocabulary.
        max_length: tokens of a text that are kept, from its start.
        loading: batch sizes, workers and seed; see `DataModule`.

    Raises:
        ValueError: a setting is out of range.
    """

    specials: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        source: str,
        *,
        reading: Mapping[str, Any],
        fractions: Mapping[str, float],
        tokenizer: str,
        lowercase: bool,
        vocabulary_size: int | None,
        min_count: int,
        max_length: int,
        **loading: int,
    ) -> None:
        super().__init__(**loading)
        self.get_tokenize(tokenizer, lowercase)
        check_fractions(**fractions)
        if max_length < 1:
            raise ValueError(f"max_length is at least 1; got {max_length}")
        self.source, self.reading, self.fractions = source, dict(reading), dict(fractions)
        self.tokenizer, self.lowercase, self.max_length = tokenizer, lowercase, max_length
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self._texts: Texts = {}

    def read_source(self) -> Corpus:
        """The corpus of the source."""
        raise NotImplementedError

    def get_tokenize(self, tokenizer: str, lowercase: bool) -> Callable[[str], list[str]]:
        """The function from a text to its tokens; refuses a tokenizer that is not known."""
        raise NotImplementedError

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """The numbers of a text's tokens, cut and ended as the task wants it."""
        raise NotImplementedError

    def is_cut(self, tokens: Sequence[str]) -> bool:
        """Whether `encode` leaves something of these tokens out."""
        return len(tokens) > self.max_length

    def share_out(self, corpus: Corpus) -> tuple[list[str], Texts]:
        """The labels in order, and the texts of each split; refuses labels that do not fit."""
        raise NotImplementedError

    def check_tokens(self, origin: str, training: Sequence[Sequence[str]]) -> None:
        """Refuse training texts that nothing is learned from."""

    def read(self) -> dict[Split, TokenSequences]:
        """Read, split, tokenise and number the texts."""
        if self.adopted:
            self.tokenizer, self.lowercase = self.adopted["tokenizer"], self.adopted["lowercase"]
            self.max_length = self.adopted["max_length"]
        corpus = self.read_source()
        self.labels, self._texts = self.share_out(corpus)
        tokenize = self.get_tokenize(self.tokenizer, self.lowercase)
        tokens = {split: [tokenize(text) for text in part.texts] for split, part in self._texts.items()}
        self.check_tokens(corpus.origin, tokens["train"])
        self.vocabulary = (
            Vocabulary(self.adopted["vocabulary"])
            if self.adopted
            else Vocabulary.build(
                (text[: self.max_length] for text in tokens["train"]),
                max_size=self.vocabulary_size,
                min_count=self.min_count,
                specials=self.specials,
            )
        )
        self._counts = {
            "source": corpus.origin,
            "left_out": dict(corpus.left_out),
            "without_tokens": sum(not text for part in tokens.values() for text in part),
            "truncated": sum(self.is_cut(text) for part in tokens.values() for text in part),
        }
        numbers = {label: number for number, label in enumerate(self.labels)}
        return {
            split: TokenSequences(
                [self.encode(text) for text in tokens[split]],
                torch.tensor([numbers[label] for label in self._texts[split].labels]),
            )
            for split in SPLITS
        }

    def check_labels(self, origin: str, texts: Mapping[Split, LabelledTexts]) -> list[str]:
        """The labels that training knows, or the model; refuses a split with another one."""
        known = sorted(set(self.adopted["labels"] if self.adopted else texts["train"].labels))
        whose = "the model's" if self.adopted else "the training split's"
        for split, part in texts.items():
            if unknown := sorted(set(part.labels) - set(known)):
                shown = ", ".join(map(repr, known[:12])) + (", ..." if len(known) > 12 else "")
                raise ValueError(
                    f"{origin}: the {split} split has label {unknown[0]!r}, which is not among {whose} "
                    f"labels: {shown}"
                )
        return known

    def facts(self) -> dict[str, Any]:
        """Vocabulary, labels, tokenizer, case and longest text."""
        self.need_setup()
        return {
            "vocabulary": self.vocabulary.to_list(),
            "labels": list(self.labels),
            "tokenizer": self.tokenizer,
            "lowercase": self.lowercase,
            "max_length": self.max_length,
        }

    def summary(self) -> dict[str, Any]:
        """Texts by split, the sizes of labels and vocabulary, and what was left out or shortened."""
        unknown = self.dataset("test").flat == 1
        return {
            **self._counts,
            "examples": {split: len(part) for split, part in self._texts.items()},
            "labels": len(self.labels),
            "vocabulary": len(self.vocabulary),
            "unknown_in_test": round(unknown.float().mean().item(), 5),
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, str]]:
        """Pairs of text and label, evenly spaced over the split."""
        self.need_setup()
        part = self._texts[split]
        return evenly(list(zip(part.texts, part.labels, strict=True)), n)
