"""How long the first call takes, in a new process: with an empty cache, and with what the first one left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from rnnlab_benchmarks.cases import Shape
from rnnlab_benchmarks.report import Verdict

FIRST_S = 3.0
CACHED_S = 0.1

# One training step at a time in a new interpreter; imports are not counted.
_CHILD = """
import json, sys, time
import torch
from rnnlab_benchmarks.cases import Case, Shape
from rnnlab_benchmarks.runner import OURS
from rnnlab_benchmarks.subjects import Ours, Problem
cell, *sizes, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
problem = Problem.of(Case(cell, "train", Shape(*sizes)))
runner = Ours(OURS).prepare(problem)
times = []
for _ in range(12):
    start = time.perf_counter()
    runner.train()
    times.append(time.perf_counter() - start)
print(json.dumps({"first_s": times[0], "steady_s": sorted(times[1:])[5]}))
"""


def measure(cell: str, shape: Shape) -> dict[str, dict[str, float]]:
    """The first and the steady training step, in seconds, of a `cold` and then of a `cached` process."""
    import torch

    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RNNLAB_CACHE_DIR": folder}
        arguments = json.dumps([cell, *shape, torch.get_num_threads()])
        for name in ("cold", "cached"):
            command = [sys.executable, "-c", _CHILD, arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"the measuring process failed: {done.stderr.strip().splitlines()[-1]}")
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def verdicts(found: dict[str, dict[str, Any]]) -> list[Verdict]:
    """The targets for first calls."""
    cold = found["cold"]["first_s"]
    above = found["cached"]["first_s"] - found["cached"]["steady_s"]
    return [
        Verdict("first call of a new cell", f"<= {FIRST_S:.0f} s", f"{cold:.2f} s", cold <= FIRST_S),
        Verdict(
            "first call in a new process with a cache, above the steady one",
            f"<= {CACHED_S} s",
            f"{above:.3f} s",
            above <= CACHED_S,
        ),
    ]
