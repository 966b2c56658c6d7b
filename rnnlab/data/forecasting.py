"""Measurements over time, cut into what is known and what is to be forecast.

Legend: `N` steps, `I` columns read, `O` columns forecast, `C` context, `H` horizon, `B` batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import SequenceBatch
from rnnlab.data.series import scale_of
from rnnlab.data.splits import SPLITS, Split, check_fractions
from rnnlab.data.timed import Measurements, mackey_glass, read_measurements, show

GENERATED = "mackey_glass"


class Windows(Dataset[SequenceBatch]):
    """Windows of a long series; indexing by a list of rows gives context `[C, B, I]` and truth `[H, B, O]`.

    Args:
        values: `[N, I]`.
        targets: the columns that are forecast, O numbers.
        starts: where the windows begin.
        context: C.
        horizon: H.
    """

    def __init__(
        self, values: Tensor, targets: Sequence[int], starts: range, context: int, horizon: int
    ) -> None:
        self.values, self.starts = values.contiguous(), starts
        self.wanted = values[:, list(targets)].contiguous()
        self.context, self.horizon = context, horizon
        self.lengths = torch.full((len(starts),), context)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: Sequence[int] | int) -> SequenceBatch:
        chosen = torch.as_tensor([rows] if isinstance(rows, int) else rows) * self.starts.step
        first = (chosen + self.starts.start).unsqueeze(0)
        known = self.values[first + torch.arange(self.context).unsqueeze(1)]
        truth = self.wanted[first + self.context + torch.arange(self.horizon).unsqueeze(1)]
        return SequenceBatch(known, self.lengths[chosen // self.starts.step], truth)


class ForecastingData(DataModule):
    """One long table of measurements: the past `context` rows are read, the next `horizon` are forecast.

    The table is split by time: first training, then validation, then the test. What is forecast in a split
    lies in it; what is read before may reach back into the split before, as it would be known by then.
    Training windows begin at each row.

    Args:
        source: `mackey_glass` (generated, 10,000 steps), or a CSV or TSV file.
        time_column, columns, regular, max_gap, encoding: see `rnnlab.data.timed.read_measurements`.
        targets: the columns that are forecast; all that are read where None.
        context: C, rows that are read.
        horizon: H, rows that are forecast.
        season: rows of a period, such as 24 of hours, for the seasonal baseline; None for none.
        validation: fraction of the rows.
        test: fraction of the rows, at the end.
        split: instead of fractions, the numbers of rows of training, validation and test; what comes after
            is left out.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read, or is too short.
    """

    def __init__(
        self,
        source: str = GENERATED,
        *,
        time_column: str = "date",
        columns: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        regular: bool = True,
        max_gap: int = 24,
        encoding: str = "utf-8",
        context: int = 96,
        horizon: int = 24,
        season: int | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        split: Sequence[int] | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        check_fractions(validation, test)
        if context < 1 or horizon < 1 or max_gap < 0:
            raise ValueError(
                f"context and horizon are at least 1, max_gap at least 0; got {context}, {horizon}, {max_gap}"
            )
        if season is not None and not 1 <= season <= context:
            raise ValueError(f"season is from 1 to context={context}, which it is read from; got {season}")
        if split is not None and (len(split) != 3 or min(split) < 1):
            raise ValueError(f"split is three numbers of rows, each at least 1; got {list(split)}")
        self.source = source
        self.reading: dict[str, Any] = {
            "time_column": time_column,
            "regular": regular,
            "max_gap": max_gap,
            "encoding": encoding,
        }
        self.columns = None if columns is None else list(columns)
        self.targets = None if targets is None else list(targets)
        self.context, self.horizon, self.season = context, horizon, season
        self.fractions = {"validation": validation, "test": test}
        self.split = None if split is None else list(split)

    def read(self) -> Mapping[Split, Any]:
        """Read the table and cut it into windows."""
        if self.adopted:
            self.columns, self.targets = list(self.adopted["columns"]), list(self.adopted["targets"])
            self.context, self.horizon = self.adopted["context"], self.adopted["horizon"]
            self.season = self.adopted["season"]
        self.table = table = read_source(self.source, self.columns, self.reading)
        targets = table.columns if self.targets is None else self.targets
        if unknown := [name for name in targets if name not in table.columns]:
            raise ValueError(
                f"data.targets: {unknown[0]!r} is not among the columns that are read: "
                f"{', '.join(table.columns)}"
            )
        numbers = [table.columns.index(name) for name in targets]
        ends = self._ends(len(table.values))
        window = self.context + self.horizon
        windows: dict[Split, Windows] = {}
        for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False):
            # Only what is forecast must lie in the split.
            first = max(0, start - self.context)
            if end - first < window:
                raise ValueError(
                    f"{self.source}: the {split} split has {end - start} rows, too few for context="
                    f"{self.context} and horizon={self.horizon}; give more rows, or a shorter window"
                )
            starts = range(first, end - window + 1)
            windows[split] = Windows(table.values, numbers, starts, self.context, self.horizon)
        self._ends_of = ends
        self.mean: list[float]
        self.std: list[float]
        if self.adopted:
            self.mean, self.std = self.adopted["mean"], self.adopted["std"]
        else:
            self.mean, self.std = scale_of(table.values[: ends[0]])
        self._facts = {"columns": table.columns, "targets": list(targets)}
        return windows

    def _ends(self, rows: int) -> list[int]:
        """The row after the last one of each split."""
        if self.split is None:
            test = round(rows * (1 - self.fractions["test"]))
            return [round(rows * (1 - sum(self.fractions.values()))), test, rows]
        if sum(self.split) > rows:
            raise ValueError(f"{self.source}: split={self.split} is {sum(self.split)} rows; there are {rows}")
        return [sum(self.split[: number + 1]) for number in range(3)]

    def facts(self) -> dict[str, Any]:
        """The columns and their scale, context, horizon and season, and how files are read."""
        self.need_setup()
        return {
            **self._facts,
            "mean": list(self.mean),
            "std": list(self.std),
            "context": self.context,
            "horizon": self.horizon,
            "season": self.season,
            "reading": dict(self.reading),
        }

    def summary(self) -> dict[str, Any]:
        """Rows and times, columns, windows by split, and what was filled or left out."""
        self.need_setup()
        rows, ends = len(self.table.values), self._ends_of
        return {
            "source": self.source,
            "rows": f"{rows:,}, from {show(self.table.times[0])} to {show(self.table.times[-1])}",
            "columns": f"{len(self._facts['columns'])} read, {len(self._facts['targets'])} forecast",
            "split": ", ".join(
                f"{split} until {show(self.table.times[end - 1])}"
                for split, end in zip(SPLITS, ends, strict=True)
            ),
            "windows": {split: len(self.dataset(split)) for split in SPLITS},
            "left_out": {"rows after the test": rows - ends[-1]} if rows > ends[-1] else {},
            **self.table.filled,
        }

    def examples(self, split: Split, n: int) -> list[tuple[int, SequenceBatch]]:
        """Windows of a split as batches of one, evenly spaced, and the last row that each reads."""
        windows = self.dataset(split)
        rows = evenly(range(len(windows)), n)
        return [(windows.starts[row] + self.context - 1, windows[[row]]) for row in rows]


def read_source(source: str, columns: Sequence[str] | None, reading: Mapping[str, Any]) -> Measurements:
    """The table of a source; see `ForecastingData`.

    Raises:
        ValueError: there is no such source, or it cannot be read.
    """
    if source == GENERATED:
        return mackey_glass()
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"data source {source!r}: no such file, and not {GENERATED!r}, which is generated")
    return read_measurements(path, columns=columns, **reading)
