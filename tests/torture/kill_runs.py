"""Kills training runs with SIGKILL at random moments, and looks at what they leave.

Each run is a process of its own, forked from this one, which has imported everything: what is killed is a
real run that writes real checkpoints, after every step. It goes on from what the one before has left. Printed
are JSON figures.
"""

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from rnnlab.experiments.compose import compose
from rnnlab.training.checkpoint import read_checkpoint
from rnnlab.training.run import train
from rnnlab.training.storage import SUFFIX, is_whole

WORDS = ["data=texts", "data.batch_size=4", "data.min_count=1", "model.hidden_size=4", "model.num_layers=1"]
WORDS += ["task.embedding_size=4", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "threads=1"]
WORDS += ["model.backend=eager", "callbacks=checkpoint", "callbacks.checkpoint.every_n_steps=1", "examples=0"]


class Tell(pl.Callback):
    """Writes a byte when training starts, and one after each step."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        os.write(self.pipe, b"s")

    def on_train_batch_end(self, *args: Any) -> None:
        os.write(self.pipe, b"b")


def told(pipe: int, timeout_s: float) -> bool:
    """Whether a byte has come."""
    return bool(select.select([pipe], [], [], timeout_s)[0])


def start(words: list[str], pipe: int) -> int:
    """Fork a run that goes on in its folder; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            status = train(compose(words).config, resume="auto", callbacks=[Tell(pipe)]).exit_status
        except BaseException as error:
            print(f"a run failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(status)
    return child


def leftovers(folder: Path) -> set[Path]:
    return {path for path in folder.rglob(f"*{SUFFIX}") if path.is_file()}


def unloadable(folder: Path) -> list[str]:
    """Checkpoints that do not load, or do not hold what the manifest says."""
    bad = []
    for file in sorted((folder / "checkpoints").glob("*.ckpt")):
        try:
            whole = is_whole(file) and bool(read_checkpoint(file)["state_dict"])
        except (ValueError, OSError):
            whole = False
        if not whole:
            bad.append(file.name)
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    source = options.folder / "texts.tsv"
    lines = [f"a {'fine' if n % 2 else 'dull'} film number {n}\t{n % 2}" for n in range(160)]
    source.write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    run = options.folder / "run"
    words = [*WORDS, f"data.source={source}", f"run_dir={run}"]
    endless = [*words, "trainer.max_epochs=100000"]
    figures: dict[str, Any] = {"tmpdir": tempfile.gettempdir(), "kills": 0, "before_training": 0}
    figures |= {"unloadable": [], "leftovers_after_the_next_start": [], "half_written_at_a_kill": 0}
    figures |= {"could_not_go_on": 0, "steps": []}
    found: set[Path] = set()
    while figures["kills"] < options.kills:
        reading, writing = os.pipe()
        child = start(endless, writing)
        early = chance.random() < 0.15
        if early:
            time.sleep(chance.uniform(0, 0.5))
        begun = told(reading, 0 if early else 300)
        if begun:
            # The run that goes on has cleaned up; what it is writing itself has another name.
            figures["leftovers_after_the_next_start"] += [str(path) for path in found & leftovers(run)]
            for _ in range(chance.randint(0, 8)):
                os.read(reading, 1)
            time.sleep(chance.uniform(0, 0.03))
        else:
            figures["before_training"] += 1
            ended, _ = os.waitpid(child, os.WNOHANG)
            if not early or ended:
                figures["could_not_go_on"] += 1
                break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        figures["kills"] += 1
        found = leftovers(run)
        figures["half_written_at_a_kill"] += bool(found)
        figures["unloadable"] += unloadable(run)
        last = run / "checkpoints" / "last.ckpt"
        if last.exists():
            figures["steps"].append(int(read_checkpoint(last)["global_step"]))
    reading, writing = os.pipe()
    epochs = (figures["steps"] or [0])[-1] // 32 + 2
    child = start([*words, f"trainer.max_epochs={epochs}"], writing)
    figures["last_run_ended_with"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    figures["leftovers_at_the_end"] = [str(path) for path in leftovers(run)]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
