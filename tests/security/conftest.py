"""Commands that meet hostile files, and what they may not do to the world around them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import FACTS, TASK, Outcome, World

from rnnlab.tasks import TextClassification
from rnnlab.training.checkpoint import describe_model
from rnnlab.training.targets import build

SERVER = Path(__file__).with_name("command_server.py")


@pytest.fixture(scope="session")
def server() -> Iterator[Callable[[dict[str, Any]], int]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        talk, hear = process.stdin, process.stdout
        assert json.loads(hear.readline()) == {"ready": True}

        def ask(job: dict[str, Any]) -> int:
            talk.write(json.dumps(job) + "\n")
            talk.flush()
            return int(json.loads(hear.readline())["status"])

        yield ask
        talk.close()


@pytest.fixture
def world(server: Callable[[dict[str, Any]], int], tmp_path: Path) -> World:
    folder, outside, home = (tmp_path / name for name in ("work", "outside", "home"))
    for path in (folder, outside, home, tmp_path / "temporary"):
        path.mkdir()
    kernels = os.environ.get("RNNLAB_CACHE_DIR") or str(Path("~/.cache/rnnlab").expanduser())

    def run(*words: str) -> Outcome:
        files = {name: str(tmp_path / f"command.{name}") for name in ("out", "err", "facts")}
        facts = Path(files["facts"])
        facts.unlink(missing_ok=True)
        environment = {"HOME": str(home), "TMPDIR": str(tmp_path / "temporary"), "RNNLAB_CACHE_DIR": kernels}
        allowed = [str(folder / "runs"), environment["TMPDIR"], kernels, "/dev", files["facts"]]
        job = {"words": list(words), "folder": str(folder), "environment": environment, "allowed": allowed}
        status = server({**job, **files})
        found = json.loads(facts.read_text()) if facts.exists() else {"violations": [], "grown_bytes": 0}
        texts = {name: Path(files[name]).read_text(errors="replace") for name in ("out", "err")}
        return Outcome(status=status, **texts, **found)

    return World(folder, outside, tmp_path / "canary", run)


@pytest.fixture(scope="session")
def content() -> dict[str, Any]:
    """A checkpoint as `train` writes it, of a model of a few numbers."""
    torch.manual_seed(0)
    task = build(TASK, **FACTS)
    assert isinstance(task, TextClassification)
    data = {"_target_": "rnnlab.data.TextClassificationData", "source": "films.tsv", "min_count": 1}
    record = describe_model({"task": TASK, "data": data, "seed": 1}, FACTS)
    return {"state_dict": task.state_dict(), "rnnlab": record, "epoch": 1, "global_step": 3}
