"""Runs the Triton kernels of these tests in Triton's interpreter, on the CPU."""

import pytest

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
