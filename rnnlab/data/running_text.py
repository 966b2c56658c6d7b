"""Running text from wherever it is: bundled, a file, a folder of files, or the Hugging Face hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rnnlab.data.corpora import BUNDLED
from rnnlab.data.hub import HUB_PREFIX, hub_tables
from rnnlab.data.readers import read_table, read_text
from rnnlab.data.splits import SPLIT_NAMES, SPLITS, Split, assign_split, check_fractions

BUNDLED_TEXTS = ("kjv",)
_TEXT_SUFFIXES = {".txt", ".text", ".tokens", ".raw", ".md"}


@dataclass(frozen=True)
class Document:
    """A text that never parts between splits unless it is the only one.

    Attributes:
        name: what its split depends on.
        text: lines, each ended by `\\n`.
    """

    name: str
    text: str


@dataclass
class RunningText:
    """What a source held.

    Attributes:
        origin: the source in words, for messages.
        parts: documents by the source's own splits; a source without any is all "train".
        left_out: counts of what was not used, by reason.
    """

    origin: str
    parts: dict[Split, list[Document]]
    left_out: Counter[str] = field(default_factory=Counter)

    def split(self, *, validation: float, test: float) -> dict[Split, str]:
        """The text of the three splits: the source's own, and what it lacks taken from its training text.

        Several documents are shared out whole, by a hash of their names. A single one is cut at ends of
        lines: training first, then validation, then test.

        Raises:
            ValueError: a split has no text.
        """
        check_fractions(validation, test)
        own = {split: part for split, part in self.parts.items() if part}
        train = own.pop("train", [])
        wanted = {
            "validation": 0.0 if "validation" in own else validation,
            "test": 0.0 if "test" in own else test,
        }
        shared = _share(train, **wanted) if len(train) > 1 else _cut(train, **wanted)
        splits = {split: own.get(split) or shared[split] for split in SPLITS}
        for split, part in splits.items():
            if not part:
                raise ValueError(
                    f"{self.origin}: no text falls into the {split} split (of {len(train)} documents to "
                    f"share out; validation={validation}, test={test}). Give more text, a larger fraction, "
                    "or a folder with files named train, valid and test"
                )
        return {split: "".join(document.text for document in part) for split, part in splits.items()}


def _share(documents: list[Document], *, validation: float, test: float) -> dict[Split, list[Document]]:
    found: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for document in documents:
        found[assign_split(document.name, validation=validation, test=test)].append(document)
    return found


def _cut(documents: list[Document], *, validation: float, test: float) -> dict[Split, list[Document]]:
    found: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    for document in documents:
        text = document.text
        places = [round(len(text) * (1 - validation - test)), round(len(text) * (1 - test))]
        first, second = (text.find("\n", max(0, place - 1)) + 1 for place in places)
        for split, piece in zip(SPLITS, (text[:first], text[first:second], text[second:]), strict=True):
            if piece:
                found[split].append(Document(document.name, piece))
    return found


def read_running_text(
    source: str,
    *,
    characters: bool = False,
    text_column: str = "text",
    encoding: str = "utf-8",
    hub_options: Mapping[str, Any] | None = None,
) -> RunningText:
    """Read running text.

    Args:
        source: `kjv` (bundled, a document a book); a text file (`.gz` and `.xz` too); a folder with files
            for train, valid and test, as in the Penn Treebank (`ptb.train.txt`) and WikiText
            (`wiki.train.tokens`); a folder of other text files, a document each; or `hf:NAME`.
        characters: for a model of characters: take `ptb.char.train.txt` before `ptb.train.txt`.
        text_column: column of a hub data set, whose rows are lines.
        encoding: of files.
        hub_options: further arguments of `datasets.load_dataset`.

    Raises:
        ValueError: the source is not there, cannot be read, or holds no text.
    """
    if source in BUNDLED_TEXTS:
        return _read_kjv()
    if source.startswith(HUB_PREFIX):
        return _read_hub(source, text_column, hub_options)
    path = Path(source).expanduser()
    if path.is_file():
        return RunningText(str(path), {"train": [_document(path, encoding)]})
    if path.is_dir():
        return _read_folder(path, characters, encoding)
    raise ValueError(
        f"data source {source!r}: no such file or folder, and no bundled text; bundled is "
        f"{', '.join(BUNDLED_TEXTS)}, and {HUB_PREFIX}NAME loads a Hugging Face data set"
    )


def read_verses() -> list[tuple[str, str]]:
    """The bundled King James Bible: book and text of each of its 31,102 verses, in order."""
    rows = read_table(BUNDLED / "kjv.tsv.xz", ["book", "text"])
    return [(row.values[0], row.values[1]) for row in rows]


def _read_kjv() -> RunningText:
    books: dict[str, list[str]] = {}
    for book, verse in read_verses():
        books.setdefault(book, []).append(f"{verse}\n")
    documents = [Document(book, "".join(verses)) for book, verses in books.items()]
    return RunningText("the bundled kjv", {"train": documents})


def _document(path: Path, encoding: str) -> Document:
    text = read_text(path, encoding)
    return Document(path.name, text if text.endswith("\n") else f"{text}\n")


def _read_folder(path: Path, characters: bool, encoding: str) -> RunningText:
    files = sorted(
        entry for entry in path.iterdir() if entry.is_file() and _is_text(entry) and entry.name[0] != "."
    )
    if not files:
        raise ValueError(
            f"{path}: needed are text files for train, valid and test (such as ptb.train.txt or "
            f"wiki.train.tokens), or a .txt file a document; there is no file that ends in "
            f"{', '.join(sorted(_TEXT_SUFFIXES))}"
        )
    named = [(file, split) for file in files if (split := _split_of(file)) is not None]
    if "train" not in [split for _, split in named]:
        return RunningText(str(path), {"train": [_document(file, encoding) for file in files]})
    of_characters = [(file, split) for file, split in named if "char" in _words(file)]
    if of_characters:
        named = of_characters if characters else [pair for pair in named if pair not in of_characters]
    chosen: dict[Split, Path] = {}
    for file, split in named:
        if split in chosen:
            raise ValueError(
                f"{path}: both {chosen[split].name} and {file.name} are the {split} split; "
                "give a folder with one file for each"
            )
        chosen[split] = file
    text = RunningText(str(path), {split: [_document(file, encoding)] for split, file in chosen.items()})
    if unused := set(files) - set(chosen.values()):
        text.left_out["files that are no split"] = len(unused)
    return text


def _is_text(path: Path) -> bool:
    suffixes = path.suffixes[:-1] if path.suffix in {".gz", ".xz"} else path.suffixes
    return bool(suffixes) and suffixes[-1].lower() in _TEXT_SUFFIXES


def _words(path: Path) -> list[str]:
    return path.name.lower().replace("-", ".").replace("_", ".").split(".")


def _split_of(path: Path) -> Split | None:
    return next((SPLIT_NAMES[word] for word in _words(path) if word in SPLIT_NAMES), None)


def _read_hub(source: str, column: str, options: Mapping[str, Any] | None) -> RunningText:
    tables, left_out = hub_tables(source, [column], options)
    text = RunningText(source, {}, left_out)
    for split, table in tables.items():
        lines = [line for line in table[column] if line is not None]
        if len(lines) < len(table):
            text.left_out["rows without text"] += len(table) - len(lines)
        joined = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
        if joined.strip():
            text.parts[split] = [Document(split, joined)]
    if not text.parts:
        raise ValueError(f"{source}: no text in column {column!r}; left out: {dict(text.left_out)}")
    return text
