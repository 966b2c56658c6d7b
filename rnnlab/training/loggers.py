"""The run's own metrics file."""

import csv
import io
import itertools
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from rnnlab.training.storage import write_text_whole


class MetricsCSV(Logger):
    """`metrics.csv`: one row a step that logged something, one column a metric.

    Args:
        folder: the folder of the run.
        flush_every: rows kept in memory before the file is written.

    Raises:
        ValueError: `flush_every` below 1.
    """

    def __init__(self, folder: str | Path, flush_every: int = 20) -> None:
        super().__init__()
        if flush_every < 1:
            raise ValueError(f"flush_every={flush_every}: expected at least 1")
        self.file = Path(folder) / "metrics.csv"
        self.flush_every = flush_every
        self._columns = ["step", "epoch"]
        self._new: list[dict[str, Any]] = []  # rows that are not in the file
        self._last: dict[str, Any] | None = None  # the file's last row, which may still grow
        self._last_at = 0  # where it begins, in bytes
        self._written = 0  # rows in the file

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration stands in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of `step`, or begin it."""
        if self._new and self._new[-1]["step"] == step:
            self._new[-1].update(metrics)
        elif not self._new and self._last is not None and self._last["step"] == step:
            self._new.append({**self._last, **metrics})
            self._take_back()
        else:
            self._new.append({"step": step, **metrics})
        if len(self._new) >= self.flush_every:
            self.save()

    def _take_back(self) -> None:
        """Cut the last row off the file; it is written again."""
        with self.file.open("r+b") as stream:
            stream.truncate(self._last_at)
        self._last = None
        self._written -= 1

    @rank_zero_only
    def save(self) -> None:
        """Append what is new; where it has a column that the file lacks, write all of the file again."""
        if not self._new:
            return
        columns = sorted({key for row in self._new for key in row}.difference(self._columns))
        before = self._rows_in_file(self._written) if columns else []
        self._columns += columns
        if columns or not self._written:
            write_text_whole(self.file, self._as_text(before, header=True))
        with self.file.open("ab") as stream:
            stream.write(self._as_text(self._new[:-1]).encode())
            self._last_at = stream.tell()
            stream.write(self._as_text(self._new[-1:]).encode())
        self._written += len(self._new)
        self._last, self._new = self._new[-1], []

    def _as_text(self, rows: list[dict[str, Any]], header: bool = False) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _rows_in_file(self, count: int) -> list[dict[str, Any]]:
        if not count or not self.file.is_file():
            return []
        with self.file.open(newline="", encoding="utf-8") as stream:
            rows = itertools.islice(csv.DictReader(stream), count)
            return [{key: value for key, value in row.items() if key and value} for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """How many rows there are, all on the disk, and the last of them, which may still grow."""
        self.save()
        if self.file.is_file():
            with self.file.open("ab") as stream:
                os.fsync(stream.fileno())
        last = dict(self._last) if self._last else None
        return {"rows": self._written, "columns": list(self._columns), "last": last}

    @rank_zero_only
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the rows of that state; those that were written after it are dropped.

        Raises:
            ValueError: the state is not one that `state_dict` gives, such as that of another version.
        """
        if not _is_state(state):
            raise ValueError(
                f"the checkpoint's state of metrics.csv has another form ({', '.join(map(str, state))}; "
                "expected rows, columns, last): the run goes on with the version of rnnlab that began it"
            )
        rows = self._rows_in_file(max(0, state["rows"] - 1))
        last = [dict(state["last"])] if state["last"] else []
        self._columns = list(state["columns"])
        if last:
            write_text_whole(self.file, self._as_text(rows, header=True))
        else:
            self.file.unlink(missing_ok=True)
        self._new, self._last, self._written = last, None, len(rows)
        self.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


def _is_state(state: Mapping[str, Any]) -> bool:
    rows, columns, last = (state.get(key) for key in ("rows", "columns", "last"))
    if type(rows) is not int or rows < 0 or not isinstance(columns, list):
        return False
    if not all(isinstance(column, str) for column in columns):
        return False
    return last is None or (isinstance(last, Mapping) and set(last) <= set(columns))


def read_metrics(file: str | Path) -> dict[str, list[tuple[int, float]]]:
    """`metrics.csv` as one series `(step, value)` a metric."""
    series: dict[str, list[tuple[int, float]]] = {}
    with Path(file).open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for key, value in row.items():
                if key not in ("step", "epoch") and value:
                    series.setdefault(key, []).append((int(row["step"]), float(value)))
    return series
