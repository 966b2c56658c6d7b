"""Labelled texts from wherever they are: bundled, in files, in folders, or on the Hugging Face hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnnlab.data.hub import HUB_PREFIX, hub_tables
from rnnlab.data.readers import Column, read_table, read_text, table_format
from rnnlab.data.splits import SPLIT_NAMES, Split, complete_splits, text_key

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_REVIEWS = ("movie_reviews", "amazon_reviews")


@dataclass
class LabelledTexts:
    """Texts with a label each.

    Attributes:
        texts: as they were read.
        labels: of the texts.
        keys: what a text's split depends on; texts with one key never part.
    """

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, label: str, group: str | None = None) -> None:
        """Append an example; without a group its key is the text itself."""
        self.texts.append(text)
        self.labels.append(label)
        self.keys.append(text_key(text) if group is None else group)

    def take(self, rows: Iterable[int]) -> LabelledTexts:
        """The examples of these rows."""
        taken = LabelledTexts()
        for row in rows:
            taken.add(self.texts[row], self.labels[row], self.keys[row])
        return taken


@dataclass
class Corpus:
    """What a source held: the splits that it came in, and what was left out, by reason.

    Attributes:
        origin: the source in words, for messages.
        parts: the source's own splits; a source without any is all "train".
        left_out: counts of examples that were not used, by reason.
        label_order: the labels in the source's own order; None for alphabetical.
    """

    origin: str
    parts: dict[Split, LabelledTexts]
    left_out: Counter[str] = field(default_factory=Counter)
    label_order: list[str] | None = None

    def split(self, *, validation: float, test: float) -> dict[Split, LabelledTexts]:
        """The three splits: the source's own, and what it lacks taken from its training examples by hash.

        Raises:
            ValueError: a split has no examples.
        """
        return complete_splits(
            self.parts,
            lambda train: train.keys,
            lambda train, rows: train.take(rows),
            validation=validation,
            test=test,
            origin=self.origin,
            advice="give more examples, a larger fraction, or a folder with files named train, validation "
            "and test",
        )


def read_corpus(
    source: str,
    *,
    text_column: Column = "text",
    label_column: Column = "label",
    group_column: Column | None = None,
    encoding: str = "utf-8",
    hub_options: Mapping[str, Any] | None = None,
) -> Corpus:
    """Read labelled texts.

    Args:
        source: `movie_reviews` or `amazon_reviews` (bundled); a TSV, CSV or JSON-lines file; a folder with
            such files named train, validation and test; a folder with one folder of `.txt` files a class
            (also below folders train, validation and test); or `hf:NAME` for a Hugging Face data set.
        text_column: name of the texts' column, or its number in a file without a header.
        label_column: name or number of the labels' column.
        group_column: examples that agree in this column (one author, one document) share a split.
        encoding: of files.
        hub_options: further arguments of `datasets.load_dataset`.

    Raises:
        ValueError: the source is not there, cannot be read, or holds nothing that is labelled.
    """
    columns = [text_column, label_column, *([] if group_column is None else [group_column])]
    if source in BUNDLED_REVIEWS:
        corpus = read_reviews(source)
    elif source.startswith(HUB_PREFIX):
        corpus = _read_hub(source, columns, hub_options)
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise ValueError(
                f"data source {source!r}: no such file or folder, and no bundled set; bundled are "
                f"{', '.join(BUNDLED_REVIEWS)}, and {HUB_PREFIX}NAME loads a Hugging Face data set"
            )
        corpus = (
            _read_folder(path, columns, encoding) if path.is_dir() else _read_file(path, columns, encoding)
        )
    if not any(map(len, corpus.parts.values())):
        raise ValueError(f"{corpus.origin}: no labelled example; left out: {dict(corpus.left_out)}")
    return corpus


def read_reviews(name: str) -> Corpus:
    """Read a bundled set of review sentences: positive above a mean valence of 0, negative below.

    Sentences that readers found exactly neutral (37 film, 98 product sentences) have no label and are left
    out. Sentences of one product review share a split. Source: Hutto and Gilbert, ICWSM 2014.
    """
    corpus = Corpus(f"the bundled {name}", {"train": LabelledTexts()}, label_order=["negative", "positive"])
    for row in read_table(BUNDLED / f"{name}.tsv.xz", ["id", "valence", "text"]):
        identity, valence, text = row.values
        if float(valence) == 0.0:
            corpus.left_out["neutral"] += 1
            continue
        review = identity.split("_")[0] if "_" in identity else None
        corpus.parts["train"].add(text, "positive" if float(valence) > 0 else "negative", review)
    return corpus


def _read_file(path: Path, columns: Sequence[Column], encoding: str) -> Corpus:
    part = LabelledTexts()
    for row in read_table(path, columns, encoding=encoding):
        text, label, *group = row.values
        if not label.strip():
            raise ValueError(f"{path}, line {row.line}: the label is empty; give one or delete the line")
        part.add(text, label.strip(), *group)
    return Corpus(str(path), {"train": part})


def _read_folder(path: Path, columns: Sequence[Column], encoding: str) -> Corpus:
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files: dict[Split, Path] = {}
    for entry in entries:
        if (
            entry.is_file()
            and table_format(entry)
            and (name := entry.name.split(".")[0].lower()) in SPLIT_NAMES
        ):
            split = SPLIT_NAMES[name]
            if split in files:
                raise ValueError(f"{path}: both {files[split].name} and {entry.name} are the {split} split")
            files[split] = entry
    if files:
        parts = {split: _read_file(file, columns, encoding).parts["train"] for split, file in files.items()}
        return Corpus(str(path), parts)
    folders = [entry for entry in entries if entry.is_dir()]
    named = {
        SPLIT_NAMES[folder.name.lower()]: folder for folder in folders if folder.name.lower() in SPLIT_NAMES
    }
    corpus = Corpus(str(path), {})
    for split, folder in (named or {"train": path}).items():
        classes = sorted(
            entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        if not classes:
            raise ValueError(
                f"{folder}: needed is one folder of .txt files for each class, or files named train, "
                "validation and test that end in .tsv, .csv or .jsonl; there is neither"
            )
        corpus.parts[split] = _read_classes(classes, encoding)
    return corpus


def _read_classes(folders: Sequence[Path], encoding: str) -> LabelledTexts:
    part = LabelledTexts()
    for folder in folders:
        files = sorted(folder.glob("*.txt"))
        if not files:
            raise ValueError(f"{folder}: no .txt file, so there is no example of class {folder.name!r}")
        for file in files:
            part.add(read_text(file, encoding), folder.name)
    return part


def _read_hub(source: str, columns: Sequence[Column], options: Mapping[str, Any] | None) -> Corpus:
    tables, left_out = hub_tables(source, columns, options)
    corpus = Corpus(source, {}, left_out)
    for split, table in tables.items():
        names = getattr(table.features[columns[1]], "names", None)
        corpus.label_order = corpus.label_order or names
        part = corpus.parts[split] = LabelledTexts()
        groups = [table[columns[2]]] if len(columns) > 2 else []
        for text, label, *group in zip(table[columns[0]], table[columns[1]], *groups, strict=True):
            if text is None or label is None or (names and label < 0):
                corpus.left_out["without text or label"] += 1
            else:
                part.add(text, str(names[label] if names else label), *map(str, group))
    return corpus
