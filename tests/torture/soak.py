"""What a long run and many short ones leave behind: memory, open files, threads, loaded kernels.

`soak.py long FOLDER --minutes 60` trains with checkpoints, validation and logging for that time;
`soak.py many FOLDER --runs 1000` trains so many times in this process. Both print JSON figures.
"""

import argparse
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

WORDS = ["data=texts", "data.batch_size=16", "data.min_count=1", "model.num_layers=1", "model.hidden_size=16"]
WORDS += ["task.embedding_size=16", "trainer.accelerator=cpu", "threads=1", "examples=0"]


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def held() -> dict[str, float]:
    """What this process holds now."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    libraries = {line.split()[-1] for line in maps if line.endswith(".so")}
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "system_threads": len(os.listdir("/proc/self/task")),
        "libraries": len(libraries),
        "resident_mib": round(resident_mib(), 1),
    }


class Memory(pl.Callback):
    """Notes the resident memory every few seconds."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.began = self.noted = time.monotonic()
        self.samples: list[tuple[float, float]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        now = time.monotonic()
        if now - self.noted >= self.every_s:
            self.noted = now
            self.samples.append((now - self.began, resident_mib()))


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB an hour, by least squares."""
    times, sizes = (torch.tensor(column, dtype=torch.float64) for column in zip(*samples, strict=True))
    centred = times - times.mean()
    return float((centred * (sizes - sizes.mean())).sum() / (centred * centred).sum() * 3600)


def long(folder: Path, source: Path, minutes: float) -> dict[str, Any]:
    """One run of so many minutes; the first tenth, in which caches fill, is left out of the slope."""
    seconds = round(60 * minutes)
    clock = f"00:{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
    words = [
        *WORDS,
        f"data.source={source}",
        f"run_dir={folder / 'long'}",
        "callbacks.checkpoint.every_n_steps=50",
    ]
    words += ["trainer.max_epochs=1000000", f"trainer.max_time='{clock}'", "trainer.log_every_n_steps=10"]
    memory = Memory(every_s=max(1.0, seconds / 400))
    result = train(compose(words).config, callbacks=[memory])
    kept = memory.samples[len(memory.samples) // 10 :]
    fifth = max(1, len(kept) // 5)
    mean = [sum(size for _, size in part) / len(part) for part in (kept[:fifth], kept[-fifth:])]
    return {
        "minutes": minutes,
        "steps": result.trainer.global_step,
        "epochs": result.trainer.current_epoch,
        "rows": len((folder / "long" / "metrics.csv").read_text(encoding="utf-8").splitlines()) - 1,
        "first_fifth_mib": round(mean[0], 1),
        "last_fifth_mib": round(mean[1], 1),
        "growth_mib_per_hour": round(slope(kept), 2),
    }


def many(folder: Path, source: Path, runs: int) -> dict[str, Any]:
    """So many runs of two steps, with a checkpoint, a validation and a test each."""
    words = [*WORDS, f"data.source={source}", f"output_dir={folder}", "name=short", "callbacks=checkpoint"]
    words += ["trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    config = compose([*words, "trainer.val_check_interval=2"]).config
    noted: dict[int, dict[str, float]] = {}
    for number in range(1, runs + 1):
        train(config)
        if number == max(1, runs // 10) or number % max(1, runs // 5) == 0:
            noted[number] = held()
            print(number, noted[number], file=sys.stderr, flush=True)
    return {"runs": runs, "held": noted}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["long", "many"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    source = options.folder / "texts.tsv"
    lines = [f"a {'fine' if n % 2 else 'dull'} film number {n}\t{n % 2}" for n in range(400)]
    source.write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    if options.what == "long":
        print(json.dumps(long(options.folder, source, options.minutes)))
    else:
        print(json.dumps(many(options.folder, source, options.runs)))


if __name__ == "__main__":
    main()
