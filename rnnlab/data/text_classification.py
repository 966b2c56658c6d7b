"""Texts with one label each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from rnnlab.data.base import DataModule
from rnnlab.data.batching import SequenceLoader, TokenSequences
from rnnlab.data.corpora import Corpus, LabelledTexts, read_corpus
from rnnlab.data.readers import Column
from rnnlab.data.splits import SPLITS, Split, check_fractions
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import UNK, Vocabulary


def encode_tokens(tokens: Sequence[str], vocabulary: Vocabulary, max_length: int) -> list[int]:
    """Numbers of the first `max_length` tokens; a text without a token becomes one `<unk>`."""
    return vocabulary.encode(tokens[:max_length] or [UNK])


class TextClassificationData(DataModule):
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
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        get_tokenizer(tokenizer)
        check_fractions(validation, test)
        if max_length < 1:
            raise ValueError(f"max_length is at least 1; got {max_length}")
        self.source = source
        self.reading: dict[str, Any] = {
            "text_column": text_column,
            "label_column": label_column,
            "group_column": group_column,
            "encoding": encoding,
            "hub_options": hub_options,
        }
        self.wanted_labels = None if labels is None else [str(label) for label in labels]
        self.fractions = {"validation": validation, "test": test}
        self.tokenizer: str = tokenizer
        self.lowercase, self.max_length = lowercase, max_length
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self._texts: dict[Split, LabelledTexts] = {}
        self._datasets: dict[Split, TokenSequences] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read, split, tokenise and number the texts, once for all stages."""
        if self._datasets:
            return
        corpus = read_corpus(self.source, **self.reading)
        if self.adopted:
            self.tokenizer = self.adopted["tokenizer"]
            self.lowercase = self.adopted["lowercase"]
            self.max_length = self.adopted["max_length"]
        self.labels = self._choose_labels(corpus)
        corpus.parts = {
            split: self._keep_labels(part, corpus.left_out) for split, part in corpus.parts.items()
        }
        self._texts = corpus.split(**self.fractions)
        self._check_labels(corpus.origin)
        tokenize = get_tokenizer(self.tokenizer, lowercase=self.lowercase)
        tokens = {split: [tokenize(text) for text in part.texts] for split, part in self._texts.items()}
        if not any(map(len, tokens["train"])):
            raise ValueError(
                f"{corpus.origin}: none of the {len(tokens['train'])} training texts has a token; is "
                f"text_column={self.reading['text_column']!r} the right one?"
            )
        if self.adopted:
            self.vocabulary = Vocabulary(self.adopted["vocabulary"])
        else:
            self.vocabulary = Vocabulary.build(
                (text[: self.max_length] for text in tokens["train"]),
                max_size=self.vocabulary_size,
                min_count=self.min_count,
            )
        self._counts = {
            "source": corpus.origin,
            "left_out": dict(corpus.left_out),
            "without_tokens": sum(not text for part in tokens.values() for text in part),
            "truncated": sum(len(text) > self.max_length for part in tokens.values() for text in part),
        }
        numbers = {label: number for number, label in enumerate(self.labels)}
        for split in SPLITS:
            self._datasets[split] = TokenSequences(
                [encode_tokens(text, self.vocabulary, self.max_length) for text in tokens[split]],
                torch.tensor([numbers[label] for label in self._texts[split].labels]),
            )

    def _choose_labels(self, corpus: Corpus) -> list[str]:
        if self.adopted:
            return list(self.adopted["labels"])
        if self.wanted_labels is not None:
            return self.wanted_labels
        found = {label for part in corpus.parts.values() for label in part.labels}
        return [label for label in corpus.label_order or sorted(found) if label in found]

    def _keep_labels(self, part: LabelledTexts, left_out: Counter[str]) -> LabelledTexts:
        if self.wanted_labels is None:
            return part
        rows = [row for row, label in enumerate(part.labels) if label in self.labels]
        if len(rows) < len(part):
            left_out["another label"] += len(part) - len(rows)
        return part.take(rows)

    def _check_labels(self, origin: str) -> None:
        if self.adopted:
            known, whose = set(self.labels), "the model's"
        else:
            known, whose = set(self._texts["train"].labels), "the training split's"
            if len(known) < 2:
                raise ValueError(
                    f"{origin}: at least two classes are needed; the training split holds only "
                    f"{', '.join(map(repr, sorted(known)))}"
                )
            if missing := [label for label in self.labels if label not in known]:
                raise ValueError(f"{origin}: the training split has no example of {missing[0]!r}")
        for split, part in self._texts.items():
            if unknown := sorted(set(part.labels) - known):
                raise ValueError(
                    f"{origin}: the {split} split has label {unknown[0]!r}, which is not among {whose}"
                    f" labels: {', '.join(map(repr, sorted(known)))}"
                )

    def facts(self) -> dict[str, Any]:
        """Vocabulary, labels, tokenizer, case and longest text."""
        self._need_setup()
        return {
            "vocabulary": self.vocabulary.to_list(),
            "labels": list(self.labels),
            "tokenizer": self.tokenizer,
            "lowercase": self.lowercase,
            "max_length": self.max_length,
        }

    def summary(self) -> dict[str, Any]:
        """Examples by split and label, the vocabulary's size, and what was left out or shortened."""
        self._need_setup()
        unknown = self._datasets["test"].flat == 1
        return {
            **self._counts,
            "examples": {
                split: dict(sorted(Counter(part.labels).items())) for split, part in self._texts.items()
            },
            "vocabulary": len(self.vocabulary),
            "unknown_in_test": round(unknown.float().mean().item(), 4),
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, str]]:
        """Pairs of text and label, evenly spaced over the split."""
        self._need_setup()
        part = self._texts[split]
        n = min(n, len(part))
        return [(part.texts[place], part.labels[place]) for place in (i * len(part) // n for i in range(n))]

    def _need_setup(self) -> None:
        if not self._datasets:
            raise RuntimeError("the data are known after setup(); call it first")

    def _loader(self, split: Split) -> SequenceLoader:
        self._need_setup()
        dataset = self._datasets[split]
        return self.make_loader(dataset, dataset.lengths, train=split == "train")

    def train_dataloader(self) -> SequenceLoader:
        """Training batches, in an order of its own for each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> SequenceLoader:
        """Validation batches, sorted by length."""
        return self._loader("validation")

    def test_dataloader(self) -> SequenceLoader:
        """Test batches, sorted by length."""
        return self._loader("test")
