"""A compiler that falls takes its own process with it, and no other."""

import sys

import pytest
import torch
from rnnlab_kernels.triton import aot, isolate
from rnnlab_kernels.triton.aot import compile_config
from rnnlab_kernels.triton.choice import Config
from rnnlab_kernels.triton.isolate import CannotCompile, Order, compile_apart

from rnnlab.cells import find
from rnnlab.recurrence.compiler import compile_cell

SOURCE = """
import triton
import triton.language as tl


@triton.jit
def double(x, y):
    at = tl.arange(0, 16)
    tl.store(y + at, {value})
"""


def order(value: str, before: str = "") -> Order:
    source = before + SOURCE.format(value=value)
    return Order(source, "double", {"x": "*fp32", "y": "*fp32"}, {}, (0, 1), ("cuda", 90, 32))


def test_what_a_kernel_needs_comes_back() -> None:
    first, second = compile_apart([order("2.0 * tl.load(x + at)"), order("tl.load(x + at) + 1.0")])
    assert first.kernel == second.kernel == "double"
    assert 0 < first.registers <= 255 and first.spills == first.stack == 0


def test_no_orders_need_no_process() -> None:
    assert compile_apart([]) == []


def test_a_kernel_that_cannot_be_compiled_is_refused_with_the_reason() -> None:
    with pytest.raises(CannotCompile, match="nowhere"):
        compile_apart([order("nowhere + 1.0")])


def test_a_compiler_that_falls_is_told_of_by_kernel_and_signal() -> None:
    falls = order("2.0 * tl.load(x + at)", before="import os\nos.abort()\n")
    with pytest.raises(CannotCompile, match=r"the compiler fell over double: SIGABRT"):
        compile_apart([order("2.0 * tl.load(x + at)"), falls])


def test_the_process_that_compiles_starts_without_torch() -> None:
    looks = "import sys\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    compile_apart([order("2.0 * tl.load(x + at)", before=looks)])
    assert "torch" in sys.modules


def test_a_kernel_is_compiled_once_on_a_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RNNLAB_CACHE_DIR", str(tmp_path))
    program = compile_cell(find("rnn")(16, 16), torch.zeros(2, 2, 16)).derivative().forward
    config = Config("resident", block_b=16)
    first = compile_config(program, torch.float32, config, "sm_80", cached=True)

    def never(_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(aot, "compile_apart", never)
    assert compile_config(program, torch.float32, config, "sm_80", cached=True) == first
    with pytest.raises(AssertionError, match="compiled again"):
        compile_config(program, torch.float32, config, "sm_90", cached=True)


def test_a_note_that_was_damaged_is_written_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RNNLAB_CACHE_DIR", str(tmp_path))
    program = compile_cell(find("rnn")(16, 16), torch.zeros(2, 2, 16)).derivative().forward
    first = compile_config(program, torch.float32, Config("resident", block_b=16), "sm_80", cached=True)
    (note,) = (tmp_path / "triton").iterdir()
    note.write_text("[{")
    again = compile_config(program, torch.float32, Config("resident", block_b=16), "sm_80", cached=True)
    assert [(r.kernel, r.registers) for r in again] == [(r.kernel, r.registers) for r in first]
    assert "registers" in note.read_text()


def test_a_compiler_that_never_ends_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(isolate, "LIMIT_SECONDS", 0.5)
    waits = order("2.0 * tl.load(x + at)", before="import time\ntime.sleep(60)\n")
    with pytest.raises(CannotCompile, match=r"double took longer than 0\.5 s"):
        compile_apart([waits])
