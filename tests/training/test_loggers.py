"""`metrics.csv` holds what was logged, however it was logged."""

import csv
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.training.loggers import MetricsCSV, read_metrics

LOGGED = st.lists(
    st.tuples(st.integers(0, 2), st.dictionaries(st.sampled_from("abcd"), st.integers(-5, 5), min_size=1)),
    min_size=1,
    max_size=12,
)


@given(logged=LOGGED, flush_every=st.integers(1, 5))
def test_the_file_is_what_was_logged(logged: list[tuple[int, dict[str, Any]]], flush_every: int) -> None:
    """Steps stand still or go on, columns come late, and the file is flushed at any moment."""
    expected: list[dict[str, Any]] = []
    step = 0
    with tempfile.TemporaryDirectory() as folder:
        logger = MetricsCSV(folder, flush_every=flush_every)
        for advance, metrics in logged:
            step += advance
            logger.log_metrics(metrics, step)
            if expected and expected[-1]["step"] == step:
                expected[-1].update(metrics)
            else:
                expected.append({"step": step, **metrics})
        logger.finalize("success")
        with (Path(folder) / "metrics.csv").open(newline="", encoding="utf-8") as stream:
            rows = [
                {key: int(value) for key, value in row.items() if value} for row in csv.DictReader(stream)
            ]
    assert rows == expected


def test_read_metrics_gives_one_series_a_metric(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"train/loss": 2.0, "epoch": 0}, 1)
    logger.log_metrics({"val/loss": 1.5, "epoch": 0}, 2)
    logger.log_metrics({"train/loss": 1.0, "epoch": 1}, 3)
    logger.save()
    assert read_metrics(logger.file) == {"train/loss": [(1, 2.0), (3, 1.0)], "val/loss": [(2, 1.5)]}


def test_nothing_logged_leaves_no_file(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_a_flush_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="flush_every=0"):
        MetricsCSV(tmp_path, flush_every=0)


@pytest.mark.parametrize(
    "change",
    [{"columns": None}, {"rows": "4"}, {"rows": -1}, {"columns": [1]}, {"last": 3}, {"last": {"other": 1.0}}],
)
def test_a_state_of_another_form_is_refused_and_harms_no_row(tmp_path: Path, change: dict[str, Any]) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 2.0}, 1)
    state = logger.state_dict()
    written = logger.file.read_bytes()
    broken = {key: value for key, value in {**state, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=r"metrics\.csv has another form.*expected rows, columns, last"):
        MetricsCSV(tmp_path).load_state_dict(broken)
    assert logger.file.read_bytes() == written
    again = MetricsCSV(tmp_path)
    again.load_state_dict(state)
    assert again.file.read_bytes() == written
