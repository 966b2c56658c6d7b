"""A sweep of jobs of a second, and what to read of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from reviews import write_reviews
from sweeping import Start


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 80 reviews that a small model can learn."""
    return write_reviews(tmp_path_factory.mktemp("data") / "reviews.tsv", 40)


@pytest.fixture(scope="session")
def small(reviews: Path) -> list[str]:
    """Settings of a job of a second at most."""
    return [
        "data=texts",
        f"data.source={reviews}",
        "data.batch_size=16",
        "data.min_count=1",
        "model.hidden_size=4",
        "model.num_layers=1",
        "model.backend=eager",
        "task.embedding_size=4",
        "optim.lr=0.02",
        "schedule=constant",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "callbacks=none",
        "logger=csv",
        "examples=0",
        "threads=1",
    ]


@pytest.fixture(scope="session")
def slow_job(small: list[str]) -> list[str]:
    """Settings of a job of a few seconds that keeps its checkpoints and can be continued."""
    return [*small, "callbacks=checkpoint", "trainer.max_epochs=8", "data.batch_size=4"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `rnnlab sweep WORDS` in a process of its own; it is gone when the test ends."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str) -> "subprocess.Popen[bytes]":
        log = (tmp_path / f"start-{len(started)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rnnlab", "sweep", *words],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
