"""A sweep of 18 jobs as its folder would be, written by the sweep's own functions."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnnlab.experiments.sweeps.folder import Job, Status, write_about, write_status

BASE = {"rnn": 0.70, "gru": 0.84, "lstm": 0.86}
PARAMETERS = {"rnn": 4000, "gru": 12000, "lstm": 16000}


def accuracy(cell: str, layers: int, seed: int) -> float:
    return BASE[cell] + (-0.02 if cell == "rnn" else 0.02) * layers + (seed - 1) * 0.01


def add_job(folder: Path, number: int, point: dict[str, Any], status: Status) -> Job:
    """One job with a learning curve of eight points."""
    words = [f"{key}={value}" for key, value in point.items()]
    job = Job(folder / "jobs" / f"{number:012x}", f"{number:012x}", number, words, point, "c0de")
    job.write()
    write_status(job.folder, status)
    job.run.mkdir()
    rows = ["step,epoch,train/loss,val/loss,val/accuracy"]
    end = status.metrics.get("test/accuracy", 0.6)
    for step in range(1, 9):
        done = 1 - math.exp(-step / 2.5)
        rows.append(f"{40 * step},{step},{1 - done},{1.1 - done},{0.5 + (end - 0.5) * done}")
    (job.run / "metrics.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return job


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "sweep", broken: bool = True, seeds: int = 3) -> Path:
        folder = tmp_path / name
        ids = []
        for number, (cell, layers, seed) in enumerate(
            (cell, layers, seed) for cell in BASE for layers in (1, 2) for seed in range(seeds)
        ):
            value = accuracy(cell, layers, seed)
            metrics = {"test/accuracy": value, "test/loss": 1.2 - value}
            status = Status("finished", 1, 0.0, 1.0, 5.0 * layers + seed, metrics, layers * PARAMETERS[cell])
            if broken and number == 4:
                status = Status("failed", 2, seconds=3.0, reason="RuntimeError: the loss is nan in epoch 2")
            if broken and number == 8:
                status = Status("running", 1, seconds=3.0)
            if broken and number == 9:
                status = Status("pending")
            point = {"cell": cell, "model.num_layers": layers, "seed": seed}
            ids.append(add_job(folder, number, point, status).id)
        objectives = [{"metric": "test/accuracy", "mode": "max"}]
        write_about(folder, {"command": "rnnlab sweep", "jobs": ids, "objectives": objectives})
        if broken:
            (folder / "jobs" / ids[13] / "status.json").write_text('{"state": "finis', encoding="utf-8")
            add_job(folder, 99, {"cell": "old"}, Status("finished", 1, metrics={"test/accuracy": 1.0}))
        return folder

    return make
