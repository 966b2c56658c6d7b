"""Files of series as the wild has them."""

from pathlib import Path

import pytest
import torch

from rnnlab.data.series_files import fill_gaps, read_series

HEAD = """\
# A comment, with: colons and @ signs
@problemName Wild
@timeStamps false
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
"""


def write(folder: Path, text: str, name: str = "wild.ts") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_ts_file_with_unequal_lengths_gaps_and_windows_newlines(tmp_path: Path) -> None:
    text = HEAD + "1,2,3: 4,?,6 :up\r\n\r\n7.5,-1e-2:NaN,8:down\r\n"
    found = read_series(write(tmp_path, text))
    assert found.channels == ["1", "2"]
    assert found.labels == ["up", "down"]
    assert found.label_order == ["up", "down"]
    assert found.names == ["wild.ts:1", "wild.ts:2"]
    assert found.series[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert torch.equal(found.series[1], torch.tensor([[7.5, 8], [-0.01, 8]]))
    assert found.filled["gaps filled"] == 2


def test_a_univariate_ts_file_names_no_dimensions(tmp_path: Path) -> None:
    found = read_series(write(tmp_path, "@univariate true\n@classLabel true a b\n@DATA\n1,2:a\n3,4:b\n"))
    assert found.channels == ["1"]
    assert found.series[1].tolist() == [[3], [4]]


def test_a_ts_file_without_labels_is_read_for_prediction(tmp_path: Path) -> None:
    found = read_series(write(tmp_path, "@classLabel false\n@data\n1,2:5,6\n"))
    assert found.labels == [None]
    assert found.series[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "1,2:3,4:up\n1,2:3,4:left\n", "line 10: label 'left' is not among .*: up, down"),
        (HEAD + "1,2:up\n", "line 9: 1 channels where 2 are expected"),
        (HEAD + "1,2:3:up\n", "line 9: channels of unequal length: 2, 1"),
        (HEAD + "1,two:3,4:up\n", "line 9, channel 1, value 2: 'two' is not a finite number"),
        (HEAD + "1,2:3,inf:up\n", "line 9, channel 2, value 2: 'inf' is not a finite number"),
        (HEAD + "1,2:?,?:up\n", "line 9: channel 2 has no value at all"),
        (HEAD, "there is no series after @data"),
        ("@classLabel true a b\n", "there is no line @data"),
        ("1,2:a\n@data\n", "line 1: before @data stand lines of @ or #"),
        ("@timeStamps true\n@data\n", "time stamps are not read"),
        ("@targetLabel true\n@data\n1:2\n", "its targets are numbers"),
        ("@dimensions two\n@data\n1:2\n", "@dimensions two"),
        (
            "@univariate true\n@equalLength true\n@seriesLength 3\n@classLabel true a\n@data\n1,2:a\n",
            "line 6: 2 steps where @seriesLength says 3",
        ),
    ],
)
def test_a_line_against_the_header_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_series(write(tmp_path, text))


def test_rows_of_a_csv_are_the_steps_of_their_series(tmp_path: Path) -> None:
    text = "label,x,series,y\nrun,1,b,10\nrun,,b,20\nrest,5,a,\nrun,3,b,30\nrest,6,a,7\n"
    found = read_series(write(tmp_path, text, "motion.csv"))
    assert found.channels == ["x", "y"]
    assert found.labels == ["run", "rest"]
    assert found.series[0].tolist() == [[1, 10], [2, 20], [3, 30]]
    assert found.series[1].tolist() == [[5, 7], [6, 7]]
    assert found.filled["gaps filled"] == 2
    chosen = read_series(write(tmp_path, text, "motion.csv"), channels=["y"])
    assert chosen.series[0].tolist() == [[10], [20], [30]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label,x\na,b,1\n", "no column 'series' that says which series"),
        ("series,label,x\na,b,1\na,c,2\n", "line 3: series 'a' has label 'c', in line 2 'b'"),
        ("series,label,x\na,b,1\na,b,much\n", "line 3, column 'x': 'much' is not a finite number"),
        ("series,label,x\na,,1\n", "line 2: the label is empty"),
        ("series,label,x\na,b\n", "line 2: 2 fields where the first line has 3"),
        ("series,label,x\na,b,\na,b,?\n", "from line 2: channel x has no value at all"),
        ("series,label\na,b\n", "no column is left"),
    ],
)
def test_a_wrong_row_of_a_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_series(write(tmp_path, text, "motion.csv"))


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in none of \.ts"):
        read_series(write(tmp_path, "x", "motion.arff"))


def test_gaps_are_filled_by_straight_lines_and_ends_by_their_neighbour() -> None:
    nan = float("nan")
    series = torch.tensor([[nan, 1], [2, nan], [nan, nan], [nan, 4], [8, 5]], dtype=torch.float64)
    assert fill_gaps(series, "here", ["a", "b"]) == 5
    assert series.tolist() == [[2, 1], [2, 2], [4, 3], [6, 4], [8, 5]]
    assert fill_gaps(series, "here", ["a", "b"]) == 0
