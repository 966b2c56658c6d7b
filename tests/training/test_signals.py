"""Signals end a run after its step, with everything saved and no worker left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rnnlab.training.signals import Stopped, StopSignals, requeue

SCRIPT = """
import sys, time
import lightning.pytorch as pl
from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

class Slow(pl.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3:
            print("step", flush=True)
            time.sleep({sleep})

sys.exit(train(compose({words!r}).config, callbacks=[Slow()], console=True).exit_status)
"""


def start(words: list[str], sleep: float, **environment: str) -> subprocess.Popen[str]:
    """A run in a process group of its own, that tells of its third step, and rests after it."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(words=words, sleep=sleep)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def wait_for_step(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            return
    raise AssertionError(process.stderr.read() if process.stderr else "")


def group_members(group: int) -> list[int]:
    """The processes of a group that are not yet gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("signum", "to_group", "more", "said"),
    [
        (signal.SIGTERM, True, ["data.num_workers=2"], "go on with: rnnlab train resume="),
        (signal.SIGUSR1, False, [], "job 7_2 is back in the queue"),
    ],
    ids=["SIGTERM to run and workers", "SIGUSR1 under SLURM"],
)
def test_a_signal_saves_and_ends_with_its_number(
    signum: signal.Signals, to_group: bool, more: list[str], said: str, small: list[str], tmp_path: Path
) -> None:
    control = tmp_path / "bin" / "scontrol"
    control.parent.mkdir()
    control.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n', encoding="utf-8")
    control.chmod(0o755)
    words = [*small, *more, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=100000"]
    slurm = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    path = f"{control.parent}:{os.environ['PATH']}"
    process = start(words, 0.3, PATH=path, **(slurm if signum == signal.SIGUSR1 else {}))
    try:
        wait_for_step(process)
        assert not to_group or len(group_members(process.pid)) >= 3
        os.killpg(process.pid, signum) if to_group else process.send_signal(signum)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + signum, err
    assert said in out
    assert not (tmp_path / "run" / "error.txt").exists()
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] >= 3
    assert group_members(process.pid) == []
    if signum == signal.SIGUSR1:
        assert (tmp_path / "asked").read_text(encoding="utf-8").split() == ["requeue", "7_2"]


@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_signal_or_a_kill_ends_run_and_workers_at_once(
    last: signal.Signals, small: list[str], tmp_path: Path
) -> None:
    words = [*small, "data.num_workers=2", f"run_dir={tmp_path / 'run'}"]
    process = start(words, 600)
    try:
        wait_for_step(process)
        assert len(group_members(process.pid)) >= 3
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "a second signal ends at once" not in process.stderr.readline():
            pass
        process.send_signal(last)
        process.wait(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (143 if last == signal.SIGTERM else -signal.SIGKILL)
    for _ in range(200):
        if not group_members(process.pid):
            break
        time.sleep(0.05)
    assert group_members(process.pid) == []
    process.communicate()


def test_outside_training_signals_raise_and_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with StopSignals(), pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_without_scontrol_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue().startswith("job 5 could not be requeued: ")
