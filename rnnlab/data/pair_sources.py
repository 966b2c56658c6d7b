"""Sequences with what they are to become: bundled pronunciations and verses, or tables of pairs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rnnlab.data.corpora import BUNDLED
from rnnlab.data.readers import Column, read_table, read_text, table_format
from rnnlab.data.splits import SPLIT_NAMES, Split, complete_splits, text_key

BUNDLED_PAIRS = ("cmudict", "verses_en_es")
_VARIANT = re.compile(r"\(\d+\)$")


@dataclass
class Pairs:
    """Sources with one or more targets each, in the order in which they came.

    Attributes:
        targets: of each source; each is right on its own.
        keys: what a source's split depends on.
    """

    targets: dict[str, list[str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    def add(self, source: str, target: str, key: str | None = None) -> bool:
        """Append a target of a source; False where the source has it already."""
        self.keys.setdefault(source, text_key(source) if key is None else key)
        known = self.targets.setdefault(source, [])
        if target in known:
            return False
        known.append(target)
        return True

    def take(self, sources: Iterable[str]) -> Pairs:
        """These sources with their targets."""
        chosen = list(sources)
        return Pairs(
            {source: self.targets[source] for source in chosen},
            {source: self.keys[source] for source in chosen},
        )


@dataclass
class PairCorpus:
    """What a source of pairs held.

    Attributes:
        origin: the source in words, for messages.
        parts: its own splits; a source without any is all "train".
        left_out: counts of pairs that were not used, by reason.
    """

    origin: str
    parts: dict[Split, Pairs]
    left_out: Counter[str] = field(default_factory=Counter)

    def split(self, *, validation: float, test: float) -> dict[Split, Pairs]:
        """The three splits: the corpus's own, and what it lacks taken from its training sources by hash.

        Raises:
            ValueError: a split has no pair.
        """
        return complete_splits(
            self.parts,
            lambda train: [train.keys[source] for source in train.targets],
            lambda train, rows: train.take(map(list(train.targets).__getitem__, rows)),
            validation=validation,
            test=test,
            origin=self.origin,
            unit="pair",
            advice="give more pairs, a larger fraction, or a folder with files named train, validation and "
            "test",
        )


def read_pairs(
    source: str,
    *,
    source_column: Column = "source",
    target_column: Column = "target",
    encoding: str = "utf-8",
    stress: bool = False,
) -> PairCorpus:
    """Read pairs.

    A source that occurs on several lines has several targets; a pair that occurs again is counted and left
    out.

    Args:
        source: `cmudict` or `verses_en_es` (bundled); a TSV, CSV or JSON-lines file; or a folder with such
            files named train, validation and test.
        source_column: name of the column to read from, or its number in a file without a header.
        target_column: name or number of the column to write.
        encoding: of files.
        stress: keep the stress of CMUdict's vowels.

    Raises:
        ValueError: the source is not there, cannot be read, or a pair has an empty side.
    """
    if source == "cmudict":
        return read_cmudict(stress=stress)
    if source == "verses_en_es":
        return read_verse_pairs()
    path = Path(source).expanduser()
    columns = [source_column, target_column]
    if path.is_file():
        corpus = PairCorpus(str(path), {})
        corpus.parts["train"] = _read_file(path, columns, encoding, corpus.left_out)
        return corpus
    if not path.is_dir():
        raise ValueError(
            f"data source {source!r}: no such file or folder, and no bundled set; bundled are "
            f"{', '.join(BUNDLED_PAIRS)}"
        )
    corpus = PairCorpus(str(path), {})
    for file in sorted(path.iterdir()):
        split = SPLIT_NAMES.get(file.name.split(".")[0].lower())
        if not file.is_file() or table_format(file) is None or split is None:
            continue
        if split in corpus.parts:
            raise ValueError(f"{path}: two files, one of them {file.name}, are the {split} split")
        corpus.parts[split] = _read_file(file, columns, encoding, corpus.left_out)
    if not corpus.parts:
        raise ValueError(f"{path}: needed are files named train, validation and test in .tsv, .csv or .jsonl")
    return corpus


def _read_file(path: Path, columns: list[Column], encoding: str, left_out: Counter[str]) -> Pairs:
    pairs = Pairs()
    for row in read_table(path, columns, encoding=encoding):
        source, target = (value.strip() for value in row.values)
        if not source or not target:
            side = "source" if not source else "target"
            raise ValueError(f"{path}, line {row.line}: the {side} is empty; give one or delete the line")
        if not pairs.add(source, target):
            left_out["repeated pairs"] += 1
    return pairs


def read_cmudict(*, stress: bool = False) -> PairCorpus:
    """English words with their pronunciations, phonemes of ARPAbet between spaces.

    Without stress, two pronunciations that differ in nothing else are one.
    """
    pairs, corpus = Pairs(), PairCorpus("the bundled cmudict", {})
    for line in read_text(BUNDLED / "cmudict.dict.xz").splitlines():
        word, _, phonemes = line.partition("#")[0].strip().partition(" ")
        if not stress:
            phonemes = re.sub(r"\d", "", phonemes)
        word = _VARIANT.sub("", word)
        if not pairs.add(word, phonemes, key=word):
            corpus.left_out["repeated pairs"] += 1
    corpus.parts["train"] = pairs
    return corpus


def read_verse_pairs() -> PairCorpus:
    """Verses of the King James Bible with those of the Reina-Valera of 1909."""
    english = {
        f"{book} {chapter}:{verse}": text
        for _, (book, chapter, verse, text) in read_table(
            BUNDLED / "kjv.tsv.xz", ["book", "chapter", "verse", "text"]
        )
    }
    pairs, corpus = Pairs(), PairCorpus("the bundled verses_en_es", {})
    for _, (citation, text) in read_table(BUNDLED / "rv1909.tsv.xz", ["citation", "text"]):
        if not pairs.add(english[citation], text):
            corpus.left_out["repeated pairs"] += 1
    corpus.parts["train"] = pairs
    return corpus
