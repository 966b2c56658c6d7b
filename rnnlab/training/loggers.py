"""The run's own metrics file."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


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
        self._rows: list[dict[str, Any]] = []
        self._in_file = 0  # rows that stand in the file as they are in memory

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
        if self._rows and self._rows[-1]["step"] == step:
            self._rows[-1].update(metrics)
            grown = len(self._rows) - 1
            if self._in_file > grown:
                self._in_file = -1  # the file's last row is out of date: write all of it again
        else:
            self._rows.append({"step": step, **metrics})
        if len(self._rows) - max(self._in_file, 0) >= self.flush_every:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Append what is new; write all of the file again where that is not enough."""
        new = sorted({key for row in self._rows for key in row}.difference(self._columns))
        again = bool(new) or self._in_file <= 0
        self._columns += new
        with self.file.open("w" if again else "a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self._columns)
            if again:
                writer.writeheader()
            writer.writerows(self._rows if again else self._rows[self._in_file :])
        self._in_file = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        if self._rows:
            self.save()


def read_metrics(file: str | Path) -> dict[str, list[tuple[int, float]]]:
    """`metrics.csv` as one series `(step, value)` a metric."""
    series: dict[str, list[tuple[int, float]]] = {}
    with Path(file).open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for key, value in row.items():
                if key not in ("step", "epoch") and value:
                    series.setdefault(key, []).append((int(row["step"]), float(value)))
    return series
