"""Launchers: what each job's process is given, what SLURM is told, and a death that ends nothing else."""

import errno
import os
import signal
import socket
from pathlib import Path

import pytest
from sweeping import Start, wait_until

from rnnlab.experiments.reports.gather import command
from rnnlab.experiments.sweeps.command import sweep
from rnnlab.experiments.sweeps.folder import read_sweep
from rnnlab.experiments.sweeps.job import Order, is_disk_full, is_distributed
from rnnlab.experiments.sweeps.launchers import (
    Joblib,
    PreemptibleJob,
    Ray,
    Submitit,
    make_launcher,
    share_gpus,
    visible_gpus,
)
from rnnlab.experiments.sweeps.settings import SweepSettings
from rnnlab.training.trust import allowing
from rnnlab.training.validate import ConfigError


def test_a_gpu_serves_one_job_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,7")
    assert visible_gpus() == ["4", "5", "7"]
    launcher = make_launcher(SweepSettings(launcher="joblib"), tmp_path)
    assert isinstance(launcher, Joblib)
    assert launcher.slots == 3
    found = [launcher.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert found == ["4", "5", "7"]


def test_a_job_gets_as_many_gpus_as_it_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert share_gpus(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    with pytest.raises(ValueError, match="this machine has 1"):
        share_gpus(["0"], 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="2 GPUs, 1 a job, serve 2 workers"):
        make_launcher(SweepSettings(launcher="joblib", workers=3), tmp_path)


def test_no_gpu_is_hidden_where_there_is_one_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launcher = make_launcher(SweepSettings(launcher="joblib", workers=2), tmp_path)
    assert isinstance(launcher, Joblib)
    assert "CUDA_VISIBLE_DEVICES" not in launcher.environment(0)


def test_cores_are_divided_among_workers() -> None:
    launcher = Joblib(workers=2, threads=3)
    assert launcher.environment(0)["OMP_NUM_THREADS"] == "3"


def test_what_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    told = tmp_path / "told.sh"
    stand_in = tmp_path / "bin" / "sbatch"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\ncp "$1" {told}\necho Submitted batch job 4242\n', encoding="utf-8")
    stand_in.chmod(0o755)
    (stand_in.parent / "srun").symlink_to(stand_in)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    parameters = {"slurm_partition": "gpu", "timeout_min": 30, "gpus_per_node": 1, "cpus_per_task": 4}
    launcher = Submitit(tmp_path / "submitit", 8, parameters)
    launcher.submit(Order(folder=str(tmp_path / "jobs" / "a")))
    script = told.read_text(encoding="utf-8")
    for line in (
        "--partition=gpu",
        "--time=30",
        "--gpus-per-node=1",
        "--cpus-per-task=4",
        "--job-name=rnnlab",
        "--signal=USR2@90",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}" in script
    assert "submitit.core._submit" in script


def test_a_misspelt_parameter_of_the_scheduler_is_told_by_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match=r"^submitit.slurm_partiton: .* mean submitit.slurm_partition\?$"):
        Submitit(tmp_path, 1, {"cluster": "local", "slurm_partiton": "gpu"})
    with pytest.raises(ValueError, match=r"^submitit.timeout_mins: .* mean submitit.timeout_min\?$"):
        Submitit(tmp_path / "sweep" / "submitit", 1, {"cluster": "local", "timeout_mins": 3})
    assert not (tmp_path / "sweep").exists()


def test_a_scheduler_that_is_not_there_leaves_nothing(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no sbatch on this machine"):
        sweep([*small, "seed=1,2", "launcher=submitit", f"sweep_dir={tmp_path / 'sweep'}"])
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer_is_told_at_once(scheme: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"ray_address={address}: no cluster answers there: .*refused"):
            Ray(1, 1, address=address)


def test_a_preempted_job_is_put_back_as_it_was() -> None:
    pytest.importorskip("submitit")
    again = PreemptibleJob(Order(folder="a")).checkpoint()
    assert again.function.order == Order(folder="a")


def test_a_worker_trusts_what_the_user_named_and_nothing_else(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("joblib")
    module = "parts_of_the_users_own"
    source = "import torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n"
    (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = [*small, "optim=sgd", f"optim._target_={module}.Mine", "cell=rnn", "trainer.max_epochs=1"]
    words += ["launcher=joblib", "workers=1", f"sweep_dir={tmp_path / 'sweep'}"]
    with pytest.raises(ConfigError, match=f"add allow={module}"):
        sweep(words)
    with allowing(module):
        assert sweep(words) == 0
    found = read_sweep(tmp_path / "sweep")
    (job,) = found.jobs
    assert job.status.pid != os.getpid()
    assert command(job, found.allowed).endswith(f" allow={module}")
    with pytest.raises(ConfigError, match=f"add allow={module}"):  # the record is no permission
        sweep([f"sweep_dir={tmp_path / 'sweep'}"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'rnnlab\[ray\]'"):
        make_launcher(SweepSettings(launcher="ray"), tmp_path)


@pytest.mark.parametrize(
    ("trainer", "several"),
    [
        ({"devices": 1}, False),
        ({"devices": "auto"}, False),
        ({"devices": 2}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": [3]}, False),
        ({"devices": -1}, True),
        ({"devices": 1, "num_nodes": 2}, True),
    ],
)
def test_jobs_of_several_processes_are_known(trainer: dict[str, object], several: bool) -> None:
    assert is_distributed(trainer) is several


def test_a_full_disk_is_found_behind_other_errors() -> None:
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(error)
    assert not is_disk_full(ValueError())


@pytest.mark.slow
def test_a_worker_that_dies_takes_no_other_job_with_it(
    slow_job: list[str], tmp_path: Path, start: Start
) -> None:
    folder = tmp_path / "sweep"
    words = [*slow_job, "cell=gru", "seed=range(3)", "launcher=joblib", "workers=2", f"sweep_dir={folder}"]
    process = start(*words)
    now = wait_until(
        folder,
        lambda sweep: sum(job.state == "running" and job.status.step > 5 for job in sweep.jobs) == 2,
        process,
    )
    victim, other, *_ = (job for job in now.jobs if job.state == "running")
    assert victim.status.pid is not None
    os.kill(victim.status.pid, signal.SIGKILL)
    assert process.wait() == 0, (tmp_path / "start-0.log").read_text(encoding="utf-8")
    after = {job.id: job for job in read_sweep(folder).jobs}
    assert all(job.state == "finished" for job in after.values())
    assert after[other.id].status.began == other.status.began
    assert after[victim.id].status.began != victim.status.began


@pytest.mark.slow
def test_preemption_requeues_and_goes_on(slow_job: list[str], tmp_path: Path, start: Start) -> None:
    pytest.importorskip("submitit")
    folder = tmp_path / "sweep"
    words = [*slow_job, "cell=gru", "seed=1", "launcher=submitit", "submitit.cluster=local"]
    process = start(*words, "trainer.max_epochs=20", f"sweep_dir={folder}")
    now = wait_until(folder, lambda sweep: any(job.status.step > 40 for job in sweep.jobs), process)
    assert now.jobs[0].status.pid is not None
    os.kill(now.jobs[0].status.pid, signal.SIGUSR2)
    assert process.wait() == 0, (tmp_path / "start-0.log").read_text(encoding="utf-8")
    (job,) = read_sweep(folder).jobs
    assert (job.state, job.status.attempts) == ("finished", 1)
    assert job.status.pid != now.jobs[0].status.pid
    assert job.status.epoch == 20
    steps = [
        line.split(",")[0] for line in (job.run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    ]
    assert len(steps) == len(set(steps))
