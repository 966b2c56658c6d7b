"""Sequences that become sequences of another length.

Legend: `S` source steps, `T` target steps, `B` sources, `R` targets, `N` examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import TokenSequences
from rnnlab.data.pair_sources import Pairs, read_pairs
from rnnlab.data.readers import Column
from rnnlab.data.splits import Split, check_fractions
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import EOS, Vocabulary


@dataclass(frozen=True)
class PairBatch:
    """Sources, and targets that each belong to one of them.

    Attributes:
        source: `[S, B]`, int64, 0 past each row's length.
        source_lengths: `[B]`, on the CPU.
        target: `[T, R]`, int64, each ended by `<eos>`, 0 after that.
        target_lengths: `[R]`, on the CPU, `<eos>` counted in.
        owners: `[R]`, on the CPU: the source of each target, in ascending order.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor
    owners: Tensor

    def __len__(self) -> int:
        """The number of sources, `B`."""
        return len(self.source_lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """A copy on the device, with lengths and owners left on the CPU."""
        source = self.source.to(device, non_blocking=non_blocking)
        target = self.target.to(device, non_blocking=non_blocking)
        return PairBatch(source, self.source_lengths, target, self.target_lengths, self.owners)

    def pin_memory(self) -> PairBatch:
        """A copy in page-locked memory, which moves to a GPU without waiting."""
        source, target = self.source.pin_memory(), self.target.pin_memory()
        return PairBatch(source, self.source_lengths, target, self.target_lengths, self.owners)


class PairSequences(Dataset[PairBatch]):
    """Sources with their targets in flat tensors; indexing by a list of rows gives their `PairBatch`.

    Args:
        sources: numbers of tokens.
        targets: of each source, one or more, each ended by `<eos>`.
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[Sequence[int]]]) -> None:
        self.sources = TokenSequences(sources)
        self.targets = TokenSequences([target for each in targets for target in each])
        self.counts = torch.tensor([len(each) for each in targets])
        self.starts = self.counts.cumsum(0) - self.counts
        # What a row costs: the steps of the encoder and those of the decoder.
        self.lengths = self.sources.lengths + self.targets.lengths[self.starts]

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: Sequence[int]) -> PairBatch:
        chosen = torch.as_tensor(rows)
        counts = self.counts[chosen]
        owners = torch.arange(len(chosen)).repeat_interleave(counts)
        within = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        source = self.sources[rows]
        target = self.targets[(self.starts[chosen][owners] + within).tolist()]
        return PairBatch(source.inputs, source.lengths, target.inputs, target.lengths, owners)


class PairData(DataModule):
    """Pairs of a source and a target of another length, such as letters and phonemes, or two languages.

    A source may have several right targets: all are learned from, one after the other, and a prediction is
    compared with the closest. Sources never part between splits. Pairs whose source or target has more tokens
    than the limit, or none, are left out and counted in the summary; unknown tokens are read as `<unk>`.

    Args:
        source: see `rnnlab.data.pair_sources.read_pairs`.
        source_column, target_column, encoding, stress: see `read_pairs`.
        source_tokenizer: `"char"`, `"word"` or `"space"`.
        target_tokenizer: the same, of the targets.
        lowercase: fold both sides to lower case.
        max_source: most tokens of a source.
        max_target: most tokens of a target, `<eos>` not counted.
        vocabulary_size: most tokens of each side, special ones included; None for no limit.
        min_count: fewest occurrences of a token in a vocabulary.
        token_name: what a target's tokens are called in the names of metrics, such as "phoneme".
        sequence_name: what a target is called there, such as "word".
        validation, test: fractions, where the source has no such split.
        loading: batch sizes, workers and seed; see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read or learned from.
    """

    def __init__(
        self,
        source: str = "cmudict",
        *,
        source_column: Column = "source",
        target_column: Column = "target",
        encoding: str = "utf-8",
        stress: bool = False,
        source_tokenizer: str = "char",
        target_tokenizer: str = "space",
        lowercase: bool = False,
        max_source: int = 50,
        max_target: int = 50,
        vocabulary_size: int | None = None,
        min_count: int = 1,
        token_name: str = "token",
        sequence_name: str = "sequence",
        validation: float = 0.05,
        test: float = 0.1,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        for tokenizer in (source_tokenizer, target_tokenizer):
            get_tokenizer(tokenizer)
        check_fractions(validation, test)
        if max_source < 1 or max_target < 1:
            raise ValueError(f"max_source and max_target are at least 1; got {max_source} and {max_target}")
        for key, name in (("token_name", token_name), ("sequence_name", sequence_name)):
            if not name.isidentifier():
                raise ValueError(f"{key} is one word, such as 'phoneme'; got {name!r}")
        if token_name == sequence_name:
            raise ValueError(f"token_name and sequence_name differ; got {token_name!r} twice")
        self.source = source
        self.reading: dict[str, Any] = {
            "source_column": source_column,
            "target_column": target_column,
            "encoding": encoding,
            "stress": stress,
        }
        self.form: dict[str, Any] = {
            "source_tokenizer": source_tokenizer,
            "target_tokenizer": target_tokenizer,
            "lowercase": lowercase,
            "max_source": max_source,
            "max_target": max_target,
            "token_name": token_name,
            "sequence_name": sequence_name,
        }
        self.vocabulary_size, self.min_count = vocabulary_size, min_count
        self.fractions = {"validation": validation, "test": test}

    def read(self) -> dict[Split, PairSequences]:
        """Read, split, tokenise and number the pairs."""
        if self.adopted:
            self.form = {key: self.adopted[key] for key in self.form}
        corpus = read_pairs(self.source, **self.reading)
        left_out = Counter(corpus.left_out)
        texts = {
            split: self._tokenized(part, left_out) for split, part in corpus.split(**self.fractions).items()
        }
        for split, part in texts.items():
            if not part:
                raise ValueError(
                    f"{corpus.origin}: no pair is left in the {split} split; left out: {dict(left_out)}"
                )
        self._texts = texts
        self.source_vocabulary, self.target_vocabulary = self._vocabularies(texts["train"])
        self._counts = {"source": corpus.origin, "left_out": dict(left_out)}
        return {split: self._numbered(part, apart=split == "train") for split, part in texts.items()}

    def _tokenized(self, pairs: Pairs, left_out: Counter[str]) -> list[tuple[list[str], list[list[str]]]]:
        """Tokens of each source and of its targets."""
        form = self.form
        read = get_tokenizer(form["source_tokenizer"], lowercase=form["lowercase"])
        write = get_tokenizer(form["target_tokenizer"], lowercase=form["lowercase"])
        found = []
        for source, targets in pairs.targets.items():
            tokens, kept = read(source), []
            for target in map(write, targets):
                if not tokens or not target:
                    left_out["without tokens"] += 1
                elif len(tokens) > form["max_source"] or len(target) > form["max_target"]:
                    left_out["longer than the limit"] += 1
                elif target not in kept:
                    kept.append(target)
            if kept:
                found.append((tokens, kept))
        return found

    def _vocabularies(
        self, train: Sequence[tuple[list[str], list[list[str]]]]
    ) -> tuple[Vocabulary, Vocabulary]:
        if self.adopted:
            return (
                Vocabulary(self.adopted["source_vocabulary"]),
                Vocabulary(self.adopted["target_vocabulary"]),
            )
        limits: dict[str, Any] = {"max_size": self.vocabulary_size, "min_count": self.min_count}
        return (
            Vocabulary.build((source for source, _ in train), **limits),
            Vocabulary.build((t for _, targets in train for t in targets), specials=(EOS,), **limits),
        )

    def _numbered(self, part: Sequence[tuple[list[str], list[list[str]]]], *, apart: bool) -> PairSequences:
        """The dataset of a split; `apart` makes each target a row of its own."""
        encode = self.target_vocabulary.encode
        sources = [self.source_vocabulary.encode(source) for source, _ in part]
        targets = [[encode([*target, EOS]) for target in each] for _, each in part]
        if apart:
            sources = [source for source, each in zip(sources, targets, strict=True) for _ in each]
            targets = [[target] for each in targets for target in each]
        return PairSequences(sources, targets)

    def facts(self) -> dict[str, Any]:
        """Both vocabularies and tokenizers, the limits, and the names of tokens and sequences."""
        self.need_setup()
        return {
            "source_vocabulary": self.source_vocabulary.to_list(),
            "target_vocabulary": self.target_vocabulary.to_list(),
            **self.form,
        }

    def summary(self) -> dict[str, Any]:
        """Sources and targets by split, sizes of the vocabularies, unknown tokens, and what was left out."""
        test = self.dataset("test")
        return {
            **self._counts,
            "examples": {split: len(part) for split, part in self._texts.items()},
            "targets": {split: len(dataset.targets) for split, dataset in self._datasets.items()},
            "source_vocabulary": len(self.source_vocabulary),
            "target_vocabulary": len(self.target_vocabulary),
            "unknown_in_test": {
                "source": round((test.sources.flat == 1).float().mean().item(), 5),
                "target": round((test.targets.flat == 1).float().mean().item(), 5),
            },
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, list[str]]]:
        """Sources with their targets, tokens between spaces, evenly spaced over the split."""
        self.need_setup()
        join = {"char": "".join}.get(self.form["source_tokenizer"], " ".join)
        return [
            (join(source), [" ".join(target) for target in targets])
            for source, targets in evenly(self._texts[split], n)
        ]

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Take the facts of a trained model, which must be one that maps sequences to sequences."""
        if missing := [key for key in ("source_vocabulary", "target_vocabulary") if key not in facts]:
            raise ValueError(
                f"these data are pairs of sequences, and the checkpoint's model knows no {missing[0]}: it "
                f"was trained on other data (it knows {', '.join(facts)})"
            )
        super().adopt(facts)
