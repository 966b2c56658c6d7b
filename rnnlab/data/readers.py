"""Files of rows: TSV, CSV and JSON lines, plain or compressed, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rnnlab.data.unpack import unpack

Column = str | int


class Row(NamedTuple):
    """The wanted columns of one row, in the order they were asked for."""

    line: int
    values: tuple[str, ...]


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The file's text; `.gz` and `.xz` are unpacked, a byte-order mark is dropped, newlines are `\\n`.

    Raises:
        ValueError: no such file, no text in it, damaged compression, or bytes of another encoding.
    """
    try:
        raw = unpack(path.read_bytes(), path.suffix)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error}); the file is damaged or misnamed") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not raw.strip():
        raise ValueError(f"{path}: the file is empty; it needs at least one row of data")
    try:
        text = raw.decode(
            "utf-8-sig" if encoding.lower().replace("_", "-") in {"utf-8", "utf8"} else encoding
        )
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        likely = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise ValueError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not {encoding}; "
            f"give the file's encoding (perhaps encoding={likely}) or convert it to UTF-8"
        ) from None
    except LookupError:
        raise ValueError(f"encoding {encoding!r} is not known; use utf-8 or latin-1, for example") from None
    return text.replace("\r\n", "\n")


def table_format(path: Path) -> str | None:
    """The format that the file's name promises, `.gz` and `.xz` aside: tsv, csv, jsonl, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in {".gz", ".xz"}:
        suffixes.pop()
    return {".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(
        suffixes[-1] if suffixes else ""
    )


def read_header(path: Path, *, encoding: str = "utf-8") -> list[str]:
    """The names in the first line of a TSV or CSV file.

    Raises:
        ValueError: the file cannot be read, or is neither.
    """
    kind = table_format(path)
    if kind not in ("csv", "tsv"):
        raise ValueError(f"{path}: a file with a line of names is a .csv or .tsv (or these with .gz or .xz)")
    text = read_text(path, encoding)
    _, names = next(iter(_csv_records(path, text) if kind == "csv" else _tsv_records(text)))
    return [name.strip() for name in names]


def read_table(path: Path, columns: Sequence[Column], *, encoding: str = "utf-8") -> list[Row]:
    """Read the named columns of a TSV, CSV or JSON-lines file.

    A column given by name is looked up in the first line; one given by number (from 0) says that the file
    has no such line. Blank lines are passed over. TSV knows no quoting, CSV quotes as RFC 4180 says.

    Raises:
        ValueError: the file cannot be read, has no rows, lacks a column, or a line is malformed.
    """
    kind = table_format(path)
    if kind is None:
        raise ValueError(
            f"{path}: the format is chosen by the name, which ends in none of .tsv, .csv, .jsonl (or these "
            "with .gz or .xz)"
        )
    numbered = [isinstance(column, int) for column in columns]
    if any(numbered) and (kind == "jsonl" or not all(numbered)):
        raise ValueError(
            f"{path}: columns are given all by name, or all by number for a TSV or CSV without a header; "
            f"got {list(columns)}"
        )
    text = read_text(path, encoding)
    rows = _json_rows(path, text, columns) if kind == "jsonl" else _delimited_rows(path, text, columns, kind)
    if not rows:
        raise ValueError(f"{path}: there is no row of data after the header; it needs at least one")
    return rows


def _json_rows(path: Path, text: str, columns: Sequence[Column]) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error}); one object a line") from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}, line {number}: a JSON object is needed, such as "
                f'{{"text": "...", "label": "..."}}; got {type(record).__name__}'
            )
        values = []
        for column in columns:
            if column not in record:
                raise ValueError(
                    f"{path}, line {number}: no column {column!r}; the columns are {_listed(record)}"
                )
            value = record[column]
            if value is None or isinstance(value, (dict, list)):
                raise ValueError(
                    f"{path}, line {number}: {column!r} is {type(value).__name__}; text or a number is needed"
                )
            values.append(value if isinstance(value, str) else json.dumps(value))
        rows.append(Row(number, tuple(values)))
    return rows


def _delimited_rows(path: Path, text: str, columns: Sequence[Column], kind: str) -> list[Row]:
    records = _csv_records(path, text) if kind == "csv" else _tsv_records(text)
    rows: list[Row] = []
    places: list[int] | None = None
    width = 0
    for number, fields in records:
        if places is None:
            width = len(fields)
            if isinstance(columns[0], int):
                places = [int(column) for column in columns]
                if max(places) >= width or min(places) < 0:
                    raise ValueError(
                        f"{path}, line {number}: no column number {max(places)}; the line has {width}, "
                        "numbered from 0"
                    )
            else:
                places = [_place(path, fields, column) for column in columns]
                continue
        if len(fields) != width:
            raise ValueError(
                f"{path}, line {number}: {len(fields)} fields where the first line has {width}"
                + ("; a field that holds a comma or a quote must be quoted" if kind == "csv" else "")
            )
        rows.append(Row(number, tuple(fields[place] for place in places)))
    return rows


def _tsv_records(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.split("\t")


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    start = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {start}: not valid CSV ({error}); close each quote and double a quote inside one"
        ) from None


def _place(path: Path, header: list[str], column: Column) -> int:
    names = [name.strip() for name in header]
    if column not in names:
        raise ValueError(
            f"{path}, line 1: no column {column!r}; the columns are {_listed(names)}. Name another, or give "
            "column numbers (from 0) if the file has no header"
        )
    if names.count(str(column)) > 1:
        raise ValueError(f"{path}, line 1: column {column!r} occurs {names.count(str(column))} times")
    return names.index(str(column))


def _listed(names: Sequence[str] | dict) -> str:
    shown = [repr(name if len(name) <= 40 else name[:37] + "...") for name in list(names)[:12]]
    return ", ".join(shown) + (" and more" if len(names) > 12 else "")
