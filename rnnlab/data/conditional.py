"""Texts to be generated from a label: one to many.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rnnlab.data.base import DataModule
from rnnlab.data.batching import SequenceLoader, TokenSequences
from rnnlab.data.corpora import Corpus, LabelledTexts, read_corpus
from rnnlab.data.language import text_tokens
from rnnlab.data.readers import Column
from rnnlab.data.running_text import read_verses
from rnnlab.data.splits import SPLITS, Split, check_fractions
from rnnlab.data.vocabulary import EOS, Vocabulary


class ConditionalTextData(DataModule):
    """Pairs of a label and a text; a batch's inputs are the texts, each ended by `<eos>`, its targets labels.

    The splits are made by a hash of each text, so that every label occurs in training. A text that is longer
    than `max_length` is cut and has no `<eos>`, as it does not end there.

    Args:
        source: `kjv` (bundled: verses, labelled with their books), or see `rnnlab.data.corpora.read_corpus`.
        text_column: name of the texts' column, or its number in a file without a header.
        label_column: name or number of the labels' column.
        encoding: of files.
        hub_options: further arguments of `datasets.load_dataset`.
        validation: fraction for validation, where the source has no such split.
        test: fraction for the test, where the source has no such split.
        tokenizer: `"char"`, `"word"` or `"space"`.
        lowercase: fold the texts to lower case.
        vocabulary_size: most tokens, `<pad>`, `<unk>` and `<eos>` included; None for no limit.
        min_count: fewest occurrences of a token in the vocabulary.
        max_length: tokens of a text that are kept, from its start, `<eos>` counted in.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read, or a label of validation
            or test does not occur in training.
    """

    def __init__(
        self,
        source: str = "kjv",
        *,
        text_column: Column = "text",
        label_column: Column = "label",
        encoding: str = "utf-8",
        hub_options: Mapping[str, Any] | None = None,
        validation: float = 0.05,
        test: float = 0.05,
        tokenizer: str = "char",
        lowercase: bool = False,
        vocabulary_size: int | None = None,
        min_count: int = 1,
        max_length: int = 400,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        check_fractions(validation, test)
        text_tokens("", tokenizer)
        if max_length < 1:
            raise ValueError(f"max_length is at least 1; got {max_length}")
        self.source = source
        self.reading: dict[str, Any] = {
            "text_column": text_column,
            "label_column": label_column,
            "encoding": encoding,
            "hub_options": hub_options,
        }
        self.fractions = {"validation": validation, "test": test}
        self.tokenizer, self.lowercase, self.max_length = tokenizer, lowercase, max_length
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self._texts: dict[Split, LabelledTexts] = {}
        self._datasets: dict[Split, TokenSequences] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read, split, tokenise and number the texts, once for all stages."""
        if self._datasets:
            return
        if self.adopted:
            self.tokenizer, self.lowercase = self.adopted["tokenizer"], self.adopted["lowercase"]
            self.max_length = self.adopted["max_length"]
        corpus = _read_verses() if self.source == "kjv" else read_corpus(self.source, **self.reading)
        texts = corpus.split(**self.fractions)
        self.labels = self._check_labels(corpus, texts)
        tokens = {
            split: [text_tokens(text, self.tokenizer, lowercase=self.lowercase) for text in part.texts]
            for split, part in texts.items()
        }
        self.vocabulary = (
            Vocabulary(self.adopted["vocabulary"])
            if self.adopted
            else Vocabulary.build(
                (text[: self.max_length] for text in tokens["train"]),
                max_size=self.vocabulary_size,
                min_count=self.min_count,
                specials=(EOS,),
            )
        )
        self._counts = {
            "source": corpus.origin,
            "left_out": dict(corpus.left_out),
            "without_tokens": sum(not text for part in tokens.values() for text in part),
            "truncated": sum(len(text) >= self.max_length for part in tokens.values() for text in part),
        }
        numbers = {label: number for number, label in enumerate(self.labels)}
        for split in SPLITS:
            self._datasets[split] = TokenSequences(
                [self.vocabulary.encode([*text, EOS][: self.max_length]) for text in tokens[split]],
                torch.tensor([numbers[label] for label in texts[split].labels]),
            )
        self._texts = texts

    def _check_labels(self, corpus: Corpus, texts: Mapping[Split, LabelledTexts]) -> list[str]:
        """The labels in order: the model's, else the source's own order, else the alphabet's."""
        known = set(self.adopted["labels"] if self.adopted else texts["train"].labels)
        for split, part in texts.items():
            if unknown := sorted(set(part.labels) - known):
                whose = "the model's" if self.adopted else "the training split's"
                shown = ", ".join(map(repr, sorted(known)[:12])) + (", ..." if len(known) > 12 else "")
                raise ValueError(
                    f"{corpus.origin}: the {split} split has label {unknown[0]!r}, which is not among "
                    f"{whose} labels: {shown}"
                )
        if self.adopted:
            return list(self.adopted["labels"])
        return [label for label in corpus.label_order or sorted(known) if label in known]

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
        """Texts by split, the number of labels and tokens, and what was left out or shortened."""
        self._need_setup()
        return {
            **self._counts,
            "examples": {split: len(part) for split, part in self._texts.items()},
            "labels": len(self.labels),
            "vocabulary": len(self.vocabulary),
            "unknown_in_test": round((self._datasets["test"].flat == 1).float().mean().item(), 5),
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


def _read_verses() -> Corpus:
    """Verses with their books, in the order of the Bible."""
    corpus = Corpus("the bundled kjv", {"train": LabelledTexts()}, label_order=[])
    order: dict[str, None] = {}
    for book, verse in read_verses():
        order.setdefault(book)
        corpus.parts["train"].add(verse, book)
    corpus.label_order = list(order)
    return corpus
