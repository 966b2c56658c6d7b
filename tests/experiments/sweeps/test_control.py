"""Sweeps in this process: what is done, skipped, tried again and refused, and that jobs do not meet."""

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rnnlab import cli
from rnnlab.experiments.sweeps.command import sweep
from rnnlab.experiments.sweeps.folder import lock, read_sweep
from rnnlab.experiments.sweeps.job import Order
from rnnlab.training.trust import allowing
from rnnlab.training.validate import ConfigError


@pytest.fixture(scope="module")
def done(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two jobs."""
    folder = tmp_path_factory.mktemp("sweeps") / "done"
    assert sweep([*small, "cell=rnn,gru", f"sweep_dir={folder}"]) == 0
    return folder


def states(folder: Path) -> dict[str, str]:
    return {job.label: job.state for job in read_sweep(folder).jobs}


def test_each_job_leaves_the_records_of_a_run(done: Path) -> None:
    found = read_sweep(done)
    assert states(done) == {"cell=rnn": "finished", "cell=gru": "finished"}
    assert found.objectives == [("val/accuracy", "max")]
    for job in found.jobs:
        assert {"config.yaml", "overrides.yaml", "environment.yaml", "metrics.csv"} <= {
            path.name for path in job.run.iterdir()
        }
        assert job.status.parameters
        assert job.status.values == [job.status.best["val/accuracy"]]
        assert {"val/accuracy", "test/accuracy"} <= set(job.metrics)
        assert "epoch 2/2" in job.log.read_text(encoding="utf-8") or job.log.stat().st_size > 0


def test_a_second_start_says_which_is_which_and_runs_only_what_is_new(
    done: Path, small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {job.id: job.status for job in read_sweep(done).jobs}
    words = [*small, "cell=rnn,gru,ugrnn", f"sweep_dir={done}"]
    assert sweep(words, dry_run=True) == 0
    told = capsys.readouterr().out
    assert "3 jobs: 2 finished, stays, 1 new" in told
    assert len(read_sweep(done).jobs) == 2
    assert sweep(words) == 0
    after = read_sweep(done)
    assert len(after.jobs) == 3
    assert {name: job.status for job in after.jobs if (name := job.id) in before} == before
    assert "[3/3] finished  cell=ugrnn" in capsys.readouterr().out


def test_the_folder_alone_is_enough_to_go_on(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep([f"sweep_dir={done}"]) == 0
    assert "finished" in capsys.readouterr().out


def test_a_dry_run_makes_nothing(small: list[str], tmp_path: Path) -> None:
    assert sweep([*small, "seed=1,2", f"sweep_dir={tmp_path / 'new'}"], dry_run=True) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_failed_job_ends_nothing_and_is_tried_again(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*small, "cell=rnn", "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"]
    words += ["callbacks.stop.monitor=nothing,val/loss", f"sweep_dir={tmp_path / 'sweep'}"]
    assert sweep(words) == 1
    one, other = read_sweep(tmp_path / "sweep").jobs
    assert (one.state, one.status.attempts, other.state) == ("failed", 2, "finished")
    assert "nothing" in str(one.status.reason)
    assert "Traceback" in one.log.read_text(encoding="utf-8")
    assert (one.folder / "failed-1" / "error.txt").is_file()
    assert "[2/2] failed" in capsys.readouterr().out
    assert sweep([*words, "retries=0"]) == 1
    assert "1 failed, stays (retries=0), 1 finished, stays" in capsys.readouterr().out
    assert [job.status for job in read_sweep(tmp_path / "sweep").jobs] == [one.status, other.status]


STOPS_ITSELF = """
import os
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Stop(Callback):
    def __init__(self, signum: int) -> None:
        self.signum, self.once = signum, Path(__file__).with_suffix(".once")

    def on_test_start(self, *_) -> None:
        if not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), self.signum)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_job_is_tested_ends_the_sweep_as_well(
    signum: int,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = f"stops_itself_{int(signum)}"
    (tmp_path / f"{module}.py").write_text(STOPS_ITSELF, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "sweep"
    words = [*small, "cell=rnn,gru", "trainer.max_epochs=1", f"callbacks.stop._target_={module}.Stop"]
    words += [f"callbacks.stop.signum={int(signum)}"]
    with allowing(module):
        assert sweep([*words, f"sweep_dir={folder}"]) == 128 + signum
        assert set(states(folder).values()) == {"interrupted", "pending"}
        assert f"sweep_dir={folder} allow={module}" in capsys.readouterr().out
        assert sweep([f"sweep_dir={folder}"]) == 0
    assert set(states(folder).values()) == {"finished"}


def test_what_was_missing_may_come_later(small: list[str], reviews: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.tsv"
    words = [*small, "cell=rnn", f"data.source={late}", f"sweep_dir={tmp_path / 'sweep'}"]
    assert sweep(words) == 1
    (job,) = read_sweep(tmp_path / "sweep").jobs
    assert (job.state, job.status.attempts) == ("failed", 1)  # the same again would come to the same
    shutil.copy(reviews, late)
    assert sweep(words) == 0
    (job,) = read_sweep(tmp_path / "sweep").jobs
    assert (job.state, job.status.attempts) == ("finished", 2)


def test_fail_fast_ends_the_sweep_at_the_first_failure(
    small: list[str], reviews: Path, tmp_path: Path
) -> None:
    words = [*small, f"data.source={tmp_path / 'none.tsv'},{reviews}", "fail_fast=true"]
    words.remove(f"data.source={reviews}")
    assert sweep([*words, f"sweep_dir={tmp_path / 'sweep'}"]) == 1
    assert [job.state for job in read_sweep(tmp_path / "sweep").jobs] == ["failed", "pending"]


def test_two_sweeps_in_one_folder_are_one_too_many(done: Path) -> None:
    with (
        lock(done / "lock", "pid 7"),
        pytest.raises(ValueError, match=r"another sweep is at work here \(pid 7\)"),
    ):
        sweep([f"sweep_dir={done}"])


def test_a_start_without_a_word_of_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"nothing is swept: give a key several values, such as cell=rnn,gru"
    ):
        sweep([])
    with pytest.raises(ValueError, match=r"there is no sweep in .*nowhere to go on with"):
        sweep([f"sweep_dir={tmp_path / 'nowhere'}", "launcher=joblib"])
    assert not (tmp_path / "nowhere").exists()


def test_a_full_disk_is_told_in_one_line(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(order: Order) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rnnlab.experiments.sweeps.launchers.perform", full)
    assert cli.main(["sweep", *small, "seed=1,2", f"sweep_dir={tmp_path / 'sweep'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith(
        "sweep: no space left on the disk: the sweep ends here; start it again when there is room"
    )
    assert [job.state for job in read_sweep(tmp_path / "sweep").jobs] == ["pending", "pending"]


def test_a_folder_of_something_else_is_left_alone(small: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else"):
        sweep([*small, "seed=1,2", f"sweep_dir={tmp_path}"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_an_early_end_has_left_is_no_something_else(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("lock", "study.db", ".sweep.yaml-x1y2"):
        (tmp_path / name).touch()
    (tmp_path / "submitit").mkdir()
    assert sweep([*small, "seed=1,2", f"sweep_dir={tmp_path}"], dry_run=True) == 0
    assert "2 jobs: 2 new" in capsys.readouterr().out


def test_a_damaged_job_is_moved_aside_and_starts_again(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    hurt, *rest = read_sweep(folder).jobs
    (hurt.folder / "status.json").write_text("{", encoding="utf-8")
    assert sweep([f"sweep_dir={folder}"]) == 0
    assert "damaged" in capsys.readouterr().out
    found = read_sweep(folder)
    assert all(job.state == "finished" for job in found.jobs)
    assert (folder / "jobs" / f"{hurt.id}.damaged-1" / "run").is_dir()
    assert [job.status for job in found.jobs[1:]] == [job.status for job in rest]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["model.hiden_size=1,2"], "did you mean model.hidden_size"),
        (["seed=range(0)"], "empty range"),
        (["seed=1,2", "serach=random", "trails=3"], r"did you mean search\?\ntrails=3: .* mean trials"),
        (["cell=rnn,gruu"], "did you mean cell=gru"),
        (["optim.weight_decay=-1,0"], "weight_decay=-1"),
        (["seed=1,2", "metric=val/acuracy", "mode=max"], "did you mean val/accuracy"),
        (["seed=1,2", "metric=val/frobnication"], "give mode=min or mode=max"),
        (["seed=1,2", "launcher=submitit"], "there is no sbatch"),
        (["seed=1,2", "launcher=submitit", "submitit.cluster=local", "submitit.partitoin=x"], "partitoin"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(
    words: list[str], part: str, small: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(ValueError, match=part):
        sweep([*small, *words, f"sweep_dir={folder}"])
    assert not (folder / "jobs").exists()


def test_a_job_does_not_feel_the_one_before(small: list[str], tmp_path: Path) -> None:
    common = [*small, "cell=gru", "task.dropout=0.5"]
    assert sweep([*common, "seed=7", f"sweep_dir={tmp_path / 'alone'}"]) == 0
    assert sweep([*common, "seed=3,7", f"sweep_dir={tmp_path / 'second'}"]) == 0
    (alone,) = read_sweep(tmp_path / "alone").jobs
    second = read_sweep(tmp_path / "second").jobs[1]
    assert alone.id == second.id
    assert alone.metrics == second.metrics


def test_a_sweep_leaves_its_process_as_it_found_it(small: list[str], tmp_path: Path) -> None:
    def state() -> dict[str, object]:
        return {
            "environment": dict(os.environ),
            "threads": torch.get_num_threads(),
            "python": random.getstate(),
            "numpy": str(np.random.get_state()),  # noqa: NPY002
            "torch": torch.get_rng_state().tolist(),
            "logging": (logging.root.level, logging.root.handlers[:]),
            "warnings": warnings.filters[:],
            "grad": torch.is_grad_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "folder": os.getcwd(),
        }

    before = state()
    words = [*small, "seed=1,2", "trainer.deterministic=true", "threads=2", f"sweep_dir={tmp_path / 'sweep'}"]
    assert sweep(words) == 0
    assert state() == before


def test_changed_code_makes_other_jobs_unless_any_code_will_do(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    monkeypatch.setattr("rnnlab.experiments.sweeps.version._own", lambda: "changed")
    before = {job.id: job.status for job in read_sweep(folder).jobs}
    assert sweep([f"sweep_dir={folder}", "code=any"]) == 0
    assert {job.id: job.status for job in read_sweep(folder).jobs} == before
    capsys.readouterr()
    assert sweep([f"sweep_dir={folder}", "code=same"], dry_run=True) == 0
    assert " new" in capsys.readouterr().out


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB, where the tests may make one."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_and_loses_nothing(small: list[str], tiny_disk: Path) -> None:
    folder = tiny_disk / "sweep"
    words = [*small, "callbacks=checkpoint", "cell=gru", "seed=range(6)", f"sweep_dir={folder}"]
    with pytest.raises(OSError, match="no space left"):
        sweep(words)
    before = read_sweep(folder)
    finished = {job.id: job.status for job in before.jobs if job.state == "finished"}
    assert len(finished) < 6
    subprocess.run(["mount", "-o", "remount,size=40m", str(tiny_disk)], check=True)
    assert sweep(words) == 0
    after = read_sweep(folder)
    assert all(job.state == "finished" for job in after.jobs)
    assert {job.id: job.status for job in after.jobs if job.id in finished} == finished


def test_refusals_are_the_users(small: list[str]) -> None:
    with pytest.raises(ConfigError):
        sweep([*small, "retries=-1"])
