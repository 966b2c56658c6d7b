"""What every DataModule of rnnlab offers to the tasks and to the commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.batching import LengthBucketSampler, SequenceLoader
from rnnlab.data.splits import Split


class Facts(dict[str, Any]):
    """What a trained model knows of its data; asked for what it does not know, it says that they differ."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(
            f"these data are read by a model's {key}, and the checkpoint's model has none: it was trained on "
            f"other data (it knows {', '.join(self)})"
        )


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
        self.adopted: Facts | None = None
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
        self.adopted = Facts(facts)

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

    def whole_dataloader(self) -> Chained:
        """All examples of all splits, each once, as the test would read them."""
        self.need_setup()
        own = dict(self._datasets)
        try:
            loaders = []
            for part in own.values():
                self._datasets["test"] = part
                if len(part):
                    loaders.append(self.test_dataloader())
            return Chained(loaders)
        finally:
            self._datasets = own


class Chained:
    """Loaders one after the other."""

    def __init__(self, loaders: Sequence[Any]) -> None:
        self.loaders = list(loaders)

    def __len__(self) -> int:
        """Batches of all of them."""
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Any]:
        for loader in self.loaders:
            yield from loader


def evenly(rows: Sequence[Any], n: int) -> list[Any]:
    """`n` rows at even distances, all of them where there are no more."""
    n = min(n, len(rows))
    return [rows[i * len(rows) // n] for i in range(n)]
