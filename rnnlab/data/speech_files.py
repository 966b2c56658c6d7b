"""Which sounds a folder holds, what is said in each, and to which split it belongs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rnnlab.data.audio import SOUND_SUFFIXES
from rnnlab.data.readers import read_table, read_text, table_format
from rnnlab.data.splits import SPLIT_NAMES, SPLITS, Split, complete_splits

TRANSCRIPTS = "transcripts"
_FORMS = (
    "a folder of sounds has a file transcripts.tsv, .csv or .jsonl (columns file and text) or "
    "transcripts.txt (a file and what is said in it a line), a folder for each class, or "
    "label_pattern= for labels in the names of the files"
)


@dataclass(frozen=True)
class Utterance:
    """A sound file and what is said in it.

    Attributes:
        path: of the file.
        name: the path below the source, without its suffix.
        text: the transcript, or the label.
        group: utterances that agree in it (those of one speaker) share a split.
    """

    path: Path
    name: str
    text: str
    group: str


@dataclass
class Recordings:
    """The utterances of a source by the splits that it came in; without any, all are "train"."""

    origin: str
    parts: dict[Split, list[Utterance]]
    left_out: Counter[str] = field(default_factory=Counter)

    def split(self, *, validation: float, test: float) -> dict[Split, list[Utterance]]:
        """The three splits: the source's own, and what it lacks taken from training by a hash of the groups.

        Raises:
            ValueError: a split has no utterances.
        """
        return complete_splits(
            self.parts,
            lambda train: [utterance.group for utterance in train],
            lambda train, rows: [train[row] for row in rows],
            validation=validation,
            test=test,
            origin=self.origin,
            unit="utterance",
            advice="give more sounds, a larger fraction, folders named train, validation and test, or a "
            "pattern of the files' names",
        )


def read_recordings(
    source: str,
    *,
    label_pattern: str | None = None,
    validation_pattern: str | None = None,
    test_pattern: str | None = None,
    group_pattern: str | None = None,
    encoding: str = "utf-8",
) -> Recordings:
    """List the sounds of a folder with their transcripts; no sound is opened.

    Patterns are regular expressions that are searched for in a sound's path below the folder, without its
    suffix. A transcript without its sound is an error; a sound without a transcript is left out and counted.

    Args:
        source: a folder; see the message for the forms that it may have. Below it there may be folders named
            train, validation and test, each of such a form, which are then the splits.
        label_pattern: its group `label` is what is said, in the place of transcripts.
        validation_pattern: sounds that it finds are the validation split.
        test_pattern: sounds that it finds are the test split.
        group_pattern: sounds for which its first group, or else the whole of what it finds, agrees share a
            split, as those of one speaker should; without it each sound is a group of its own.
        encoding: of transcripts.

    Raises:
        ValueError: the source cannot be read, or a pattern is none.
    """
    patterns = {
        name: _compile(name, pattern)
        for name, pattern in (
            ("label_pattern", label_pattern),
            ("validation_pattern", validation_pattern),
            ("test_pattern", test_pattern),
            ("group_pattern", group_pattern),
        )
    }
    root = Path(source).expanduser()
    if not root.is_dir():
        raise ValueError(f"data source {source!r}: there is no such folder; {_FORMS}")
    named = {
        SPLIT_NAMES[folder.name.lower()]: folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name.lower() in SPLIT_NAMES
    }
    found = Recordings(str(root), {split: [] for split in SPLITS})
    for split, folder in (named or {"train": root}).items():
        for path, text in _labelled(folder, patterns["label_pattern"], encoding, found.left_out):
            if not text.strip():
                found.left_out[f"without text, as {path.name}"] += 1
                continue
            name = path.relative_to(root).with_suffix("").as_posix()
            utterance = Utterance(path, name, " ".join(text.split()), _group(patterns["group_pattern"], name))
            into: Split = split
            if _finds(patterns["test_pattern"], name):
                into = "test"
            elif _finds(patterns["validation_pattern"], name):
                into = "validation"
            found.parts[into].append(utterance)
    if not any(found.parts.values()):
        raise ValueError(f"{root}: no sound with a transcript; left out: {dict(found.left_out)}; {_FORMS}")
    return found


def _compile(name: str, pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name}={pattern}: not a regular expression ({error})") from None
    if name == "label_pattern" and "label" not in compiled.groupindex:
        raise ValueError(f"{name}={pattern}: it names no group `label`, such as (?P<label>[a-z]+)")
    return compiled


def _finds(pattern: re.Pattern[str] | None, name: str) -> bool:
    return pattern is not None and pattern.search(name) is not None


def _group(pattern: re.Pattern[str] | None, name: str) -> str:
    found = pattern.search(name) if pattern else None
    if pattern is None or found is None:
        return name
    return found[1] if pattern.groups else found[0]


def _sounds(folder: Path) -> list[Path]:
    """Every sound file below a folder, in order; hidden ones are passed over."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SOUND_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _labelled(
    folder: Path, pattern: re.Pattern[str] | None, encoding: str, left_out: Counter[str]
) -> Iterator[tuple[Path, str]]:
    sounds = _sounds(folder)
    if not sounds:
        raise ValueError(f"{folder}: no sound in it (a file that ends in {', '.join(SOUND_SUFFIXES)})")
    if pattern is not None:
        for path in sounds:
            found = pattern.search(path.relative_to(folder).with_suffix("").as_posix())
            if found is None:
                left_out[f"name without a label, as {path.name}"] += 1
            else:
                yield path, found["label"]
        return
    tables = [file for file in sorted(folder.glob(f"{TRANSCRIPTS}.*")) if file.is_file()]
    if len(tables) > 1:
        raise ValueError(f"{folder}: both {tables[0].name} and {tables[1].name} are there; keep one")
    if tables:
        yield from _transcribed(folder, tables[0], sounds, encoding, left_out)
    elif all(path.parent != folder for path in sounds):
        yield from ((path, path.relative_to(folder).parts[0]) for path in sounds)
    else:
        raise ValueError(f"{folder}: nothing says what its {len(sounds)} sounds are; {_FORMS}")


def _transcribed(
    folder: Path, table: Path, sounds: list[Path], encoding: str, left_out: Counter[str]
) -> Iterator[tuple[Path, str]]:
    known: dict[str, Path] = {}
    for path in sounds:
        relative = path.relative_to(folder)
        known[relative.as_posix()] = path
        known.setdefault(relative.with_suffix("").as_posix(), path)
    used: dict[Path, int] = {}
    for line, name, text in _lines(table, encoding):
        path = known.get(name.removeprefix("./"))  # type: ignore[assignment]
        if path is None:
            raise ValueError(f"{table}, line {line}: there is no sound {name!r} in {folder}")
        if path in used:
            raise ValueError(f"{table}, line {line}: {name!r} has a transcript already, in line {used[path]}")
        used[path] = line
        yield path, text
    if missing := [path for path in sounds if path not in used]:
        left_out[f"sound without a transcript, as {missing[0].name}"] += len(missing)


def _lines(table: Path, encoding: str) -> Iterator[tuple[int, str, str]]:
    """Line, file and text of each row of a table, or of lines `file text ...`."""
    if table_format(table):
        for row in read_table(table, ["file", "text"], encoding=encoding):
            name, said = row.values
            yield row.line, name, said
        return
    if table.suffix != ".txt":
        raise ValueError(f"{table}: transcripts end in .tsv, .csv, .jsonl or .txt")
    for number, line in enumerate(read_text(table, encoding).split("\n"), start=1):
        name, *text = line.strip().split(None, 1)[:2] if line.strip() else [""]
        if name:
            yield number, name, text[0] if text else ""
