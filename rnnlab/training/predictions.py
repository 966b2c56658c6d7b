"""What a model makes of each test example, kept so that two runs can be compared example by example.

Legend: `B` batch.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DistributedSampler


class Predictions(Callback):
    """`predictions.csv`: one row a test example, with its id and what the task's `test_step` returned of it.

    The id is a hash of the example itself, its inputs and targets, so that runs that read the test set in
    another order are still paired rightly; the same example again has the same hash and a number. Every task
    whose `test_step` returns tensors `[B]` can be kept: classification does (loss, whether it was right, the
    class), and language models (nats a token of each window of a stream, and the number of its tokens).

    Of several processes each writes its own share, `predictions-RANK.csv`, without the row that a sampler
    gives twice so that all have equally many; `read_predictions` puts the shares together.

    Args:
        file: where they are written when the test ends.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._rows: list[dict[str, Any]] = []
        self._seen: dict[str, int] = {}
        self._told = False

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows, self._seen = [], {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        columns = _columns(outputs)
        if not columns:
            if not self._told:
                self._told = True
                kind = type(pl_module).__name__
                warnings.warn(
                    f"callbacks.predictions: {kind} tells nothing of single test examples; none are kept",
                    stacklevel=2,
                )
            return
        count = len(next(iter(columns.values())))
        if _ends_with_a_double(trainer, batch_idx, dataloader_idx):
            count -= 1
        for index, ident in enumerate(example_ids(batch, count)):
            again = self._seen[ident] = self._seen.get(ident, 0) + 1
            own = {name: values[index] for name, values in columns.items()}
            self._rows.append({"id": ident if again == 1 else f"{ident}-{again}", **own})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        file = share_of(self.file, trainer.global_rank) if trainer.world_size > 1 else self.file
        if trainer.is_global_zero:  # what an earlier test by another number of processes has left
            mine = {share_of(self.file, rank) for rank in range(trainer.world_size)}
            for old in {self.file, *shares(self.file)} - (mine if trainer.world_size > 1 else {file}):
                old.unlink(missing_ok=True)
        if not self._rows:
            file.unlink(missing_ok=True)
            return
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)


def _ends_with_a_double(trainer: pl.Trainer, batch_idx: int, dataloader_idx: int) -> bool:
    """Whether the last row of a batch is another process's too, to make the last batches even."""
    if trainer.world_size == 1:
        return False
    loaders: Any = trainer.test_dataloaders
    loader = loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
    if batch_idx + 1 < len(loader):
        return False
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        rows = len(sampler.dataset)  # type: ignore[arg-type]
        return not sampler.drop_last and 0 < rows % sampler.num_replicas <= sampler.rank
    return bool(getattr(loader, "ends_with_a_double", False))


def share_of(file: Path, rank: int) -> Path:
    """Where a process keeps its share of `predictions.csv`."""
    return file.with_name(f"{file.stem}-{rank}{file.suffix}")


def shares(file: Path) -> list[Path]:
    """The shares of `predictions.csv` that several processes have written, in the order of their ranks."""
    found = [
        (int(rank), place)
        for place in file.parent.glob(f"{file.stem}-*{file.suffix}")
        if (rank := place.stem.removeprefix(f"{file.stem}-")).isdecimal()
    ]
    return [place for _, place in sorted(found)]


def example_ids(batch: Any, count: int) -> list[str]:
    """A hash for each row of a batch, of its inputs up to its length and of its targets.

    Args:
        batch: with `inputs` `[T, B, *]`, and where there are, `targets` and `lengths` `[B]`.
        count: B.
    """
    inputs = batch.inputs.cpu()
    targets = getattr(batch, "targets", None)
    lengths = getattr(batch, "lengths", None)
    found = []
    for row in range(count):
        length = len(inputs) if lengths is None else int(lengths[row])
        digest = hashlib.blake2b(_bytes(inputs[:length, row]), digest_size=8)
        if isinstance(targets, Tensor):
            mine = targets[row] if targets.dim() == 1 else targets[:, row]
            digest.update(_bytes(mine.cpu()))
        found.append(digest.hexdigest())
    return found


def read_predictions(file: str | Path) -> dict[str, dict[str, float]]:
    """The numbers of `predictions.csv`, or of the shares of several processes, by the id of the example.

    Rows of shares take turns, as samplers deal them out, and the same example again is numbered over all of
    them: what is read is what one process would have written. Nothing where there is no file.

    Raises:
        ValueError: a file is damaged.
    """
    file = Path(file)
    files = [file] if file.is_file() else shares(file)
    found: dict[str, dict[str, float]] = {}
    seen: dict[str, int] = {}
    for row in chain.from_iterable(zip_longest(*map(_read, files))):
        if row is not None:
            ident, numbers = row
            again = seen[ident] = seen.get(ident, 0) + 1
            found[ident if again == 1 else f"{ident}-{again}"] = numbers
    return found


def _read(file: Path) -> list[tuple[str, dict[str, float]]]:
    """The rows of one file: the hash of the example, and its numbers."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return [
            (row.pop("id").partition("-")[0], {key: float(value) for key, value in row.items()})
            for row in rows
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: damaged: {error!r}; test the run again") from error


def _columns(outputs: Any) -> dict[str, list[float]]:
    """The tensors `[B]` among what a step returned."""
    if not isinstance(outputs, Mapping):
        return {}
    tensors = {k: v for k, v in outputs.items() if isinstance(v, Tensor) and v.dim() == 1}
    return {name: tensor.detach().cpu().tolist() for name, tensor in tensors.items()}


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.reshape(-1).clone(memory_format=torch.contiguous_format)  # one value may have any stride
    return str(tuple(tensor.shape)).encode() + (
        flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
    )
