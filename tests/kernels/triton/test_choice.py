"""Which configuration is chosen: from counts, a table and a stand-in for the compiler."""

import json
from pathlib import Path

import pytest
import torch
from rnnlab_kernels.program import Program
from rnnlab_kernels.triton import Config
from rnnlab_kernels.triton.choice import (
    Choice,
    Device,
    _configure_forced,
    candidates,
    choose,
    configure,
    count,
    force,
    unfit,
)
from rnnlab_kernels.triton.table import Table, Winner

from rnnlab import cells
from rnnlab.recurrence.compiler import compile_cell

A100 = Device("A100", "sm_80", 32, 163 * 1024)


def program(name: str, size: int) -> Program:
    return compile_cell(cells.find(name)(size, size), torch.zeros(2, 2, size)).program


def chosen(name: str, size: int, **more) -> Choice:
    return choose(program(name, size), torch.bfloat16, A100, 64, **more)


def test_weights_that_fit_are_kept_and_others_go_through_the_library() -> None:
    assert chosen("lstm", 64).config.strategy == "resident"
    assert chosen("lstm", 512).config.strategy == "stepwise"
    assert "shared memory" in chosen("lstm", 512).reason


def test_counted_shared_memory_is_that_of_the_padded_weights_and_a_left_operand() -> None:
    needs = count(program("lstm", 100), torch.bfloat16, Config("resident"), A100)
    assert needs.shared == 4 * 128 * 128 * 2 + 16 * 128 * 2


def test_a_standard_cell_runs_by_cudnn_until_a_table_says_otherwise() -> None:
    assert chosen("gru", 64, standard=True).backend == "aten"
    table = Table()
    ours = Config("resident", warps=8)
    table.add("A100", torch.bfloat16, program("gru", 64).key, 64, Winner(ours, 3.0))
    assert chosen("gru", 64, standard=True, table=table).config == ours
    table.add("A100", torch.bfloat16, program("gru", 64).key, 64, Winner(None, 2.0))
    assert chosen("gru", 64, standard=True, table=table).backend == "aten"


def test_what_the_compiler_rejects_gives_way_to_the_next() -> None:
    said = chosen("lstm", 64, reject=lambda c: "spills 8 bytes" if c.strategy == "resident" else None)
    assert said.config.strategy == "streamed"
    assert "spills 8 bytes" in said.reason
    nothing = chosen("lstm", 64, reject=lambda c: "spills 8 bytes")
    assert nothing.config.strategy == "stepwise" and "nothing fits" in nothing.reason


def test_a_diagonal_recurrence_is_not_streamed_and_takes_fewer_rows() -> None:
    found = candidates(program("indrnn", 64), torch.float32, A100)
    assert {c.config.strategy for c in found} == {"resident", "stepwise"}
    assert found[0].config.block_b < 16


def test_unfit_says_what_is_too_much() -> None:
    assert unfit([(0, 1000), (0, 2000)], 2000) is None
    assert "spills 4" in str(unfit([(0, 10), (4, 10)], 2000))
    assert "3000 bytes of shared memory" in str(unfit([(0, 3000)], 2000))


def test_a_table_survives_the_disk_and_serves_batches_that_are_near(tmp_path: Path) -> None:
    table = Table()
    table.add("H100", torch.float16, "key", 64, Winner(Config("streamed", block_k=16), 12.5))
    table.add("H100", torch.float16, "key", 1, Winner(None, 1.5))
    file = table.store(tmp_path / "deep" / "tune.json")
    read = Table.load(file)
    assert read == table
    assert read.find("H100", torch.float16, "key", 100) == Winner(Config("streamed", block_k=16), 12.5)
    assert read.find("H100", torch.float16, "key", 16) is None
    assert read.find("H100", torch.float32, "key", 64) is None
    assert len(read.all("H100", torch.float16, "key")) == 2


@pytest.mark.parametrize("text", ["", "[1]", "{", json.dumps([{"device": "x"}])])
def test_a_damaged_table_is_left_out_of_account_and_said_so(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tune.json"
    file.write_text(text)
    assert Table.load(file) == Table()
    assert str(file) in caplog.text


def test_a_strategy_can_be_forced_for_a_while() -> None:
    forward = program("lstm", 8)
    with force("streamed"):
        assert configure(forward, torch.float32, torch.device("cpu"), 4, "ieee").strategy == "streamed"
    assert configure(forward, torch.float32, torch.device("cpu"), 4, "ieee").strategy == "resident"
    _configure_forced.cache_clear()
