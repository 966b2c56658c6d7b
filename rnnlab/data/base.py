"""What every DataModule of rnnlab offers to the tasks and to the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.batching import LengthBucketSampler, SequenceLoader
from rnnlab.data.splits import Split


class DataModule(LightningDataModule):
    """A LightningDataModule whose task can be rebuilt without it.

    Subclasses define `read`, `facts`, `summary` and `examples`, and `make_split_loader` where rows are not
    gathered by `make_loader`.

    After `setup`, `facts` holds in plain containers all that a task must know of the data, so that a
    checkpoint can carry it. `adopt`, called before `setup`, is the way back: the data are then encoded with
    the vocabulary and the labels of a trained model instead of their own.

    Args:
        batch_size: rows a training batch (and process).
        eval_batch_size: rows a batch of validation and test.
        num_workers: processes that gather batches; 0 is fastest for data in memory.
        seed: of the order of the training examples.

    Raises:
        ValueError: a batch size below 1, or a negative number of workers.
    """

    def __init__(
        self, *, batch_size: int = 64, eval_batch_size: int = 256, num_workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(
                f"batch_size and eval_batch_size are at least 1; got {batch_size} and {eval_batch_size}"
            )
        if num_workers < 0:
            raise ValueError(f"num_workers is at least 0; got {num_workers}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.adopted: dict[str, Any] | None = None
        self._datasets: dict[Split, Any] = {}

    def read(self) -> Mapping[Split, Any]:
        """Read the data, with what was adopted, and return the dataset of each split; called once."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read the data once for all stages."""
        if not self._datasets:
            self._datasets = dict(self.read())

    def dataset(self, split: Split) -> Any:
        """The dataset of a split.

        Raises:
            RuntimeError: before `setup`.
        """
        self.need_setup()
        return self._datasets[split]

    def need_setup(self) -> None:
        """Raise RuntimeError before `setup`."""
        if not self._datasets:
            raise RuntimeError("the data are known after setup(); call it first")

    def facts(self) -> dict[str, Any]:
        """What the task needs to be built: lists, strings and numbers alone. Known after `setup`."""
        raise NotImplementedError

    def adopt(self, facts: Mapping[str, Any]) -> None:
        """Take the facts of a trained model for one's own; call it before `setup`."""
        self.adopted = dict(facts)

    def summary(self) -> dict[str, Any]:
        """What the data hold and what was left out, in plain containers, to be shown. Known after `setup`."""
        raise NotImplementedError

    def examples(self, split: Split, n: int) -> list[Any]:
        """Some `n` examples of a split as a person reads them, always the same ones."""
        raise NotImplementedError

    def make_loader(self, dataset: Dataset[Any], lengths: Tensor, *, train: bool) -> SequenceLoader:
        """Bucket a dataset by length and share it among the trainer's processes.

        Args:
            dataset: gives a batch for a list of rows.
            lengths: `[N]`, the rows' lengths.
            train: shuffle, in an order of its own for each epoch.
        """
        trainer = self.trainer
        sampler = LengthBucketSampler(
            lengths,
            self.batch_size if train else self.eval_batch_size,
            shuffle=train,
            seed=self.seed,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
        )
        return SequenceLoader(
            dataset,
            sampler,
            num_workers=self.num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            # A model that overfits a few batches must see the same ones in each epoch.
            reorder=not getattr(trainer, "overfit_batches", 0),
        )

    def make_split_loader(self, split: Split) -> Any:
        """The loader of a split, whose dataset has `lengths` `[N]` unless a subclass knows better."""
        dataset = self.dataset(split)
        return self.make_loader(dataset, dataset.lengths, train=split == "train")

    def train_dataloader(self) -> Any:
        """Training batches, in an order of its own for each epoch."""
        return self.make_split_loader("train")

    def val_dataloader(self) -> Any:
        """Validation batches, in a fixed order."""
        return self.make_split_loader("validation")

    def test_dataloader(self) -> Any:
        """Test batches, in a fixed order."""
        return self.make_split_loader("test")


def evenly(rows: Sequence[Any], n: int) -> list[Any]:
    """`n` rows at even distances, all of them where there are no more."""
    n = min(n, len(rows))
    return [rows[i * len(rows) // n] for i in range(n)]
