"""Texts with one label each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rnnlab.data.corpora import Corpus, LabelledTexts, read_corpus
from rnnlab.data.labelled_text import LabelledTextData, Texts
from rnnlab.data.readers import Column
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import UNK, Vocabulary


def encode_tokens(tokens: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[int]:
    """Numbers of the first `max_length` tokens; a text without a token becomes one `<unk>`."""
    return vocabulary.encode(tokens[:max_length] or [UNK])


class TextClassificationData(LabelledTextData):
    """Labelled texts as batches of token numbers, bucketed by length.

    The vocabulary is counted on the training split. A source with splits of its own keeps them; what is
    lacking is taken from its training examples by a hash of each text (see `rnnlab.data.splits`), so that a
    split never depends on the order of a file and copies of a text never part.

    Args:
        source: see `rnnlab.data.corpora.read_corpus`.
        text_column: name of the texts' column, or its number in a file without a header.
        label_column: name or number of the labels' column.
        group_column: examples that agree in this column share a split.
        encoding: of files.
        hub_options: further arguments of `datasets.load_dataset`.
        labels: the labels to keep, in this order; None keeps all.
        validation: fraction for validation, where the source has no such split.
        test: fraction for the test, where the source has no such split.
        tokenizer: `"word"` or `"char"`.
        lowercase: fold the texts to lower case.
        vocabulary_size: most tokens in the vocabulary, `<pad>` and `<unk>` included; None for no limit.
        min_count: fewest occurrences of a token in the vocabulary.
        max_length: tokens of a text that are kept, from its start.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read or learned from.
    """

    def __init__(
        self,
        source: str = "movie_reviews",
        *,
        text_column: Column = "text",
        label_column: Column = "label",
        group_column: Column | None = None,
        encoding: str = "utf-8",
        hub_options: Mapping[str, Any] | None = None,
        labels: Sequence[str] | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        tokenizer: Literal["word", "char"] = "word",
        lowercase: bool = True,
        vocabulary_size: int | None = 20000,
        min_count: int = 2,
        max_length: int = 256,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source,
            reading={
                "text_column": text_column,
                "label_column": label_column,
                "group_column": group_column,
                "encoding": encoding,
                "hub_options": hub_options,
            },
            fractions={"validation": validation, "test": test},
            tokenizer=tokenizer,
            lowercase=lowercase,
            vocabulary_size=vocabulary_size,
            min_count=min_count,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.wanted_labels = None if labels is None else [str(label) for label in labels]

    def read_source(self) -> Corpus:
        """The corpus of the source."""
        return read_corpus(self.source, **self.reading)

    def get_tokenize(self, tokenizer: str, lowercase: bool) -> Callable[[str], list[str]]:
        """Tokens of a text, its line ends being space."""
        return get_tokenizer(tokenizer, lowercase=lowercase)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """See `encode_tokens`."""
        return encode_tokens(tokens, self.vocabulary, self.max_length)

    def check_tokens(self, origin: str, training: Sequence[Sequence[str]]) -> None:
        """Refuse training texts without any token."""
        if not any(map(len, training)):
            raise ValueError(
                f"{origin}: none of the {len(training)} training texts has a token; is "
                f"text_column={self.reading['text_column']!r} the right one?"
            )

    def share_out(self, corpus: Corpus) -> tuple[list[str], Texts]:
        """The labels, and the texts that have one of those that are wanted; two classes are the least."""
        labels = self._choose_labels(corpus)
        corpus.parts = {
            split: self._keep_labels(part, labels, corpus.left_out) for split, part in corpus.parts.items()
        }
        texts = corpus.split(**self.fractions)
        if not self.adopted:
            _check_classes(corpus.origin, labels, set(texts["train"].labels))
        self.check_labels(corpus.origin, texts)
        return labels, texts

    def _choose_labels(self, corpus: Corpus) -> list[str]:
        if self.adopted:
            return list(self.adopted["labels"])
        if self.wanted_labels is not None:
            return self.wanted_labels
        found = {label for part in corpus.parts.values() for label in part.labels}
        return [label for label in corpus.label_order or sorted(found) if label in found]

    def _keep_labels(
        self, part: LabelledTexts, labels: Sequence[str], left_out: Counter[str]
    ) -> LabelledTexts:
        if self.wanted_labels is None:
            return part
        rows = [row for row, label in enumerate(part.labels) if label in labels]
        if len(rows) < len(part):
            left_out["another label"] += len(part) - len(rows)
        return part.take(rows)

    def summary(self) -> dict[str, Any]:
        """Examples by split and label, the vocabulary's size, and what was left out or shortened."""
        counted = {split: dict(sorted(Counter(part.labels).items())) for split, part in self._texts.items()}
        return {**super().summary(), "examples": counted}


def _check_classes(origin: str, labels: Sequence[str], known: set[str]) -> None:
    """Raise ValueError unless training knows two classes, and each one that is wanted."""
    if len(known) < 2:
        raise ValueError(
            f"{origin}: at least two classes are needed; the training split holds only "
            f"{', '.join(map(repr, sorted(known)))}"
        )
    if missing := [label for label in labels if label not in known]:
        raise ValueError(f"{origin}: the training split has no example of {missing[0]!r}")
