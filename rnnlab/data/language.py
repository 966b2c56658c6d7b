"""Running text for language models: characters or words as parallel streams.

Legend: `T` steps of a window, `B` streams, `N` tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import SequenceLoader
from rnnlab.data.running_text import read_running_text
from rnnlab.data.splits import Split, check_fractions
from rnnlab.data.streams import TokenStreams, WindowSampler
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import EOS, Vocabulary


def text_tokens(text: str, tokenizer: str, *, lowercase: bool = False) -> list[str]:
    """Tokens of a text of several lines, with `<eos>` for each end of a line."""
    tokenize = get_tokenizer(tokenizer, lowercase=lowercase)
    first, *rest = text.split("\n")
    return tokenize(first) + [token for line in rest for token in (EOS, *tokenize(line))]


def encode_text(text: str, vocabulary: Vocabulary, tokenizer: str, *, lowercase: bool = False) -> Tensor:
    """`[N]` int32: the numbers of `text_tokens`, without a Python object for each token of a long text."""
    if tokenizer == "char":
        return _encode_characters(text.lower() if lowercase else text, vocabulary)
    tokenize = get_tokenizer(tokenizer, lowercase=lowercase)
    (eos,) = vocabulary.encode([EOS])
    numbers = array("i")
    for at, line in enumerate(_lines(text)):
        if at:
            numbers.append(eos)
        numbers.extend(vocabulary.encode(tokenize(line)))
    return torch.frombuffer(numbers, dtype=torch.int32) if numbers else torch.empty(0, dtype=torch.int32)


def _encode_characters(text: str, vocabulary: Vocabulary) -> Tensor:
    """By a table over code points."""
    if not text:
        return torch.empty(0, dtype=torch.int32)
    points = torch.frombuffer(bytearray(text, "utf-32-le"), dtype=torch.int32)
    known = [token for token in vocabulary.tokens if len(token) == 1]
    table = torch.ones(max(int(points.max()), *map(ord, known), ord("\n")) + 1, dtype=torch.int32)
    table[torch.tensor([ord(token) for token in known])] = torch.tensor(
        vocabulary.encode(known), dtype=torch.int32
    )
    table[ord("\n")] = vocabulary.encode([EOS])[0]
    return table[points]


def _lines(text: str) -> Iterator[str]:
    """What `text.split("\\n")` gives, without a copy of the whole."""
    start = 0
    while (end := text.find("\n", start)) != -1:
        yield text[start:end]
        start = end + 1
    yield text[start:]


class LanguageData(DataModule):
    """Running text as streams that are read window by window.

    Every end of a line is the token `<eos>`, also among characters and for empty lines, so that bits per
    character and perplexity count it, as is the custom. The vocabulary is counted on the training text;
    other tokens are read as `<unk>`, and told in the summary.

    Args:
        source: see `rnnlab.data.running_text.read_running_text`.
        tokenizer: `"char"`, `"word"`, or `"space"` for text that is tokenised already, such as the Penn
            Treebank's and WikiText's.
        lowercase: fold the text to lower case.
        text_column: column of a hub data set.
        encoding: of files.
        hub_options: further arguments of `datasets.load_dataset`.
        validation: fraction for validation, where the source has no such split.
        test: fraction for the test, where the source has no such split.
        vocabulary_size: most tokens, `<pad>`, `<unk>` and `<eos>` included; None for no limit.
        min_count: fewest occurrences of a token in the vocabulary.
        window: `T`, steps that truncated backpropagation looks back.
        vary_window: draw the lengths of training windows anew in each epoch; see `WindowSampler`.
        batch_size: streams in training.
        eval_batch_size: streams in validation and test; each but the first starts without a past.
        num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read or learned from.
    """

    def __init__(
        self,
        source: str = "kjv",
        *,
        tokenizer: str = "char",
        lowercase: bool = False,
        text_column: str = "text",
        encoding: str = "utf-8",
        hub_options: Mapping[str, Any] | None = None,
        validation: float = 0.05,
        test: float = 0.05,
        vocabulary_size: int | None = None,
        min_count: int = 1,
        window: int = 128,
        vary_window: bool = False,
        batch_size: int = 64,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        get_tokenizer(tokenizer)
        check_fractions(validation, test)
        WindowSampler(window, window, vary=vary_window)
        self.source = source
        self.reading: dict[str, Any] = {
            "text_column": text_column,
            "encoding": encoding,
            "hub_options": hub_options,
        }
        self.fractions = {"validation": validation, "test": test}
        self.tokenizer, self.lowercase = tokenizer, lowercase
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self.window, self.vary_window = window, vary_window
        self._texts: dict[Split, str] = {}

    def read(self) -> dict[Split, Tensor]:
        """Read, split and number the text."""
        if self.adopted:
            self.tokenizer, self.lowercase = self.adopted["tokenizer"], self.adopted["lowercase"]
        text = read_running_text(self.source, characters=self.tokenizer == "char", **self.reading)
        texts = text.split(**self.fractions)
        self.vocabulary = (
            Vocabulary(self.adopted["vocabulary"]) if self.adopted else self._count(texts["train"])
        )
        tokens = {
            split: encode_text(part, self.vocabulary, self.tokenizer, lowercase=self.lowercase)
            for split, part in texts.items()
        }
        self._facts_of_source = {"source": text.origin, "left_out": dict(text.left_out)}
        self._texts = texts
        return tokens

    def _count(self, text: str) -> Vocabulary:
        tokenize = get_tokenizer(self.tokenizer, lowercase=self.lowercase)
        lines: Iterable[list[str]] = map(tokenize, _lines(text))
        return Vocabulary.build(
            lines, max_size=self.vocabulary_size, min_count=self.min_count, specials=(EOS,)
        )

    def facts(self) -> dict[str, Any]:
        """Vocabulary, tokenizer, case, and the typical length of a window."""
        self.need_setup()
        return {
            "vocabulary": self.vocabulary.to_list(),
            "tokenizer": self.tokenizer,
            "lowercase": self.lowercase,
            "window": self.window,
        }

    def summary(self) -> dict[str, Any]:
        """Tokens by split, the vocabulary's size, shares of `<unk>`, and what was left out."""
        self.need_setup()
        return {
            **self._facts_of_source,
            "tokens": {split: len(tokens) for split, tokens in self._datasets.items()},
            "unknown": {
                split: round((tokens == 1).float().mean().item(), 5)
                for split, tokens in self._datasets.items()
            },
            "vocabulary": len(self.vocabulary),
            "left_out_of_an_epoch": len(self._datasets["train"]) % self.batch_size,
        }

    def examples(self, split: Split, n: int) -> list[str]:
        """Lines of at least 40 characters (or the longest there are), evenly spaced over the split."""
        self.need_setup()
        lines = [line for line in self._texts[split].split("\n") if line.strip()]
        lines = [line for line in lines if len(line) >= 40] or lines
        return evenly(lines, n)

    def streams(self, split: Split) -> TokenStreams:
        """The streams of a split, as far as this process reads them."""
        trainer, train = self.trainer, split == "train"
        replicas = trainer.world_size if trainer else 1
        tokens = self.dataset(split)
        each = self.batch_size if train else min(self.eval_batch_size, max(1, len(tokens) // replicas))
        return TokenStreams(
            tokens,
            each * replicas,
            opening=self.vocabulary.encode([EOS])[0],
            whole=not train,
            num_replicas=replicas,
            rank=trainer.global_rank if trainer else 0,
        )

    def make_split_loader(self, split: Split) -> SequenceLoader:
        """The windows of a split's streams, in the order of the text."""
        streams, train, trainer = self.streams(split), split == "train", self.trainer
        windows = WindowSampler(len(streams), self.window, vary=train and self.vary_window, seed=self.seed)
        return SequenceLoader(
            streams,
            windows,
            num_workers=self.num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            reorder=not getattr(trainer, "overfit_batches", 0),
        )
