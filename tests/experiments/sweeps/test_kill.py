"""Sweeps that are killed in the middle and started again: every job finishes once, by every launcher."""

import os
import signal
from pathlib import Path

import pytest
from sweeping import Start, wait_until

from rnnlab.experiments.sweeps.folder import Job, Sweep, read_sweep

pytestmark = pytest.mark.slow


def finished(sweep: Sweep) -> list[Job]:
    return [job for job in sweep.jobs if job.state == "finished"]


def began(sweep: Sweep) -> dict[str, float | None]:
    return {job.id: job.status.began for job in finished(sweep)}


LAUNCHERS = {
    "in_process": [],
    "joblib": ["launcher=joblib", "workers=2"],
    "submitit": ["launcher=submitit", "workers=2", "submitit.cluster=local"],
    "ray": ["launcher=ray", "workers=2"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_twelve_jobs_killed_in_the_middle_and_started_again(
    launcher: str, slow_job: list[str], tmp_path: Path, start: Start
) -> None:
    if launcher in ("submitit", "ray"):
        pytest.importorskip(launcher)
    folder = tmp_path / "sweep"
    words = [*slow_job, "cell=rnn,gru", "seed=range(6)", f"sweep_dir={folder}", *LAUNCHERS[launcher]]
    process = start(*words)
    wait_until(
        folder,
        lambda sweep: (
            len(finished(sweep)) >= 3
            and any(job.state == "running" and job.status.step > 20 for job in sweep.jobs)
        ),
        process,
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = began(read_sweep(folder))
    assert 3 <= len(before) < 12

    again = start(*words)
    assert again.wait() == 0, (tmp_path / "start-1.log").read_text(encoding="utf-8")
    sweep = read_sweep(folder)
    assert len(sweep.jobs) == len(finished(sweep)) == 12
    assert not sweep.others
    assert not sweep.damaged
    after = began(sweep)
    assert {name: after[name] for name in before} == before  # none ran twice
    assert all(job.status.attempts == 1 for job in sweep.jobs)
    for job in sweep.jobs:
        assert set(job.metrics) >= {"val/accuracy", "test/accuracy"}
        assert (job.run / "metrics.csv").read_text(encoding="utf-8").count("\n") > 8

    third = start(*words)
    assert third.wait() == 0
    assert began(read_sweep(folder)) == after


def test_a_job_that_goes_on_comes_to_what_it_would_have(
    slow_job: list[str], tmp_path: Path, start: Start
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    words = [*slow_job, "cell=gru", "seed=3,4", "task.dropout=0.5"]
    assert start(*words, f"sweep_dir={straight}").wait() == 0
    process = start(*words, f"sweep_dir={broken}")
    wait_until(broken, lambda sweep: any(job.status.step > 60 for job in sweep.jobs), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert start(*words, f"sweep_dir={broken}").wait() == 0
    one, other = read_sweep(straight), read_sweep(broken)
    assert [job.id for job in one.jobs] == [job.id for job in other.jobs]
    for left, right in zip(one.jobs, other.jobs, strict=True):
        assert left.metrics == right.metrics


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launcher", ["in_process", "joblib"])
def test_a_signal_leaves_everything_resumable(
    launcher: str, signum: int, slow_job: list[str], tmp_path: Path, start: Start
) -> None:
    folder = tmp_path / "sweep"
    words = [*slow_job, "cell=gru", "seed=range(3)", f"sweep_dir={folder}", *LAUNCHERS[launcher]]
    process = start(*words)
    wait_until(
        folder,
        lambda sweep: any(job.state == "running" and job.status.step > 5 for job in sweep.jobs),
        process,
    )
    os.killpg(process.pid, signum)
    assert process.wait() == 128 + signum, (tmp_path / "start-0.log").read_text(encoding="utf-8")
    states = [job.state for job in read_sweep(folder).jobs]
    assert "interrupted" in states
    assert "running" not in states
    assert start(f"sweep_dir={folder}").wait() == 0, (tmp_path / "start-1.log").read_text(encoding="utf-8")
    assert len(finished(read_sweep(folder))) == 3
    assert all(job.status.attempts == 1 for job in read_sweep(folder).jobs)
