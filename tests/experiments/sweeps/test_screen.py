"""What a sweep says: a table in a terminal, a line an event in a file."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from rnnlab.experiments.sweeps.folder import Job, Status, write_status
from rnnlab.experiments.sweeps.screen import Screen, clock, print_end


def make_job(folder: Path, seed: int, state: str = "finished", value: float = 0.5) -> Job:
    status = Status(epoch=2, epochs=5, step=40, seconds=61.0, metrics={"val/loss": value}, values=[value])
    job = Job(folder / str(seed), str(seed), seed, [], {"cell": "gru", "seed": seed}, "", status=status)
    job.folder.mkdir(parents=True)
    write_status(job.folder, status)
    job.state = state  # type: ignore[assignment]
    return job


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_of_the_whole_sweep(terminal: bool, tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    with Screen(3, "val/loss", console) as screen:
        first, second = make_job(tmp_path, 1), make_job(tmp_path, 2, "failed")
        second.status.reason = "ValueError: no"
        screen.skipped(make_job(tmp_path, 0))
        screen.started(first)
        if terminal:
            assert screen._live is not None
            screen._live.refresh()
        screen.finished(first)
        screen.failed(second)
    told = out.getvalue()
    assert ("1 of 3 finished" in told) == terminal
    assert ("epoch 2/5  step 40" in told) == terminal
    assert "[2/3] finished  cell=gru seed=1  val/loss 0.5000  1:01 min" in told
    assert "[3/3] failed    cell=gru seed=2  ValueError: no" in told


def test_the_end_shows_the_best_first_and_why_others_failed(tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, seed, value=value) for seed, value in enumerate((0.3, 0.1, float("nan")))]
    jobs.append(make_job(tmp_path, 9, "failed"))
    jobs[-1].status.reason = "it broke"
    out = io.StringIO()
    print_end(jobs, [("val/loss", "min")], tmp_path, Console(file=out, width=100))
    told = out.getvalue()
    assert told.index("seed=1") < told.index("seed=0") < told.index("seed=2")
    assert "it broke" in told
    assert "3 finished, 1 failed" in told
    assert f"rnnlab report {tmp_path}" in told
    out = io.StringIO()
    print_end(jobs[-1:], [], tmp_path, Console(file=out, width=100))
    assert "it broke" in out.getvalue() and "rnnlab report" not in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (59, "59.0 s"), (61, "1:01 min"), (3671, "1:01:11")]
)
def test_seconds_as_a_person_reads_them(seconds: float, words: str) -> None:
    assert clock(seconds).startswith(words)
