"""The GPU benchmark without a GPU: it says so; and its parts, with the interpreter in place of a GPU."""

from pathlib import Path

import pytest
import rnnlab_kernels.triton as triton_backend
import torch
from rnnlab_benchmarks import gpu, tune
from rnnlab_benchmarks.floors import GPUS, floors
from rnnlab_benchmarks.gpu import Case, Measured, Peaks, draw, measure, measure_peaks, roofline, table_row
from rnnlab_benchmarks.kernels import programs
from rnnlab_kernels.program import contract
from rnnlab_kernels.triton.choice import Device
from rnnlab_kernels.triton.table import Table

from rnnlab import cells, cli
from rnnlab.recurrence import operators
from rnnlab.recurrence.compiler import compile_cell

CPU = torch.device("cpu")


@pytest.fixture
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(operators.executors, "cpu", triton_backend)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [["bench", "gpu"], ["tune"]])
def test_without_a_gpu_one_line_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "needs a GPU" in said.err


@pytest.mark.usefixtures("_interpreted")
def test_a_case_is_checked_and_measured() -> None:
    case = Case("lstm", H=4, B=2, T=2, dtype="float32", L=2, bidirectional=True, packed=True)
    names = ["eager", "resident", "cudnn", "flashrnn", "haste"]
    row = measure(case, CPU, names, Peaks(0.1, 0.01), rounds=1)
    assert set(row.training_us) == set(row.inference_us) == {"eager", "resident", "cudnn"}, row.refused
    assert all(time_us > 0 for time_us in row.training_us.values())
    assert "not installed" in row.refused["haste"]
    assert "resident" in table_row(row)


@pytest.mark.usefixtures("_interpreted")
def test_a_wrong_subject_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(gpu.SUBJECTS["eager"]):  # type: ignore[name-defined,misc]
        def _forward(self, x: torch.Tensor) -> torch.Tensor:
            return super()._forward(x) * 1.01

    monkeypatch.setitem(gpu.SUBJECTS, "wrong", Wrong)
    row = measure(Case("gru", H=4, B=2, T=2, dtype="float32"), CPU, ["wrong"], Peaks(0.1, 0.01), rounds=1)
    assert not row.training_us and row.refused["wrong"].startswith("wrong")


def test_a_roofline_grows_with_the_work_and_is_bound_by_the_peaks() -> None:
    case = Case("lstm", H=64, B=8, T=4)
    assert roofline(case, "train", Peaks(1, 1)) > roofline(case, "infer", Peaks(1, 1)) > 0
    # Bound by operations: 2 x 64 x 256 for each of two matmuls and each row, and pointwise work on top.
    slow = roofline(case, "infer", Peaks(1e-6, 1e6))
    assert 1.0 <= slow / (8 * 2 * 2 * 64 * 256) <= 1.05


def test_peaks_are_measured() -> None:
    peaks = measure_peaks(CPU, torch.float32, size=64, megabytes=1)
    assert peaks.tflops > 0 and peaks.bandwidth_tb_s > 0


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    rows = [Measured(Case("lstm", H=h), "X", {"auto": h / 9}, {"auto": h / 3}) for h in (32, 64)]
    draw(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_interpreted")
def test_tuning_finds_and_keeps_winners(capsys: pytest.CaptureFixture[str]) -> None:
    table, device = Table(), Device("here", "sm_80", 32, 163 * 1024)
    tune.tune(table, "gru", 4, torch.float32, 2, 2, CPU, device, rounds=1)
    assert len(table.winners) == 3
    assert all(winner.time_us > 0 for winner in table.winners.values())
    assert capsys.readouterr().out.count("gru H=4 B=2") == 3


@pytest.mark.parametrize("name", ["gru_reset_before", "peephole_lstm", "mgu", "lem"])
def test_contractions_are_tuned_at_the_widths_that_they_have(name: str) -> None:
    compiled = compile_cell(cells.find(name)(4, 5), torch.randn(2, 3, 4))
    derivative = compiled.derivative()
    found = tune.factors(derivative, torch.float32, 3, 2, CPU)
    read = [operand for c, _, _ in found for operand in (c.left, c.right) if operand is not None]
    assert any(operand.width is not None for operand in read), "no contraction reads a part of a sequence"
    for contraction, left, right in found:
        item = compiled.program.inputs[contraction.parameter]
        shape = contract(contraction, left, right).shape
        if contraction.kind == "outer":
            assert shape == (item.rows, item.width)
        else:
            assert contraction.start + shape[0] <= item.width


def test_floors_know_where_weights_no_longer_fit() -> None:
    a100 = GPUS[0]
    small, large = (floors(programs("lstm", size)[0], torch.bfloat16, a100, 64) for size in (64, 512))
    assert small["resident"].bound == "shared memory" and large["resident"].time_us is None
    assert small["streamed"].time_us < small["stepwise"].time_us == 3.0
    assert large["streamed"].time_us > large["stepwise"].time_us
    # 4 gates x 64 x 64 weights of 2 bytes, 128 bytes a clock at 1.41 GHz
    assert small["resident"].time_us == pytest.approx(4 * 64 * 64 * 2 / 128 / 1410)
