"""Ahead-of-time compilation: what `auto` would choose fits, without spills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def compiled(tmp_path: Path, *words: str) -> list[dict]:
    file = tmp_path / "rows.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    environment["RNNLAB_CACHE_DIR"] = str(tmp_path / "notes")
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "rnnlab",
        "kernels",
        "compile",
        "--json",
        str(file),
        *words,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


def hold(rows: list[dict]) -> None:
    for row in rows:
        assert not row["fault"], row
        assert row["spills"] == 0, row
        assert row["shared"] <= row["shared_limit"], row
        assert 0 < row["registers"] <= 512, row


def test_what_auto_chooses_fits_on_known_targets(tmp_path: Path) -> None:
    words = ("--cells", "lstm", "--sizes", "48", "--dtypes", "bfloat16")
    words += ("--targets", "sm_80,sm_90,gfx942", "--jobs", "1")
    rows = compiled(tmp_path, *words)
    hold(rows)
    assert compiled(tmp_path, *words) == rows, "the seconds too: they are remembered, not measured again"
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "gfx942"}
    assert {row["shared_limit"] for row in rows} == {163 * 1024, 227 * 1024, 64 * 1024}
    assert {row["kernel"].split("_")[0] for row in rows} == {"forward", "adjoint"}


@pytest.mark.slow
def test_what_auto_chooses_fits_for_every_cell(tmp_path: Path) -> None:
    hold(compiled(tmp_path, "--sizes", "128", "--dtypes", "bfloat16", "--targets", "sm_80,sm_90"))
