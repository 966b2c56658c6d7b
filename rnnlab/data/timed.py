"""Measurements over time: a CSV or TSV with a time column, and the Mackey-Glass equation.

Legend: `N` steps, `I` columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnlab.data.readers import read_header, read_table
from rnnlab.data.series_files import GAPS

Time = datetime | float


def show(time: Time) -> str:
    """A time as it is told; numbers without a fraction are whole."""
    return f"{time:.15g}" if isinstance(time, float) else str(time)


@dataclass
class Measurements:
    """Values at equal distances of time.

    Attributes:
        origin: the source in words, for messages.
        columns: names of the columns.
        values: `[N, I]`, without gaps.
        times: of the steps.
        step: between two times; None where it is not known to be always the same.
        filled: counts of cells and rows that were filled, and of rows left out.
    """

    origin: str
    columns: list[str]
    values: Tensor
    times: list[Time]
    step: timedelta | float | None
    filled: Counter[str] = field(default_factory=Counter)

    def time_after(self, row: int, steps: int) -> str:
        """The time so many steps after a row, as text."""
        if self.step is None:
            return f"{show(self.times[row])} + {steps} rows"
        return show(self.times[row] + steps * self.step)  # type: ignore[operator]


def read_measurements(
    path: Path,
    *,
    time_column: str = "date",
    columns: Sequence[str] | None = None,
    regular: bool = True,
    max_gap: int = 24,
    encoding: str = "utf-8",
) -> Measurements:
    """Read a CSV or TSV with one row for each time.

    Where a cell is empty (or `NA`, `NaN`, `null`, `?`, `-`), or rows are missing, the last value before
    stands, so that nothing is known before its time. Rows before the first with a value in each column are
    left out. All of it is counted.

    Args:
        path: the file; `.gz` and `.xz` are unpacked.
        time_column: dates and times as ISO 8601 writes them, or numbers.
        columns: what is read, in this order; all other columns where None.
        regular: rows stand at equal distances of time, the most frequent one, but for those that are missing;
            else rows are taken as they come.
        max_gap: rows that may be filled in one place.
        encoding: of the file.

    Raises:
        ValueError: a time that is none, or not after the one before, or off the regular distance; a cell that
            is no number; a gap of more than `max_gap` rows; each with its line.
    """
    header = read_header(path, encoding=encoding)
    if time_column not in header:
        raise ValueError(
            f"{path}, line 1: no column {time_column!r} with the time; the columns are "
            f"{', '.join(map(repr, header[:12]))} (data.time_column names another)"
        )
    if columns is None:
        columns = [name for name in header if name != time_column]
    if not columns:
        raise ValueError(f"{path}, line 1: there is no column beside {time_column!r}; give one with values")
    rows = read_table(path, [time_column, *columns], encoding=encoding)
    lines = [row.line for row in rows]
    times = [_time(path, row.line, row.values[0]) for row in rows]
    _check_order(path, lines, times)
    cells = [_cells(path, row.line, columns, row.values[1:]) for row in rows]
    found = Measurements(str(path), list(columns), torch.empty(0), times, None)
    places = list(range(len(rows)))
    if regular and len(rows) > 1:
        found.step, places = _places(path, lines, times)
        found.times = [times[0] + number * found.step for number in range(places[-1] + 1)]  # type: ignore
    values = torch.full((places[-1] + 1, len(columns)), math.nan, dtype=torch.float64)
    values[torch.tensor(places)] = torch.tensor(cells, dtype=torch.float64)
    found.filled["rows_inserted"] = len(values) - len(rows)
    found.filled["cells_filled"] = -found.filled["rows_inserted"] * len(columns)
    _carry_forward(path, values, dict(zip(places, lines, strict=True)), found, max_gap)
    return found


def _time(path: Path, line: int, text: str) -> Time:
    text = text.strip()
    try:
        value = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{path}, line {line}: {text!r} is no time; write it as 2016-07-01 00:00:00, or as a number"
            ) from None
    if not math.isfinite(value):
        raise ValueError(f"{path}, line {line}: {text!r} is no time")
    return value


def _check_order(path: Path, lines: Sequence[int], times: Sequence[Time]) -> None:
    for (before, earlier), (line, later) in pairwise(zip(lines, times, strict=True)):
        try:
            follows = earlier < later  # type: ignore[operator]
        except TypeError:
            raise ValueError(
                f"{path}, line {line}: the time {later} cannot be compared with {earlier} in line {before}: "
                "give all as numbers, or all as dates with or all without a time zone"
            ) from None
        if not follows:
            what = "the same as" if earlier == later else "before that"
            raise ValueError(
                f"{path}, line {line}: the time {later} is {what} in line {before}; sort the rows, and give "
                "each time once (local times repeat an hour in autumn: UTC does not)"
            )


def _places(path: Path, lines: Sequence[int], times: Sequence[Time]) -> tuple[timedelta | float, list[int]]:
    """The most frequent distance of two rows, and the number of distances to each row from the first."""
    distances: list[Any] = [later - earlier for earlier, later in pairwise(times)]  # type: ignore[operator]
    step = Counter(distances).most_common(1)[0][0]
    places = [0]
    for line, distance in zip(lines[1:], distances, strict=True):
        steps = distance / step
        if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
            raise ValueError(
                f"{path}, line {line}: {distance} after the row before, where rows stand {step} apart; "
                "mend the times, or take the rows as they come (data.regular=false)"
            )
        places.append(places[-1] + round(steps))
    return step, places


def _cells(path: Path, line: int, columns: Sequence[str], texts: Sequence[str]) -> list[float]:
    values = []
    for column, text in zip(columns, texts, strict=True):
        try:
            value = math.nan if text.strip().lower() in GAPS else float(text)
        except ValueError:
            value = math.inf
        if math.isinf(value):
            shown = text if len(text) <= 40 else text[:37] + "..."
            raise ValueError(f"{path}, line {line}, column {column!r}: {shown!r} is not a finite number")
        values.append(value)
    return values


def _carry_forward(
    path: Path, values: Tensor, lines: dict[int, int], found: Measurements, max_gap: int
) -> None:
    """Let the last value stand where one is missing, and set `values` and `times` of what is found."""
    missing = values.isnan()
    if bool(missing.all(0).any()):
        column = found.columns[int(missing.all(0).nonzero()[0])]
        raise ValueError(f"{path}: column {column!r} has no value at all")
    first = int((~missing).int().argmax(0).max())
    found.filled["rows_before_the_first_value"] = first
    found.filled["cells_filled"] += int(missing[first:].sum())
    rows = torch.arange(len(values)).unsqueeze(1)
    last = torch.where(missing, -1, rows).cummax(0).values
    gap = (rows - last)[first:]
    if int(gap.max()) > max_gap:
        row, number = (gap == max_gap + 1).nonzero()[0].tolist()
        start = int(last[first + row, number])
        line = lines[max(place for place in lines if place <= start)]
        raise ValueError(
            f"{path}, after line {line}: column {found.columns[number]!r} has no value for more than "
            f"{max_gap} rows; fill the gap, cut the file there, or allow more (data.max_gap)"
        )
    found.values = values.gather(0, last.clamp(min=0))[first:].float()
    found.times = found.times[first:]


def mackey_glass(steps: int = 10000, *, delay: float = 17.0, per_step: int = 10) -> Measurements:
    """The chaotic Mackey-Glass series, sampled at each unit of time, by the fourth-order Runge-Kutta rule.

        dx/dt = 0.2 x(t - delay) / (1 + x(t - delay)^10) - 0.1 x(t),   x(t <= 0) = 1.2

    The first 1,000 units, in which it settles, are left out.

    Args:
        steps: N.
        delay: 17 for the mildly chaotic form.
        per_step: steps of the rule in a unit of time.

    Raises:
        ValueError: fewer than one step, or a delay that is not above 0.

    Source: Mackey and Glass 1977, "Oscillation and chaos in physiological control systems".
    """
    if steps < 1 or delay <= 0 or per_step < 1:
        raise ValueError(f"steps, delay and per_step are above 0; got {steps}, {delay} and {per_step}")
    settle, h = 1000, 1.0 / per_step
    back = round(delay * per_step)
    x = [1.2] * (back + 1)

    def slope(now: float, past: float) -> float:
        return 0.2 * past / (1 + past**10) - 0.1 * now

    for _ in range((settle + steps) * per_step):
        now, past, after = x[-1], x[-1 - back], x[-back]
        middle = (past + after) / 2
        k1 = slope(now, past)
        k2 = slope(now + h / 2 * k1, middle)
        k3 = slope(now + h / 2 * k2, middle)
        k4 = slope(now + h * k3, after)
        x.append(now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    taken = torch.tensor(x[back + 1 :])[per_step - 1 :: per_step][settle:]
    times: list[Time] = [float(number) for number in range(steps)]
    return Measurements("mackey_glass", ["x"], taken.unsqueeze(1), times, 1.0)
