import gzip
import lzma
from pathlib import Path

import pytest

from rnnlab.data.readers import read_table, read_text

WRITERS = {
    "rows.tsv": lambda rows: "text\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in rows),
    "rows.csv": lambda rows: "text,label\n" + "".join(f'"{t}",{label}\n' for t, label in rows),
    "rows.jsonl": lambda rows: "".join(f'{{"label": "{label}", "text": "{t}"}}\n' for t, label in rows),
}
ROWS = [("good, really", "1"), ("schön\u2028schlecht", "0")]


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, newline: str, mark: str) -> None:
    path = put(tmp_path / name, mark + WRITERS[name](ROWS).replace("\n", newline))
    assert [row.values for row in read_table(path, ["text", "label"])] == ROWS


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_files_are_unpacked(tmp_path: Path, suffix: str, pack) -> None:
    path = put(tmp_path / f"rows.tsv{suffix}", pack(WRITERS["rows.tsv"](ROWS).encode()))
    assert [row.values for row in read_table(path, ["text", "label"])] == ROWS


def test_a_quoted_field_may_hold_lines_and_quotes(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'text,label\n"one\ntwo ""three""",1\nfour,0\n')
    rows = read_table(path, ["text", "label"])
    assert [row.values for row in rows] == [('one\ntwo "three"', "1"), ("four", "0")]
    assert [row.line for row in rows] == [2, 4]


def test_columns_by_number_need_no_header(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", "1\tgood\n\n0\tbad\n")
    assert [tuple(row) for row in read_table(path, [1, 0])] == [(1, ("good", "1")), (3, ("bad", "0"))]


def test_another_encoding_can_be_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", "text\tlabel\ncaf\u00e9\t1\n".encode("latin-1"))
    assert read_table(path, ["text"], encoding="latin-1")[0].values == ("caf\u00e9",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "the file is empty"),
        ("a.tsv", b"\n \n", "the file is empty"),
        ("a.tsv", b"text\tlabel\n", "no row of data after the header"),
        ("a.tsv", b"text\tlabel\nok\t1\ncaf\xe9\t1\n", r"line 3: byte 0xe9 is not utf-8.*encoding=latin-1"),
        ("a.tsv", "text\tlabel\n".encode("utf-16"), r"line 1: byte 0xff is not utf-8.*encoding=utf-16"),
        ("a.tsv", b"review\tlabel\nok\t1\n", r"line 1: no column 'text'; the columns are 'review', 'label'"),
        ("a.tsv", b"text\ttext\tlabel\nok\tok\t1\n", r"column 'text' occurs 2 times"),
        ("a.tsv", b"text\tlabel\nok\t1\nodd\n", "line 3: 1 fields where the first line has 2"),
        ("a.csv", b"text,label\nok,1\na, b,1\n", "line 3: 3 fields where the first line has 2.*quoted"),
        ("a.csv", b'text,label\nok,1\n"open,1\nmore,0\n', "line 3: not valid CSV"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', "line 2: not valid JSON"),
        ("a.jsonl", b'["a", 1]\n', "line 1: a JSON object is needed.*got list"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2: no column 'label'"),
        ("a.jsonl", b'{"text": null, "label": 1}\n', "line 1: 'text' is NoneType"),
        ("a.tsv.gz", b"text\tlabel\n", "cannot be unpacked"),
        ("a.tsv.xz", lzma.compress(b"text\tlabel\nok\t1\n")[:-20], "cannot be unpacked"),
        ("a.parquet", b"PAR1", "ends in none of .tsv, .csv, .jsonl"),
    ],
)
def test_bad_files_are_told_by_name_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(ValueError, match=f"(?s)^{path}.*{message}"):
        read_table(path, ["text", "label"])


def test_bad_requests_are_told(tmp_path: Path) -> None:
    path = put(tmp_path / "a.tsv", "good\t1\n")
    with pytest.raises(ValueError, match="no column number 5; the line has 2, numbered from 0"):
        read_table(path, [5, 0])
    with pytest.raises(ValueError, match="all by name, or all by number"):
        read_table(path, [0, "label"])
    with pytest.raises(ValueError, match="encoding 'utf-9' is not known"):
        read_text(path, "utf-9")
    with pytest.raises(ValueError, match="cannot be read"):
        read_text(tmp_path / "absent.tsv")
    with pytest.raises(ValueError, match="cannot be read"):
        read_text(tmp_path)
