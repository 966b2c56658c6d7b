"""Texts to be generated from a label: one to many.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rnnlab.data.corpora import Corpus, LabelledTexts, read_corpus
from rnnlab.data.labelled_text import LabelledTextData, Texts
from rnnlab.data.language import text_tokens
from rnnlab.data.readers import Column
from rnnlab.data.running_text import read_verses
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import EOS


class ConditionalTextData(LabelledTextData):
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

    specials = (EOS,)

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
            source,
            reading={
                "text_column": text_column,
                "label_column": label_column,
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

    def read_source(self) -> Corpus:
        """The verses with their books, or the corpus of the source."""
        return _read_verses() if self.source == "kjv" else read_corpus(self.source, **self.reading)

    def get_tokenize(self, tokenizer: str, lowercase: bool) -> Callable[[str], list[str]]:
        """Tokens of a text of several lines."""
        get_tokenizer(tokenizer)
        return partial(text_tokens, tokenizer=tokenizer, lowercase=lowercase)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """The numbers of the tokens and of `<eos>`, cut."""
        return self.vocabulary.encode([*tokens, EOS][: self.max_length])

    def is_cut(self, tokens: Sequence[str]) -> bool:
        """Whether `encode` leaves something of these tokens, or their `<eos>`, out."""
        return len(tokens) >= self.max_length

    def share_out(self, corpus: Corpus) -> tuple[list[str], Texts]:
        """The labels in order: the model's, else the source's own order, else the alphabet's."""
        texts = corpus.split(**self.fractions)
        known = self.check_labels(corpus.origin, texts)
        if self.adopted:
            return list(self.adopted["labels"]), texts
        return [label for label in corpus.label_order or known if label in known], texts


def _read_verses() -> Corpus:
    """Verses with their books, in the order of the Bible."""
    corpus = Corpus("the bundled kjv", {"train": LabelledTexts()}, label_order=[])
    order: dict[str, None] = {}
    for book, verse in read_verses():
        order.setdefault(book)
        corpus.parts["train"].add(verse, book)
    corpus.label_order = list(order)
    return corpus
