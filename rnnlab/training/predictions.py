"""What a model makes of each test example, kept so that two runs can be compared example by example.

Legend: `B` batch.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class Predictions(Callback):
    """`predictions.csv`: one row a test example, with its id and what the task's `test_step` returned of it.

    The id is a hash of the example itself, its inputs and targets, so that runs that read the test set in
    another order are still paired rightly; the same example again has the same hash and a number. Every task
    whose `test_step` returns tensors `[B]` can be kept: classification does (loss, whether it was right, the
    class), and language models (nats a token of each window of a stream, and the number of its tokens).

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
        for index, ident in enumerate(example_ids(batch, count)):
            again = self._seen[ident] = self._seen.get(ident, 0) + 1
            own = {name: values[index] for name, values in columns.items()}
            self._rows.append({"id": ident if again == 1 else f"{ident}-{again}", **own})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._rows:
            return
        file = self.file
        if trainer.world_size > 1:  # each process keeps its own share
            file = file.with_name(f"{file.stem}-{trainer.global_rank}{file.suffix}")
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)


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
    """The numbers of `predictions.csv` by the id of the example.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with Path(file).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return {row.pop("id"): {key: float(value) for key, value in row.items()} for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: damaged: {error!r}; test the run again") from error


def _columns(outputs: Any) -> dict[str, list[float]]:
    """The tensors `[B]` among what a step returned."""
    if not isinstance(outputs, Mapping):
        return {}
    tensors = {k: v for k, v in outputs.items() if isinstance(v, Tensor) and v.dim() == 1}
    return {name: tensor.detach().cpu().tolist() for name, tensor in tensors.items()}


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return str(tuple(tensor.shape)).encode() + (
        flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
    )
