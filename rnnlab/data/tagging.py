"""Sentences with a tag for each token, as batches of words and of their spellings.

Legend: `T` time, `B` batch, `U` distinct words of a batch, `W` characters of a word, `N` tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.splits import SPLITS, Split, check_fractions
from rnnlab.data.streams import NO_TARGET
from rnnlab.data.tag_sources import Scheme, TaggedSentences, read_tagged
from rnnlab.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class TagBatch:
    """Sentences, time first.

    Attributes:
        words: `[T, B]`, numbers of the vocabulary, 0 past each row's length.
        spellings: `[U, W]`, characters of each distinct word of the batch, 0 past its end; the first row is
            that of the padding.
        spelled: `[T, B]`, the row of `spellings` of each token.
        lengths: `[B]`, on the CPU.
        targets: `[T, B]`, numbers of the tags, `NO_TARGET` past each row's length.
    """

    words: Tensor
    spellings: Tensor
    spelled: Tensor
    lengths: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """The number of sentences, `B`."""
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TagBatch:
        """A copy on the device, with the lengths left on the CPU."""
        words, spellings, spelled, targets = (
            part.to(device, non_blocking=non_blocking)
            for part in (self.words, self.spellings, self.spelled, self.targets)
        )
        return TagBatch(words, spellings, spelled, self.lengths, targets)

    def pin_memory(self) -> TagBatch:
        """A copy in page-locked memory, which moves to a GPU without waiting."""
        words, spellings, spelled, targets = (
            part.pin_memory() for part in (self.words, self.spellings, self.spelled, self.targets)
        )
        return TagBatch(words, spellings, spelled, self.lengths, targets)


class TagSequences(Dataset[TagBatch]):
    """Tagged sentences in flat tensors; indexing by a list of rows gives their `TagBatch`.

    Args:
        sentences: tokens of each; none is empty.
        tags: of each, numbers; None where nobody knows them.
        words: numbers tokens.
        characters: numbers characters.
        lowercase: look words up in lower case; spellings keep their case.
        max_characters: of a spelling; of a longer word its beginning and its end are kept.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[str]],
        tags: Sequence[Sequence[int]] | None,
        words: Vocabulary,
        characters: Vocabulary,
        *,
        lowercase: bool,
        max_characters: int,
    ) -> None:
        self.lengths = torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64)
        self.starts = self.lengths.cumsum(0) - self.lengths
        tokens = list(chain.from_iterable(sentences))
        read = [token.lower() for token in tokens] if lowercase else tokens
        self.words = torch.tensor(words.encode(read), dtype=torch.int32)
        kinds = {token: number for number, token in enumerate(dict.fromkeys(tokens), start=1)}
        self.kinds = torch.tensor([kinds[token] for token in tokens], dtype=torch.int32)
        self.spellings = torch.zeros(len(kinds) + 1, max_characters, dtype=torch.int16)
        for token, number in kinds.items():
            kept = shortened(token, max_characters)
            self.spellings[number, : len(kept)] = torch.tensor(characters.encode(kept), dtype=torch.int16)
        known = None if tags is None else list(chain.from_iterable(tags))
        self.tags = torch.tensor(known or [NO_TARGET] * len(tokens), dtype=torch.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Sequence[int]) -> TagBatch:
        chosen = torch.as_tensor(rows)
        lengths = self.lengths[chosen]
        steps = torch.arange(int(lengths.max())).unsqueeze(1)
        places = (self.starts[chosen] + steps).clamp_(max=len(self.words) - 1)
        valid = steps < lengths
        kinds, spelled = torch.cat([self.kinds.new_zeros(1), (self.kinds[places] * valid).flatten()]).unique(
            return_inverse=True
        )
        spellings = self.spellings[kinds.long()].long()
        # No word of the batch is longer than this; one column stays where all words are empty.
        width = max(1, int((spellings != 0).sum(1).max()))
        return TagBatch(
            self.words[places].long() * valid,
            spellings[:, :width],
            spelled[1:].view(places.shape),
            lengths,
            self.tags[places].long().masked_fill(~valid, NO_TARGET),
        )


def shortened(token: str, characters: int) -> str:
    """A token of at most so many characters: the beginning and the end of a longer one."""
    if len(token) <= characters:
        return token
    end = characters // 2
    return token[: characters - end] + token[len(token) - end :]


