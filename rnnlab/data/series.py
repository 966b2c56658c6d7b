"""Series with one label each: recordings, sensors, images read as sequences.

Legend: `T` time, `I` channels, `N` series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.corpora import BUNDLED
from rnnlab.data.readers import table_format
from rnnlab.data.series_files import LabelledSeries, columns_of, read_series
from rnnlab.data.splits import SPLIT_NAMES, SPLITS, Split, check_fractions, fraction
from rnnlab.data.vectors import VectorSequences

BUNDLED_SERIES = {"japanese_vowels": "JapaneseVowels", "basic_motions": "BasicMotions"}
DIGITS = ("digits_rows", "digits_pixels")
Parts = dict[Split, LabelledSeries]


class SeriesData(DataModule):
    """Labelled series as batches `[T, B, I]`, bucketed by length.

    A source with splits of its own keeps them. What it lacks is taken from its training series: of each class
    those with the smallest hashes of their values, so that no class is missing, however small the set.

    Args:
        source: `japanese_vowels` or `basic_motions`, bundled; `digits_rows` or `digits_pixels`, of
            scikit-learn; a `.ts`, CSV or TSV file; or a folder with such files named train, validation and
            test (or ending in `_TRAIN`, `_TEST`).
        series_column, label_column, channels, encoding: see `rnnlab.data.series_files.read_series`.
        validation: fraction for validation, where the source has no such split.
        test: fraction for the test, where the source has no such split.
        max_length: steps of a series that are read, from its start; None for all.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read or learned from.
    """

    def __init__(
        self,
        source: str = "japanese_vowels",
        *,
        series_column: str = "series",
        label_column: str = "label",
        channels: Sequence[str] | None = None,
        encoding: str = "utf-8",
        validation: float = 0.2,
        test: float = 0.2,
        max_length: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        check_fractions(validation, test)
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is at least 1, or None; got {max_length}")
        self.source = source
        self.reading: dict[str, Any] = {
            "series_column": series_column,
            "label_column": label_column,
            "channels": None if channels is None else list(channels),
            "encoding": encoding,
        }
        self.fractions = {"validation": validation, "test": test}
        self.max_length = max_length

    def read(self) -> Mapping[Split, Any]:
        """Read, split and number the series."""
        if self.adopted:
            self.max_length = self.adopted["max_length"]
            self.reading["channels"] = columns_of(self.adopted["channels"])
        own = read_parts(self.source, **self.reading)
        self._parts = parts = split_series(own, self.source, **self.fractions)
        self.channels = self._check_channels(parts)
        self.labels = self._check_labels(parts)
        numbers = {label: number for number, label in enumerate(self.labels)}
        cut = Counter(
            len(series) > self.max_length
            for part in parts.values()
            for series in part.series
            if self.max_length is not None
        )
        self._counts = {
            "source": self.source,
            "gaps_filled": sum(part.filled["gaps filled"] for part in own.values()),
            "truncated": cut[True],
        }
        datasets = {
            split: VectorSequences(
                [series[: self.max_length] for series in part.series],
                torch.tensor([numbers[str(label)] for label in part.labels]),
            )
            for split, part in parts.items()
        }
        self.mean: list[float]
        self.std: list[float]
        if self.adopted:
            self.mean, self.std = self.adopted["mean"], self.adopted["std"]
        else:
            self.mean, self.std = scale_of(datasets["train"].flat)
        return datasets

    def _check_channels(self, parts: Parts) -> list[str]:
        channels = list(self.adopted["channels"]) if self.adopted else parts["train"].channels
        for split, part in parts.items():
            if part.channels != channels:
                whose = "the model" if self.adopted else "the training split"
                raise ValueError(
                    f"{self.source}: the {split} split has {_told(part.channels)} where {whose} has "
                    f"{_told(channels)}"
                )
        return channels

    def _check_labels(self, parts: Parts) -> list[str]:
        for split, part in parts.items():
            if None in part.labels:
                raise ValueError(
                    f"{self.source}: the {split} split has a series without a label; a .ts file gives "
                    f"labels by @classLabel true, a CSV in column {self.reading['label_column']!r} "
                    "(data.label_column)"
                )
        known = {str(label) for label in (self.adopted["labels"] if self.adopted else parts["train"].labels)}
        whose = "the model's" if self.adopted else "the training split's"
        for split, part in parts.items():
            if unknown := sorted({str(label) for label in part.labels} - known):
                raise ValueError(
                    f"{self.source}: the {split} split has label {unknown[0]!r}, which is not among {whose} "
                    f"labels: {', '.join(sorted(known)[:20])}"
                )
        if len(known) < 2:
            raise ValueError(f"{self.source}: at least two classes are needed; there is only {sorted(known)}")
        if self.adopted:
            return list(self.adopted["labels"])
        return [label for label in parts["train"].label_order or sorted(known) if label in known]

    def facts(self) -> dict[str, Any]:
        """Labels, channels and their scale, longest series, and how files are read."""
        self.need_setup()
        return {
            "labels": list(self.labels),
            "channels": list(self.channels),
            "mean": list(self.mean),
            "std": list(self.std),
            "max_length": self.max_length,
            "reading": {key: self.reading[key] for key in ("series_column", "label_column", "encoding")},
        }

    def summary(self) -> dict[str, Any]:
        """Series by split, classes, channels, lengths, and what was filled or shortened."""
        self.need_setup()
        lengths = self.dataset("train").lengths
        return {
            **self._counts,
            "examples": {split: len(part) for split, part in self._parts.items()},
            "classes": len(self.labels),
            "channels": len(self.channels),
            "steps": f"{int(lengths.min())} to {int(lengths.max())}",
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, Tensor, str]]:
        """Name, `[T, I]` and label of series, evenly spaced over the split."""
        self.need_setup()
        part = self._parts[split]
        return [
            (part.names[row], part.series[row][: self.max_length], str(part.labels[row]))
            for row in evenly(range(len(part)), n)
        ]


def scale_of(values: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the columns of `[N, I]`; 1 for a column that does not vary."""
    values = values.double()
    std = values.std(0, correction=0)
    return values.mean(0).tolist(), torch.where(std > 1e-8, std, 1.0).tolist()


