"""`rnnlab bench sweeps`: a sweep by `rnnlab sweep` against the same jobs by Hydra's basic launcher.

Both train the same configurations from start to end, the first with joblib's workers of one thread each, the
second as `@hydra.main` with `-m` does it: in one process, one after the other, with PyTorch's own threads.
Interpreters, imports, data and tests of the checkpoints count on both sides. How long a job takes is
measured first, by Hydra's launcher with a single job of two sizes; the jobs are then made so long.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WANTED = 0.6
SMALL = (60, 240)

SCRIPT = """\
import hydra
from omegaconf import DictConfig

from rnnlab.training.run import train


@hydra.main(version_base="1.3", config_path="pkg://rnnlab.conf", config_name="train")
def main(config: DictConfig) -> float:
    return train(config).metrics["test/accuracy"]


main()
"""

# A one-layer GRU on the bundled reviews.
SETTINGS = (
    "cell=gru",
    "model.hidden_size=48",
    "model.num_layers=1",
    "model.bidirectional=false",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=-1",
    "examples=0",
    "name=bench",
)


def main(words: Sequence[str]) -> int:
    """Run the benchmark.

    Returns:
        The exit status: 0 if the wanted ratio is met, 1 if not, 2 for a refused word.
    """
    parser = argparse.ArgumentParser(
        prog="rnnlab bench sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  rnnlab bench sweeps --jobs 8 --seconds 5",
    )
    parser.add_argument("--jobs", type=int, default=24, metavar="N", help="jobs of each sweep (24)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="length of a job alone (10)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="workers of `rnnlab sweep` (2)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="optimiser steps of a job; else they are found"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(list(words))
    if options.jobs < 1 or options.seconds <= 0 or options.workers < 1:
        print("rnnlab bench sweeps: --jobs, --seconds and --workers are more than 0", file=sys.stderr)
        return 2
    figures = measure(options.jobs, options.seconds, options.workers, options.steps)
    print(f"{figures['jobs']} jobs of {figures['steps']} steps, {figures['cores']} cores")
    if figures["job_s"]:
        print(f"  one more job costs Hydra's launcher about {figures['job_s']:.1f} s")
    print(f"  Hydra's basic launcher  {figures['hydra_s']:8.1f} s")
    each = f"{options.workers} workers, a job {figures['job_in_sweep_s']:.1f} s"
    print(f"  rnnlab sweep, joblib    {figures['sweep_s']:8.1f} s, {each}")
    met = figures["ratio"] <= WANTED
    print(f"  ratio {figures['ratio']:.3f} (wanted: at most {WANTED}{'' if met else ', MISSED'})")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if met else 1


def measure(jobs: int, seconds: float, workers: int, steps: int | None = None) -> dict[str, Any]:
    """Seconds of both, after the length of a job has been found."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job_s = None
        if steps is None:
            first, second = (_hydra(folder, f"size-{size}", 1, size) for size in SMALL)
            a_step_s = max((second - first) / (SMALL[1] - SMALL[0]), 1e-4)
            # What a job costs beside its steps, without what is paid once: the first job of two.
            both = _hydra(folder, "two", 2, SMALL[0])
            beside_s = max(both - first - SMALL[0] * a_step_s, 0.0)
            steps = max(1, round((seconds - beside_s) / a_step_s))
            job_s = beside_s + steps * a_step_s
        hydra_s = _hydra(folder, "hydra", jobs, steps)
        sweep_s, each_s = _sweep(folder, jobs, steps, workers)
    return {
        "jobs": jobs,
        "steps": steps,
        "job_s": job_s,
        "cores": len(os.sched_getaffinity(0)),
        "hydra_s": hydra_s,
        "sweep_s": sweep_s,
        "job_in_sweep_s": each_s,
        "ratio": sweep_s / hydra_s,
    }


def _words(jobs: int, steps: int) -> list[str]:
    return [*SETTINGS, f"trainer.max_steps={steps}", f"seed=range({jobs})"]


def _hydra(folder: Path, name: str, jobs: int, steps: int) -> float:
    script = folder / "by_hydra.py"
    script.write_text(SCRIPT, encoding="utf-8")
    own = [
        f"hydra.sweep.dir={folder / name}/multirun",
        f"output_dir={folder / name}",
        "hydra/job_logging=disabled",
    ]
    took = _timed([sys.executable, str(script), "-m", *_words(jobs, steps), *own], folder)
    made = len(list((folder / name).glob("bench/*/config.yaml")))
    if made != jobs:
        raise RuntimeError(f"Hydra's launcher has made {made} of {jobs} runs")
    return took


def _sweep(folder: Path, jobs: int, steps: int, workers: int) -> tuple[float, float]:
    from rnnlab.experiments.sweeps.folder import read_sweep

    own = [f"sweep_dir={folder / 'sweep'}", "launcher=joblib", f"workers={workers}"]
    took = _timed([sys.executable, "-m", "rnnlab", "sweep", *_words(jobs, steps), *own], folder)
    done = [job for job in read_sweep(folder / "sweep").jobs if job.state == "finished"]
    if len(done) != jobs:
        raise RuntimeError(f"`rnnlab sweep` has finished {len(done)} of {jobs} jobs")
    return took, statistics.mean(job.status.seconds for job in done)


def _timed(command: Sequence[str], folder: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return took
