"""Runs in circumstances that are not those of a developer's machine."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rnnlab.training.continuation import alone_in, find_run, remember_latest

SHORT = ["trainer.max_steps=3", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]


def rnnlab(
    words: list[str], folder: Path, environment: dict[str, str], before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rnnlab", *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        preexec_fn=before,
    )


def one_cpu() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def test_no_home_no_locale_no_terminal_one_cpu_too_many_workers_and_a_name_that_is_not_ascii(
    small: list[str], reviews: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "zwei Wörter & ein 'Ünï☃'"
    folder.mkdir()
    shutil.copy(reviews, folder / "fïlme 1.tsv")
    words = [*small, *SHORT, "data.num_workers=64", "run_dir='läufe/der erste'"]
    words.append("data.source='fïlme 1.tsv'")
    bare = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent"}
    done = rnnlab(["train", *words], folder, bare, one_cpu)
    assert done.returncode == 0, done.stderr
    assert (folder / "läufe" / "der erste" / "checkpoints" / "last.ckpt").is_file()
    assert "Traceback" not in done.stderr


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))


def test_a_disk_that_takes_no_more_is_one_clear_message(small: list[str], tmp_path: Path) -> None:
    words = [*small, *SHORT, f"run_dir={tmp_path / 'run'}", "callbacks=checkpoint"]
    done = rnnlab(["train", *words], tmp_path, dict(os.environ), small_files)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("rnnlab: error: ") and last.endswith("last.ckpt: file too large")
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert left <= {"manifest.json"}


def test_a_folder_that_cannot_be_written_is_one_clear_message(small: list[str], tmp_path: Path) -> None:
    done = rnnlab(["train", *small, "run_dir=/proc/rnnlab/run"], tmp_path, dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith("rnnlab: error: /proc/rnnlab")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_latest_run_is_the_last_one_whatever_the_clock_says(tmp_path: Path) -> None:
    for name, time in (("20300101-000000-aaaa", 2e9), ("20200101-000000-bbbb", 1e9)):
        folder = tmp_path / "runs" / "name" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("run_dir: x\n", encoding="utf-8")
        os.utime(folder, (time, time))
        remember_latest(folder, tmp_path / "runs")
    assert find_run("latest", tmp_path / "runs").name == "20200101-000000-bbbb"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="resume=latest: there is no run under"):
        find_run("latest", tmp_path)
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        find_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        find_run(tmp_path / "none")


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ValueError, match="another process trains in this folder"):
        alone_in(tmp_path).__enter__()
    with alone_in(tmp_path):
        pass