class TaggingData(DataModule):
    """Sentences with a tag for each token.

    The vocabularies are counted on the training split. A sentence longer than the limit is cut into pieces,
    all of which are kept, and counted in the summary; so are words and characters outside the vocabulary,
    which are read as `<unk>`.

    Args:
        source: see `rnnlab.data.tag_sources.read_tagged`.
        train_file, validation_file, test_file: names within a folder, where they do not tell their split.
        token_column, tag_column, encoding, hub_options, scheme: see `read_tagged`.
        lowercase: look words up in lower case; their spellings keep their case.
        vocabulary_size: most words, `<pad>` and `<unk>` included; None for no limit.
        min_count: fewest occurrences of a word in the vocabulary.
        max_length: tokens of a piece.
        max_characters: of a word's spelling; of a longer word its beginning and its end are kept.
        validation, test: fractions, where the source has no such split.
        loading: batch sizes, workers and seed; see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read, or a tag of validation
            or test does not occur in training.
    """

    def __init__(
        self,
        source: str = "verses",
        *,
        train_file: str | None = None,
        validation_file: str | None = None,
        test_file: str | None = None,
        token_column: int | str = 0,
        tag_column: int | str = -1,
        encoding: str = "utf-8",
        hub_options: Mapping[str, Any] | None = None,
        scheme: Scheme = "none",
        lowercase: bool = True,
        vocabulary_size: int | None = None,
        min_count: int = 2,
        max_length: int = 150,
        max_characters: int = 20,
        validation: float = 0.05,
        test: float = 0.05,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_fractions(validation, test)
        if max_length < 1 or max_characters < 1:
            raise ValueError(
                f"max_length and max_characters are at least 1; got {max_length} and {max_characters}"
            )
        files = {"train": train_file, "validation": validation_file, "test": test_file}
        self.source = source
        self.reading: dict[str, Any] = {
            "files": {split: name for split, name in files.items() if name},
            "token_column": token_column,
            "tag_column": tag_column,
            "encoding": encoding,
            "hub_options": hub_options,
            "scheme": scheme,
        }
        self.fractions = {"validation": validation, "test": test}
        self.lowercase, self.max_length, self.max_characters = lowercase, max_length, max_characters
        self.vocabulary_size, self.min_count = vocabulary_size, min_count

    def read(self) -> dict[Split, TagSequences]:
        """Read, split, cut and number the sentences."""
        if self.adopted:
            self.lowercase, self.max_length = self.adopted["lowercase"], self.adopted["max_length"]
            self.max_characters = self.adopted["max_characters"]
        corpus = read_tagged(self.source, **self.reading)
        counts = Counter(corpus.left_out)
        self._sentences = {
            split: self._cut(part, counts) for split, part in corpus.split(**self.fractions).items()
        }
        train = self._sentences["train"]
        self.labels = self._check_labels(corpus.origin)
        if self.adopted:
            self.vocabulary = Vocabulary(self.adopted["vocabulary"])
            self.characters = Vocabulary(self.adopted["characters"])
        else:
            folded = ([t.lower() for t in tokens] if self.lowercase else tokens for tokens in train.tokens)
            self.vocabulary = Vocabulary.build(
                folded, max_size=self.vocabulary_size, min_count=self.min_count
            )
            self.characters = Vocabulary.build(chain.from_iterable(train.tokens))
        self._counts = {"source": corpus.origin, "left_out": dict(counts)}
        numbers = {label: number for number, label in enumerate(self.labels)}
        return {
            split: self.number(
                self._sentences[split].tokens,
                [[numbers[tag] for tag in tags] for tags in self._sentences[split].tags],
            )
            for split in SPLITS
        }

    def number(
        self, sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[int]] | None
    ) -> TagSequences:
        """The dataset of sentences."""
        return TagSequences(
            sentences,
            tags,
            self.vocabulary,
            self.characters,
            lowercase=self.lowercase,
            max_characters=self.max_characters,
        )

    def _cut(self, part: TaggedSentences, counts: Counter[str]) -> TaggedSentences:
        pieces = TaggedSentences()
        for tokens, tags in zip(part.tokens, part.tags, strict=True):
            if len(tokens) > self.max_length:
                counts["sentences cut into pieces"] += 1
            for start in range(0, len(tokens), self.max_length):
                stop = start + self.max_length
                pieces.add(tokens[start:stop], tags[start:stop])
        return pieces

    def _check_labels(self, origin: str) -> list[str]:
        known = (
            list(self.adopted["labels"])
            if self.adopted
            else sorted(set(chain.from_iterable(self._sentences["train"].tags)))
        )
        whose = "the model's" if self.adopted else "the training split's"
        for split, part in self._sentences.items():
            if unknown := sorted(set(chain.from_iterable(part.tags)) - set(known)):
                raise ValueError(
                    f"{origin}: the {split} split has tag {unknown[0]!r}, which is not among {whose} "
                    f"{len(known)} tags: {', '.join(map(repr, known[:12]))}"
                    + (", ..." if len(known) > 12 else "")
                )
        return known

    def facts(self) -> dict[str, Any]:
        """Vocabularies of words and characters, tags, case, the limits, and the scheme."""
        self.need_setup()
        return {
            "vocabulary": self.vocabulary.to_list(),
            "characters": self.characters.to_list(),
            "labels": list(self.labels),
            "lowercase": self.lowercase,
            "max_length": self.max_length,
            "max_characters": self.max_characters,
        }

    def summary(self) -> dict[str, Any]:
        """Sentences and tokens by split, tags, vocabularies, unknown words, and what was left out or cut."""
        self.need_setup()
        return {
            **self._counts,
            "files": self.reading["files"],
            "sentences": {split: len(dataset) for split, dataset in self._datasets.items()},
            "tokens": {split: len(dataset.words) for split, dataset in self._datasets.items()},
            "tags": len(self.labels),
            "vocabulary": len(self.vocabulary),
            "characters": len(self.characters),
            "unknown_in_test": round((self._datasets["test"].words == 1).float().mean().item(), 5),
        }

    def examples(self, split: Split, n: int) -> list[tuple[list[str], list[str]]]:
        """Tokens and tags of sentences, evenly spaced over the split."""
        self.need_setup()
        part = self._sentences[split]
        return evenly(list(zip(part.tokens, part.tags, strict=True)), n)

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Take the facts of a trained model, which must be one that tags."""
        if missing := [key for key in ("vocabulary", "characters", "labels") if key not in facts]:
            raise ValueError(
                f"these data are tagged sentences, and the checkpoint's model knows no {missing[0]}: it was "
                f"trained on other data (it knows {', '.join(facts)})"
            )
        super().adopt(facts)
