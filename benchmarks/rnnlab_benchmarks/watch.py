"""`rnnlab bench watch`: what the watch for NaN and infinity costs a step of training.

One batch of the configured run is trained on again and again, in turn with and without the watch, and the
medians are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rnnlab_benchmarks.measure import interleaved

WANTED = 1.02


def main(words: Sequence[str]) -> int:
    """Run the benchmark.

    Returns:
        The exit status: 0 if the watch costs at most 2 %, 1 if not, 2 for a refused word.
    """
    parser = argparse.ArgumentParser(
        prog="rnnlab bench watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  rnnlab bench watch --seconds 20 model.hidden_size=128",
    )
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="time to measure (20)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.add_argument("settings", nargs="*", help="settings of `rnnlab train`")
    options = parser.parse_intermixed_args(list(words))
    if options.seconds <= 0:
        print("rnnlab bench watch: --seconds is more than 0", file=sys.stderr)
        return 2
    figures = measure(options.settings, options.seconds)
    met = figures["ratio"] <= WANTED
    print(f"a step {figures['time_ms']['without']:.3f} ms, watched {figures['time_ms']['with']:.3f} ms")
    missed = "" if met else ", MISSED"
    print(f"  watched / not watched = {figures['ratio']:.4f} (wanted: at most {WANTED}{missed})")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if met else 1


def measure(settings: Sequence[str], seconds: float) -> dict[str, Any]:
    """Milliseconds of a step with and without the watch, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        steps = prepare(settings, folder)
        times = interleaved(steps, budget_s=seconds, rounds=(20, 100_000))
    return {"time_ms": times, "ratio": times["with"] / times["without"]}


def prepare(settings: Sequence[str], folder: str) -> dict[str, Callable[[], None]]:
    """One step on one batch of a run, without the watch and with it."""
    import torch

    from rnnlab.experiments.compose import compose
    from rnnlab.training.run import train
    from rnnlab.training.signals import Stopped
    from rnnlab.training.watch import NumberWatch

    fixed = ["trainer.max_steps=1", "trainer.limit_val_batches=0", "trainer.accelerator=cpu", "test=false"]
    fixed += ["examples=0", "callbacks=none", "logger=none", f"run_dir={folder}/run"]
    result = train(compose([*settings, *fixed]).config)
    if result.signum is not None:
        raise Stopped(result.signum)
    task: Any = result.task
    batch = next(iter(result.datamodule.train_dataloader()))
    optimizer = task._make_optimizer([p for p in task.parameters() if p.requires_grad])
    watch = NumberWatch(folder)
    trainer: Any = SimpleNamespace(precision="32-true", global_step=0, current_epoch=0)
    task.log = lambda *args, **kwargs: None
    task.train()

    def step(watched: bool) -> None:
        if watched:
            watch.on_train_batch_start(trainer, task, batch, 0)
        optimizer.zero_grad()
        loss = task.training_step(batch, 0)
        if watched:
            watch.on_before_backward(trainer, task, loss)
        loss.backward()
        if watched:
            watch.on_before_optimizer_step(trainer, task, optimizer)
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()

    return {"without": lambda: step(False), "with": lambda: step(True)}