def read_parts(source: str, **reading: Any) -> Parts:
    """The splits that a source comes in; see `SeriesData` for sources.

    Raises:
        ValueError: there is no such source, or a file of it cannot be read.
    """
    if source in BUNDLED_SERIES:
        name = BUNDLED_SERIES[source]
        parts: Parts = {}
        for end in ("TRAIN", "TEST"):
            part = read_series(BUNDLED / f"{name}_{end}.ts.xz")
            part.names = [f"{source}:{number + 1}" for number in range(len(part))]
            parts[SPLIT_NAMES[end.lower()]] = part
        return parts
    if source in DIGITS:
        return {"train": _read_digits(source)}
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"data source {source!r}: no such file or folder, and not one of {', '.join(BUNDLED_SERIES)}, "
            f"{', '.join(DIGITS)}"
        )
    if path.is_file():
        return {"train": _named(read_series(path, **reading), path)}
    files: dict[Split, Path] = {}
    for file in sorted(path.iterdir()):
        stem = file.name.split(".")[0].lower()
        end = stem if stem in SPLIT_NAMES else stem.rpartition("_")[2]
        if end not in SPLIT_NAMES or not (table_format(file) or ".ts" in file.suffixes):
            continue
        split = SPLIT_NAMES[end]
        if split in files:
            raise ValueError(f"{path}: both {files[split].name} and {file.name} are the {split} split")
        files[split] = file
    if "train" not in files:
        raise ValueError(f"{path}: there is no file train.ts, NAME_TRAIN.ts or train.csv in it")
    return {split: _named(read_series(file, **reading), file) for split, file in files.items()}


def _named(part: LabelledSeries, file: Path) -> LabelledSeries:
    """The series under names by which `predict` finds them again: the file and their number."""
    part.names = [f"{file}:{number + 1}" for number in range(len(part))]
    return part


def _read_digits(source: str) -> LabelledSeries:
    """1,797 handwritten digits of 8 x 8 pixels, as 8 rows of 8 or as 64 steps of 1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(f"{source} needs the package scikit-learn: pip install 'rnnlab[digits]'") from None
    images, digits = load_digits(return_X_y=True)
    width = 8 if source == "digits_rows" else 1
    found = LabelledSeries([str(i + 1) for i in range(width)])
    for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
        found.add(torch.tensor(image).float().view(-1, width), str(digit), f"{source}:{number + 1}")
    return found


def split_series(own: Parts, origin: str, *, validation: float, test: float) -> Parts:
    """The three splits: a source's own, and what it lacks taken from its training series.

    Of each class go those with the smallest hashes of their values: `round(fraction * n)` of n, at least one.

    Raises:
        ValueError: a class is too small to be shared out.
    """
    train = own["train"]
    classes: dict[str | None, list[tuple[float, int]]] = {}
    for row, (series, label) in enumerate(zip(train.series, train.labels, strict=True)):
        classes.setdefault(label, []).append((_hash(series), row))
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    shares: list[tuple[Split, float]] = [("test", test), ("validation", validation)]
    for label, members in classes.items():
        order = [row for _, row in sorted(members)]
        for split, share in shares:
            if split not in own:
                count = max(1, round(share * len(members)))
                rows[split] += order[:count]
                order = order[count:]
        if not order:
            raise ValueError(
                f"{origin}: class {label!r} has {len(members)} series, too few to share out among training, "
                "validation and test; give more, or files named train, validation and test"
            )
        rows["train"] += order
    taken: Parts = {split: train.take(sorted(rows[split])) for split in SPLITS}
    return {**taken, **{split: part for split, part in own.items() if split != "train"}}


def _hash(series: Tensor) -> float:
    return fraction(blake2b(series.numpy().tobytes(), digest_size=16).hexdigest())


def _told(channels: Sequence[str]) -> str:
    shown = ", ".join(channels[:8]) + (", ..." if len(channels) > 8 else "")
    return f"{len(channels)} channels ({shown})"
