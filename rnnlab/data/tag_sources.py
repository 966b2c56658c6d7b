"""Sentences with a tag for each token: CoNLL columns, CoNLL-U, the Hugging Face hub, bundled verses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rnnlab.data.bio import is_bio, starts_alone
from rnnlab.data.hub import HUB_PREFIX, hub_tables
from rnnlab.data.readers import read_text
from rnnlab.data.running_text import read_verses
from rnnlab.data.splits import SPLIT_NAMES, Split, complete_splits, text_key

Scheme = Literal["none", "bio"]
_SUFFIXES = {".conll", ".conllu", ".bio", ".iob", ".iob2", ".tsv", ".txt"}
_CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_MARKS = ",;:.?!"
_WORD = re.compile(r"(\w+(?:['’-]\w+)*(?:(?<=s)'(?!\w))?)([^\w]*)")


@dataclass
class TaggedSentences:
    """Sentences: a list of tokens, and one of tags, each."""

    tokens: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, tokens: list[str], tags: list[str]) -> None:
        """Append a sentence."""
        self.tokens.append(tokens)
        self.tags.append(tags)


@dataclass
class TaggedCorpus:
    """What a source held.

    Attributes:
        origin: the source in words, for messages.
        parts: its own splits; a source without any is all "train".
        left_out: counts of what was not used, or read by a rule, by reason.
    """

    origin: str
    parts: dict[Split, TaggedSentences]
    left_out: Counter[str] = field(default_factory=Counter)

    def split(self, *, validation: float, test: float) -> dict[Split, TaggedSentences]:
        """The three splits: the corpus's own, and what it lacks taken from its training sentences by hash.

        Raises:
            ValueError: a split has no sentence.
        """
        return complete_splits(
            self.parts,
            lambda train: [text_key(" ".join(tokens)) for tokens in train.tokens],
            lambda train, rows: TaggedSentences(
                [train.tokens[row] for row in rows], [train.tags[row] for row in rows]
            ),
            validation=validation,
            test=test,
            origin=self.origin,
            unit="sentence",
            advice="give more sentences, a larger fraction, or a file for each split",
        )


def read_tagged(
    source: str,
    *,
    files: Mapping[Split, str] | None = None,
    token_column: int | str = 0,
    tag_column: int | str = -1,
    encoding: str = "utf-8",
    hub_options: Mapping[str, Any] | None = None,
    scheme: Scheme = "none",
) -> TaggedCorpus:
    """Read tagged sentences.

    Sentences are separated by empty lines, however many. In CoNLL files columns are separated by a tab where
    there is one in the first line, else by any space; every line has as many; `-DOCSTART-` lines are left
    out. In CoNLL-U files (`.conllu`) comments are passed over, and the lines of multiword tokens (`1-2`) and
    empty nodes (`1.1`) left out, so that the syntactic words remain.

    Args:
        source: `verses` (bundled: lower-cased words of the King James Bible, tagged with their case and the
            mark that follows); a file; a folder with a file for each split; or `hf:NAME`.
        files: of the folder, by split, where their names do not tell it.
        token_column: number of the tokens' column, from 0 (negative from the end); a name in CoNLL-U
            and on the hub.
        tag_column: the same of the tags.
        encoding: of files.
        hub_options: further arguments of `datasets.load_dataset`.
        scheme: `"bio"` refuses tags that are not `O`, `B-x`, `I-x`, and counts each `I-x` that goes on with
            nothing (it is read as the beginning of a span).

    Raises:
        ValueError: the source is not there, cannot be read, is ragged, or breaks the scheme.
    """
    if scheme not in ("none", "bio"):
        raise ValueError(f"scheme is 'none' or 'bio'; got {scheme!r}")
    if source == "verses":
        return read_marked_verses()
    if source.startswith(HUB_PREFIX):
        return _read_hub(source, str(token_column), str(tag_column), hub_options, scheme)
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"data source {source!r}: no such file or folder, and no bundled set; bundled is verses, and "
            f"{HUB_PREFIX}NAME loads a Hugging Face data set. Name the folder that holds the data: "
            "data.source=FOLDER"
        )
    found: dict[Split, Path] = _split_files(path, files) if path.is_dir() else {"train": path}
    corpus = TaggedCorpus(str(path), {})
    for split, file in found.items():
        part = corpus.parts[split] = TaggedSentences()
        for lines, tokens, tags in _read_file(file, token_column, tag_column, encoding, corpus.left_out):
            if scheme == "bio":
                _check_scheme(file, lines, tags, corpus.left_out)
            part.add(tokens, tags)
        if not len(part):
            raise ValueError(f"{file}: there is no sentence in it")
    return corpus


def _split_files(folder: Path, files: Mapping[Split, str] | None) -> dict[Split, Path]:
    if files:
        found = {split: folder / name for split, name in files.items() if name}
        for file in found.values():
            if not file.is_file():
                raise ValueError(f"{file}: no such file; the folder was to hold {', '.join(files.values())}")
        return found
    found = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in _SUFFIXES or not file.is_file():
            continue
        words = re.split(r"[._-]", file.name.lower())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
        if split is None:
            continue
        if split in found:
            raise ValueError(
                f"{folder}: both {found[split].name} and {file.name} are the {split} split; name the one "
                f"that is meant: data.{split}_file={file.name}"
            )
        found[split] = file
    if "train" not in found:
        raise ValueError(
            f"{folder}: no file in it has train in its name and ends in {', '.join(sorted(_SUFFIXES))}; name "
            "the files: data.train_file=..., data.validation_file=..., data.test_file=..."
        )
    return found


def _read_file(
    path: Path, token_column: int | str, tag_column: int | str, encoding: str, left_out: Counter[str]
) -> Iterator[tuple[list[int], list[str], list[str]]]:
    """Line numbers, tokens and tags of each sentence."""
    conllu = path.suffix.lower() == ".conllu"
    separator: str | None = "\t" if conllu else None
    width = len(_CONLLU_COLUMNS) if conllu else 0
    lines: list[int] = []
    tokens: list[str] = []
    tags: list[str] = []
    places: tuple[int, int] = (0, 0)
    for number, line in enumerate([*read_text(path, encoding).split("\n"), ""], start=1):
        if not line.strip():
            if tokens:
                yield lines, tokens, tags
                lines, tokens, tags = [], [], []
            continue
        if conllu and line[0] == "#":
            continue
        if not width:
            separator = "\t" if "\t" in line else None
        fields = [column.strip() for column in line.split(separator)]
        if not width:
            width = len(fields)
        if len(fields) != width:
            raise ValueError(
                f"{path}, line {number}: {len(fields)} columns where there were {width} before; each token "
                "has a line of its own with all columns, and an empty line ends a sentence"
            )
        if places == (0, 0):
            places = (_place(path, token_column, width, conllu), _place(path, tag_column, width, conllu))
            if places[0] == places[1]:
                raise ValueError(
                    f"{path}, line {number}: token_column={token_column} and tag_column={tag_column} are the "
                    f"same of {width} columns; a token and a tag are needed"
                )
        if conllu and not fields[0].isdigit():
            left_out["multiword tokens and empty nodes"] += 1
            continue
        if fields[0] == "-DOCSTART-":
            left_out["-DOCSTART- lines"] += 1
            continue
        token, tag = fields[places[0]], fields[places[1]]
        if not token or not tag:
            raise ValueError(f"{path}, line {number}: the {'tag' if token else 'token'} is empty")
        lines.append(number)
        tokens.append(token)
        tags.append(tag)


def _place(path: Path, column: int | str, width: int, conllu: bool) -> int:
    if isinstance(column, str):
        if not conllu or column not in _CONLLU_COLUMNS:
            raise ValueError(
                f"{path}: column {column!r} is not known; columns are numbered from 0, or in a .conllu file "
                f"named {', '.join(_CONLLU_COLUMNS)}"
            )
        return _CONLLU_COLUMNS.index(column)
    if not -width <= column < width:
        raise ValueError(f"{path}: there is no column number {column}; its lines have {width}")
    return column % width


def _check_scheme(path: Path, lines: list[int], tags: list[str], left_out: Counter[str]) -> None:
    for line, before, tag in zip(lines, ["O", *tags], tags, strict=False):
        if not is_bio(tag):
            raise ValueError(
                f"{path}, line {line}: tag {tag!r} is not of the scheme BIO (O, B-kind, I-kind); mend it, or "
                "give data.scheme=none for tags without spans"
            )
        if starts_alone(before, tag):
            left_out["I- tags read as B-"] += 1


def _read_hub(
    source: str, token_column: str, tag_column: str, options: Mapping[str, Any] | None, scheme: Scheme
) -> TaggedCorpus:
    tables, left_out = hub_tables(source, [token_column, tag_column], options)
    corpus = TaggedCorpus(source, {}, left_out)
    for split, table in tables.items():
        feature = table.features[tag_column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        part = corpus.parts[split] = TaggedSentences()
        for row, (tokens, tags) in enumerate(zip(table[token_column], table[tag_column], strict=True)):
            if len(tokens) != len(tags):
                raise ValueError(f"{source}, {split}, row {row}: {len(tokens)} tokens and {len(tags)} tags")
            if not tokens:
                corpus.left_out["empty rows"] += 1
                continue
            words = [names[tag] if names else str(tag) for tag in tags]
            if scheme == "bio":
                _check_scheme(Path(f"{source}/{split}/{row}"), list(range(len(words))), words, left_out)
            part.add([str(token) for token in tokens], words)
    return corpus


def read_marked_verses() -> TaggedCorpus:
    """Words of the King James Bible in lower case, tagged with what that and their separation took away.

    A tag is the case (`a` lower, `A` capitalised, `AA` capitals) and the mark that follows, if any: `A,` is a
    capitalised word before a comma. Other marks, such as brackets, are left out and counted.
    """
    corpus = TaggedCorpus("the bundled verses", {"train": TaggedSentences()})
    for _, verse in read_verses():
        tokens, tags = marked_tokens(verse, corpus.left_out)
        if tokens:
            corpus.parts["train"].add(tokens, tags)
    return corpus


def marked_tokens(text: str, left_out: Counter[str] | None = None) -> tuple[list[str], list[str]]:
    """The words of a text in lower case, and their tags; see `read_marked_verses`."""
    tokens, tags = [], []
    for word, behind in _WORD.findall(text):
        tokens.append(word.lower())
        shape = "a" if word[0].islower() or not word[0].isalpha() else "A"
        if len(word) > 1 and word.split("'")[0].isupper() and word[0].isalpha():
            shape = "AA" if len(word.split("'")[0]) > 1 else "A"
        marks = behind.replace(" ", "")
        mark = next((mark for mark in marks if mark in _MARKS), "")
        if left_out is not None and marks != mark:
            left_out["marks other than " + _MARKS] += len(marks) - len(mark)
        tags.append(shape + mark)
    return tokens, tags


def restored(tokens: list[str], tags: list[str]) -> str:
    """The text of words and tags of `marked_tokens`."""
    words = []
    for token, tag in zip(tokens, tags, strict=True):
        shape = tag.rstrip(_MARKS)
        stem, quote, rest = token.partition("'")
        word = token if shape == "a" else token[:1].upper() + token[1:]
        words.append((stem.upper() + quote + rest if shape == "AA" else word) + tag[len(shape) :])
    return " ".join(words)
