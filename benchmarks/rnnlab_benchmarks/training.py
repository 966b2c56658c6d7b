"""`rnnlab bench training`: what Lightning, logging and the run's own callbacks cost a training run.

The same model is trained on the same batches twice in turn: by `rnnlab train`'s own trainer, and by a loop of
a few lines. Their examples per second are compared as medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WANTED = 0.8


def main(words: Sequence[str]) -> int:
    """Run the benchmark.

    Returns:
        The exit status: 0 if the wanted ratio is met, 1 if not, 2 for a refused word.
    """
    parser = argparse.ArgumentParser(
        prog="rnnlab bench training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  rnnlab bench training --rounds 5 model.hidden_size=128",
    )
    parser.add_argument("--batches", type=int, default=60, metavar="N", help="batches of a round (60)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each (5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    parser.add_argument("settings", nargs="*", help="settings of `rnnlab train`")
    options = parser.parse_intermixed_args(list(words))
    if options.batches < 1 or options.rounds < 1:
        print("rnnlab bench training: --batches and --rounds are at least 1", file=sys.stderr)
        return 2
    figures = measure(options.settings, options.batches, options.rounds)
    print(f"{figures['batches']} batches, {figures['examples']} examples a round; {figures['device']}")
    for name in ("bare", "train"):
        print(f"  {name:<6}{figures['examples_per_s'][name]:10.0f} examples/s (median of {options.rounds})")
    met = figures["ratio"] >= WANTED
    print(f"  train / bare = {figures['ratio']:.3f} (wanted: at least {WANTED}{'' if met else ', MISSED'})")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if met else 1


def measure(settings: Sequence[str], batches: int, rounds: int) -> dict[str, Any]:
    """Examples per second of both ways, and their ratio, after one unmeasured round of each."""
    import torch

    from rnnlab.experiments.compose import compose
    from rnnlab.training.run import train
    from rnnlab.training.signals import Stopped

    fixed = [f"trainer.limit_train_batches={batches}", "trainer.max_epochs=1", "trainer.limit_val_batches=0"]
    fixed += ["test=false", "examples=0", "trainer.accelerator=cpu"]
    seconds: dict[str, list[float]] = {"bare": [], "train": []}
    examples = 0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            config = compose([*settings, *fixed, f"run_dir={folder}/{turn}"]).config
            clock = _clock()
            result = train(config, callbacks=[clock])
            if result.signum is not None:
                raise Stopped(result.signum)
            took, examples = bare_loop(clock, result, batches)
            if turn:
                seconds["train"].append(clock.seconds)
                seconds["bare"].append(took)
    rates = {name: examples / statistics.median(values) for name, values in seconds.items()}
    return {
        "batches": batches,
        "examples": examples,
        "device": f"cpu, {torch.get_num_threads()} threads",
        "seconds": seconds,
        "examples_per_s": rates,
        "ratio": rates["train"] / rates["bare"],
    }


def _clock() -> Any:
    """A callback that keeps the weights at the start, and times the training epoch."""
    from lightning.pytorch.callbacks import Callback

    class Clock(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.start = copy.deepcopy(pl_module.state_dict())
            self.began = time.perf_counter()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.seconds = time.perf_counter() - self.began

    return Clock()


def bare_loop(clock: Any, result: Any, batches: int) -> tuple[float, int]:
    """Train the model as it was at the start on the batches of the run; seconds and examples."""
    import torch
    from torch.nn.functional import cross_entropy

    task = result.task
    task.load_state_dict(clock.start)
    task.train()
    optimizer = task._make_optimizer([p for p in task.parameters() if p.requires_grad])
    clip = result.trainer.gradient_clip_val
    loader = result.datamodule.train_dataloader()
    examples = 0
    began = time.perf_counter()
    for index, batch in enumerate(loader):
        if index == batches:
            break
        optimizer.zero_grad()
        loss = cross_entropy(task(batch.inputs, batch.lengths), batch.targets)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(task.parameters(), clip)
        optimizer.step()
        examples += len(batch)
    return time.perf_counter() - began, examples
