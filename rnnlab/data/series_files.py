"""Files of labelled series: `.ts` of the UEA and UCR archive, and CSV or TSV with one row a step.

Legend: `T` time, `I` channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from rnnlab.data.readers import read_header, read_table, read_text, table_format

# What files write where a sensor was silent.
GAPS = frozenset({"", "?", "na", "nan", "null", "none", "-"})


@dataclass
class LabelledSeries:
    """Series with a label each.

    Attributes:
        channels: names of the channels, "1" and so on where the file names none.
        series: `[T, I]` each.
        labels: of the series; None where the file gives none.
        names: what a series is called in messages and records.
        filled: how many gaps were filled, and with what else was set right; see `fill_gaps`.
        label_order: the classes in the file's own order; None for alphabetical.
    """

    channels: list[str]
    series: list[Tensor] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    filled: Counter[str] = field(default_factory=Counter)
    label_order: list[str] | None = None

    def __len__(self) -> int:
        return len(self.series)

    def add(self, series: Tensor, label: str | None, name: str) -> None:
        """Append a series."""
        self.series.append(series)
        self.labels.append(label)
        self.names.append(name)

    def take(self, rows: Sequence[int]) -> LabelledSeries:
        """The series of these rows."""
        taken = LabelledSeries(self.channels, filled=self.filled, label_order=self.label_order)
        for row in rows:
            taken.add(self.series[row], self.labels[row], self.names[row])
        return taken


def read_series(
    path: Path,
    *,
    series_column: str = "series",
    label_column: str = "label",
    channels: Sequence[str] | None = None,
    encoding: str = "utf-8",
) -> LabelledSeries:
    """Read a `.ts` file, or a CSV or TSV file with one row for each step of each series.

    Args:
        path: the file; `.gz` and `.xz` are unpacked.
        series_column: rows that agree in it are one series, in their order; of a CSV or TSV.
        label_column: the label, the same in all rows of a series; of a CSV or TSV, and may be missing there.
        channels: the columns that are read; all but those two where None.
        encoding: of the file.

    Raises:
        ValueError: the file cannot be read, or one of its lines does not say what it should.
    """
    if ".ts" in [suffix.lower() for suffix in path.suffixes[-2:]]:
        return read_ts(path, encoding)
    if table_format(path) in ("csv", "tsv"):
        return _read_steps(path, series_column, label_column, channels, encoding)
    raise ValueError(
        f"{path}: the format is chosen by the name, which ends in none of .ts, .csv, .tsv (or these with .gz "
        "or .xz)"
    )


def read_ts(path: Path, encoding: str = "utf-8") -> LabelledSeries:
    """Read a `.ts` file: a header of `@key value` lines, `@data`, and a series a line.

    The channels of a series stand between colons, its values between commas, its label after the last colon.
    Gaps (`?`, `NaN`) are filled as `fill_gaps` says.

    Raises:
        ValueError: time stamps, targets that are no classes, or a line against the header.
    """
    header: dict[str, str] = {}
    found: LabelledSeries | None = None
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        text = line.strip()
        if not text or (text.startswith("#") and found is None):
            continue
        if found is not None:
            _add_ts_line(path, number, text, header, found)
        elif text.lower().startswith("@data"):
            found = _ts_table(path, header)
        elif text.startswith("@"):
            key, _, value = text[1:].partition(" ")
            header[key.lower()] = value.strip()
        else:
            raise ValueError(f"{path}, line {number}: before @data stand lines of @ or #; got {_short(text)}")
    if found is None:
        raise ValueError(f"{path}: there is no line @data, after which the series stand")
    if not len(found):
        raise ValueError(f"{path}: there is no series after @data")
    return found


def _ts_table(path: Path, header: dict[str, str]) -> LabelledSeries:
    if header.get("timestamps", "false").lower() == "true":
        raise ValueError(f"{path}: @timeStamps true: time stamps are not read; leave them out")
    if "targetlabel" in header and header["targetlabel"].lower() != "false":
        raise ValueError(f"{path}: @targetLabel: its targets are numbers; classes (@classLabel) are needed")
    given = header.get("dimensions", header.get("dimension"))
    univariate = header.get("univariate", "").lower() == "true"
    if given is not None and (not given.isdigit() or int(given) < 1):
        raise ValueError(f"{path}: @dimensions {given}: expected a number of at least 1")
    channels = int(given) if given else (1 if univariate else 0)
    classes = header.get("classlabel", "false").split()
    order = classes[1:] if classes[0].lower() == "true" else None
    return LabelledSeries([str(i + 1) for i in range(channels)], label_order=order)


def _add_ts_line(path: Path, number: int, text: str, header: dict[str, str], found: LabelledSeries) -> None:
    place = f"{path}, line {number}"
    parts = text.split(":")
    label: str | None = None
    if header.get("classlabel", "false").lower().startswith("true"):
        label = parts.pop().strip()
        if found.label_order and label not in found.label_order:
            raise ValueError(
                f"{place}: label {_short(label)} is not among those of @classLabel: "
                f"{', '.join(found.label_order[:20])}"
            )
    if not found.channels:
        found.channels = [str(i + 1) for i in range(len(parts))]
    if len(parts) != len(found.channels):
        raise ValueError(f"{place}: {len(parts)} channels where {len(found.channels)} are expected")
    columns = [_numbers(f"{place}, channel {i + 1}", part.split(",")) for i, part in enumerate(parts)]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"{place}: channels of unequal length: {', '.join(map(str, lengths))}")
    wanted = header.get("serieslength")
    if header.get("equallength", "").lower() == "true" and wanted and str(lengths[0]) != wanted:
        raise ValueError(f"{place}: {lengths[0]} steps where @seriesLength says {wanted}")
    series = torch.tensor(columns, dtype=torch.float64).t().contiguous()
    found.filled["gaps filled"] += fill_gaps(series, place, found.channels)
    found.add(series.float(), label, f"{path.name}:{len(found) + 1}")


def _read_steps(
    path: Path, series_column: str, label_column: str, channels: Sequence[str] | None, encoding: str
) -> LabelledSeries:
    header = read_header(path, encoding=encoding)
    if series_column not in header:
        raise ValueError(
            f"{path}, line 1: no column {series_column!r} that says which series a row is of; there are "
            f"{', '.join(map(repr, header[:12]))} (data.series_column names another)"
        )
    labelled = label_column in header
    if channels is None:
        channels = [name for name in header if name not in (series_column, label_column)]
    if not channels:
        raise ValueError(f"{path}, line 1: no column is left for the values of the series")
    columns = [series_column, *([label_column] if labelled else []), *channels]
    found = LabelledSeries(list(channels))
    steps: dict[str, list[list[float]]] = {}
    first: dict[str, tuple[int, str | None]] = {}
    for row in read_table(path, columns, encoding=encoding):
        identity, *rest = row.values
        label = rest.pop(0).strip() if labelled else None
        line, known = first.setdefault(identity, (row.line, label))
        if label != known:
            raise ValueError(
                f"{path}, line {row.line}: series {identity!r} has label {label!r}, in line {line} {known!r}"
            )
        if label == "":
            raise ValueError(f"{path}, line {row.line}: the label is empty; give one or delete the line")
        steps.setdefault(identity, []).append(_numbers(f"{path}, line {row.line}", rest, channels))
    for identity, values in steps.items():
        series = torch.tensor(values, dtype=torch.float64)
        place = f"{path}, from line {first[identity][0]}"
        found.filled["gaps filled"] += fill_gaps(series, place, found.channels)
        found.add(series.float(), first[identity][1], f"{path.name}:{len(found) + 1}")
    return found


def _numbers(place: str, cells: Sequence[str], names: Sequence[str] | None = None) -> list[float]:
    """Numbers of cells, NaN for a gap; `names` of the cells are told, or their places."""
    numbers = []
    for index, cell in enumerate(cells):
        text = cell.strip()
        try:
            value = math.nan if text.lower() in GAPS else float(text)
        except ValueError:
            value = math.inf
        if math.isinf(value):
            where = f"column {names[index]!r}" if names else f"value {index + 1}"
            raise ValueError(f"{place}, {where}: {_short(text)} is not a finite number") from None
        numbers.append(value)
    return numbers


def fill_gaps(series: Tensor, place: str, channels: Sequence[str]) -> int:
    """Fill NaN in `[T, I]` by the straight line between its neighbours, and say how many there were.

    Before the first and after the last value of a channel, that value stands.

    Raises:
        ValueError: a channel has no value at all.
    """
    missing = series.isnan()
    count = int(missing.sum())
    if not count:
        return 0
    for channel in missing.any(0).nonzero().flatten().tolist():
        column = series[:, channel]
        known = (~missing[:, channel]).nonzero().flatten().tolist()
        if not known:
            raise ValueError(f"{place}: channel {channels[channel]} has no value at all")
        column[: known[0]] = column[known[0]]
        column[known[-1] + 1 :] = column[known[-1]]
        for before, after in pairwise(known):
            if after > before + 1:
                line = torch.linspace(0, 1, after - before + 1, dtype=series.dtype)[1:-1]
                column[before + 1 : after] = column[before] + (column[after] - column[before]) * line
    return count


def columns_of(channels: Sequence[str]) -> list[str] | None:
    """The columns of a CSV that channels were read from; None where their file gave them no names."""
    return None if list(channels) == [str(i + 1) for i in range(len(channels))] else list(channels)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
