"""Tables with a time column as the wild has them, and the Mackey-Glass equation."""

from datetime import datetime
from pathlib import Path

import pytest
import torch

from rnnlab.data.timed import mackey_glass, read_measurements, show


def write(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_gaps_are_filled_with_what_was_known_and_counted(tmp_path: Path) -> None:
    text = (
        "x,date,note\n"
        ",2024-01-01 00:00,0\n"  # before the first value of x
        "1,2024-01-01 01:00,1\n"
        "NA,2024-01-01 02:00,2\n"
        "\n"
        "4,2024-01-01 05:00,3\n"  # two rows are missing
        '"5.5",2024-01-01 06:00,"4"\n'
    )
    found = read_measurements(write(tmp_path, text))
    assert found.columns == ["x", "note"]
    assert found.values.tolist() == [[1, 1], [1, 2], [1, 2], [1, 2], [4, 3], [5.5, 4]]
    assert [str(time) for time in found.times[:2]] == ["2024-01-01 01:00:00", "2024-01-01 02:00:00"]
    assert found.time_after(5, 2) == "2024-01-01 08:00:00"
    assert found.filled == {"rows_inserted": 2, "cells_filled": 1, "rows_before_the_first_value": 1}


def test_rows_that_keep_no_distance_are_taken_as_they_come(tmp_path: Path) -> None:
    path = write(tmp_path, "month,y\n2024-01-31,1\n2024-02-29,2\n2024-03-31,3\n")
    with pytest.raises(ValueError, match=r"line 4: 31 days, 0:00:00 after the row before, where rows st"):
        read_measurements(path, time_column="month")
    found = read_measurements(path, time_column="month", regular=False)
    assert found.values.flatten().tolist() == [1, 2, 3]
    assert found.time_after(2, 4) == "2024-03-31 00:00:00 + 4 rows"


def test_times_may_be_numbers_and_columns_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, "a\tt\tb\n1\t0.5\t2\n3\t1.0\t4\n5\t2.0\t6\n", "log.tsv")
    found = read_measurements(path, time_column="t", columns=["b", "a"])
    assert found.values.tolist() == [[2, 1], [4, 3], [4, 3], [6, 5]]
    assert found.step == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,x\n1,2\n", "line 1: no column 'date' with the time; the columns are 'time', 'x'"),
        ("date\n1\n", "there is no column beside 'date'"),
        ("date,x\n2024-01-01,1\nyesterday,2\n", "line 3: 'yesterday' is no time"),
        ("date,x\nnan,1\n", "line 2: 'nan' is no time"),
        ("date,x\n2024-01-02,1\n2024-01-01,2\n", "line 3: the time 2024-01-01 .* is before that in line 2"),
        ("date,x\n2024-01-02,1\n2024-01-02,2\n", "line 3: the time .* is the same as in line 2"),
        ("date,x\n1,1\n2024-01-02,2\n", "line 3: the time .* cannot be compared with 1.0 in line 2"),
        ("date,x\n2024-01-01,1\n2024-01-02,broken\n", "line 3, column 'x': 'broken' is not a finite number"),
        ("date,x\n2024-01-01,1\n2024-01-02,inf\n", "line 3, column 'x': 'inf' is not a finite number"),
        ("date,x,y\n2024-01-01,1,\n2024-01-02,2,NaN\n", "column 'y' has no value at all"),
        ("date,x\n2024-01-01,1,7\n", "line 2: 3 fields where the first line has 2"),
        ("date,x\n1,1\n2,2\n3,3\n3.5,4\n", "line 5: 0.5 after the row before, where rows stand 1.0 apart"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_measurements(write(tmp_path, text))


def test_a_gap_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "date,x,y\n1,1,1\n2,,1\n3,,1\n4,,1\n5,2,2\n")
    with pytest.raises(ValueError, match=r"after line 2: column 'x' has no value for more than 2 rows"):
        read_measurements(path, max_gap=2)
    assert read_measurements(path, max_gap=3).filled["cells_filled"] == 3
    path = write(tmp_path, "date,x\n1,1\n2,1\n6,2\n")
    with pytest.raises(ValueError, match="after line 3: column 'x' has no value for more than 2 rows"):
        read_measurements(path, max_gap=2)
    assert read_measurements(path, max_gap=3).filled["rows_inserted"] == 3


def test_mackey_glass_solves_its_equation() -> None:
    series = mackey_glass(300).values.double().flatten()
    assert len(series) == 300
    assert 0.2 < series.min() < 0.6 and 1.1 < series.max() < 1.4
    # The slope by central differences, where a unit of time is short enough for it.
    centre = series[19:-2]
    derivative = (8 * (series[20:-1] - series[18:-3]) - (series[21:] - series[17:-4])) / 12
    now, past = centre, series[2:-19]
    expected = 0.2 * past / (1 + past**10) - 0.1 * now
    assert (derivative - expected).abs().max() < 2e-3
    assert torch.equal(mackey_glass(50).values, mackey_glass(300).values[:50])


@pytest.mark.parametrize("options", [{"steps": 0}, {"delay": 0.0}, {"per_step": 0}])
def test_what_cannot_be_generated_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="are above 0"):
        mackey_glass(**options)


def test_times_are_told_as_they_are_written() -> None:
    assert show(7999.0) == "7999" and show(0.25) == "0.25" and show(1234567.0) == "1234567"
    assert show(datetime(2016, 7, 1, 3)) == "2016-07-01 03:00:00"
