"""Batches of sequences of unlike length, gathered from one flat tensor.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

import ctypes
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# How long a data-loading worker outlives SIGTERM, in which its run may finish a step.
GRACE_S = 30


@dataclass(frozen=True)
class SequenceBatch:
    """Padded sequences, time first.

    Attributes:
        inputs: `[T, B, *]`, zero past each row's length; `T` is the longest length.
        lengths: `[B]`, int64; always on the CPU, where packing and bucketing read them.
        targets: what the task learns to predict; None where there is nothing to compare with.
    """

    inputs: Tensor
    lengths: Tensor
    targets: Any = None

    def __len__(self) -> int:
        """The number of rows, `B`."""
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SequenceBatch:
        """A copy on the device, with the lengths left on the CPU."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=non_blocking)
        return SequenceBatch(self.inputs.to(device, non_blocking=non_blocking), self.lengths, targets)

    def pin_memory(self) -> SequenceBatch:
        """A copy in page-locked memory, which moves to a GPU without waiting."""
        targets = None if self.targets is None else self.targets.pin_memory()
        return SequenceBatch(self.inputs.pin_memory(), self.lengths, targets)


class TokenSequences(Dataset[SequenceBatch]):
    """Token sequences in one flat tensor; indexing by a list of rows gives their `SequenceBatch`.

    Args:
        sequences: numbers of tokens; none is empty.
        targets: `[N, *]`, one entry a sequence, or None.

    Raises:
        ValueError: a sequence is empty, or the targets are not one a sequence.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], targets: Tensor | None = None) -> None:
        self.lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        if targets is not None and len(targets) != len(self.lengths):
            raise ValueError(
                f"one target a sequence is needed; got {len(targets)} for {len(sequences)} sequences"
            )
        if len(self.lengths) and not self.lengths.all():
            raise ValueError(f"sequence {int((self.lengths == 0).nonzero()[0])} is empty")
        # int32 halves the memory of a large corpus; a batch is widened when it is gathered.
        self.flat = torch.tensor(list(chain.from_iterable(sequences)), dtype=torch.int32)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.targets = targets

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Sequence[int] | int) -> SequenceBatch:
        chosen = torch.as_tensor([rows] if isinstance(rows, int) else rows, dtype=torch.int64)
        lengths = self.lengths[chosen]
        steps = torch.arange(int(lengths.max())).unsqueeze(1)
        # Past its end a row reads some other row's token, which the product then zeroes.
        places = (self.starts[chosen] + steps).clamp_(max=len(self.flat) - 1)
        inputs = self.flat[places].long() * (steps < lengths)
        return SequenceBatch(inputs, lengths, None if self.targets is None else self.targets[chosen])


class LengthBucketSampler:
    """Batches of rows of similar length, in an order that seed and epoch alone decide.

    Rows are shuffled, cut into pools of many batches, sorted by length within each pool, cut into batches,
    and the batches are shuffled. Without shuffling, the whole set is sorted by length once. With several
    replicas each global batch is dealt out to them, so that all take equally many and equally long batches;
    to make the last batch even, some of its rows are given twice.

    Args:
        lengths: `[N]`, the length of each row.
        batch_size: rows a batch and replica.
        shuffle: mix the rows anew in each epoch.
        seed: of the shuffling.
        pool_batches: batches a pool: more of them pad less and mix less.
        drop_last: leave out the last, smaller batch.
        num_replicas: processes that share the data.
        rank: which of them this is.

    Raises:
        ValueError: no rows, a batch size below 1, or a rank out of range.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        pool_batches: int = 50,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if batch_size < 1 or pool_batches < 1:
            raise ValueError(
                f"batch_size and pool_batches are at least 1; got {batch_size} and {pool_batches}"
            )
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank lies in 0 to {num_replicas - 1}; got {rank}")
        if not len(lengths):
            raise ValueError("there are no rows to sample from")
        self.lengths = lengths
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.pool_batches = pool_batches
        self.drop_last = drop_last
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self._skip = 0
        if not len(self):
            raise ValueError(
                f"drop_last leaves no batch: {len(lengths)} rows, batches of {batch_size * num_replicas}"
            )

    def __len__(self) -> int:
        """Batches an epoch and replica."""
        whole = self.batch_size * self.num_replicas
        return len(self.lengths) // whole if self.drop_last else math.ceil(len(self.lengths) / whole)

    @property
    def ends_with_a_double(self) -> bool:
        """Whether the last row of an unshuffled pass is another replica's too."""
        return not self.drop_last and 0 < len(self.lengths) % self.num_replicas <= self.rank

    @property
    def skip(self) -> int:
        """Batches that the next pass leaves out because they were given before an interruption."""
        return self._skip

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        if epoch != self.epoch:
            self._skip = 0
        self.epoch = epoch

    def resume(self, epoch: int, position: int) -> None:
        """Let the next pass be that of `epoch`, from batch `position` on."""
        self.epoch, self._skip = epoch, position

    def __iter__(self) -> Iterator[list[int]]:
        skip, self._skip = self._skip, 0
        for chunk in self._chunks()[skip:]:
            rows = chunk.tolist()
            if (missing := -len(rows) % self.num_replicas) > 0:
                rows += (rows * missing)[:missing]
            yield rows[self.rank :: self.num_replicas]

    def _chunks(self) -> list[Tensor]:
        """The global batches of this epoch, in order."""
        whole, rows = self.batch_size * self.num_replicas, len(self.lengths)
        if not self.shuffle:
            return list(self.lengths.argsort(stable=True).split(whole))[: len(self)]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(rows, generator=generator)
        if self.drop_last:
            order = order[: len(self) * whole]
        pools = order.split(whole * self.pool_batches)
        chunks = [c for pool in pools for c in pool[self.lengths[pool].argsort(stable=True)].split(whole)]
        return [chunks[place] for place in torch.randperm(len(chunks), generator=generator).tolist()]


def mixed_seed(*parts: int) -> int:
    """One seed from several, such that no two lists of small numbers share it by accident."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def end_with_the_run(worker: int) -> None:
    """Let a data-loading worker end when its run ends, however that ends, and not before.

    Ctrl-C and SIGTERM often reach the whole group of processes; a worker that obeyed at once would break off
    the step that the run is to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S))
    if sys.platform == "linux":
        parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


class Sampler(Protocol):
    """What `SequenceLoader` asks of a sampler: keys of batches, in an order that the epoch decides."""

    shuffle: bool
    epoch: int

    @property
    def skip(self) -> int:
        """Batches that the next pass leaves out."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def resume(self, epoch: int, position: int) -> None:
        """Let the next pass be that of `epoch`, from batch `position` on."""


class SequenceLoader:
    """Iterates over `dataset[key]` for each key of the sampler (a list of rows), and knows where it stands.

    `state_dict` counts the batches that were handed out, not those that workers have prepared, so that a
    pass continues with exactly the next batch.

    A dataset that draws random numbers, and says so by a true attribute `draws`, is indexed by
    `(epoch, key)`: what it draws can then depend on the epoch, and on nothing that an interruption would
    lose.

    Args:
        dataset: gives a batch for a key of the sampler.
        sampler: gives the keys of the batches, such as lists of rows.
        num_workers: processes that gather batches ahead; 0 gathers in this one.
        pin_memory: hand out batches in page-locked memory.
        reorder: let each epoch have an order of its own; without, all have that of the first.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: Sampler,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        reorder: bool = True,
    ) -> None:
        self._dataset, self._sampler = dataset, sampler
        self._keys: Any = _WithEpoch(sampler) if getattr(dataset, "draws", False) else sampler
        self._workers, self._pin_memory = num_workers, pin_memory
        self._iterator: Iterator[Any] | None = None
        self._position = 0
        # Trainers look for `sampler` to announce the epoch, and would replace one that reorders in vain.
        if sampler.shuffle and reorder:
            self.sampler = sampler

    def __len__(self) -> int:
        """Batches a pass."""
        return len(self._sampler)

    @property
    def ends_with_a_double(self) -> bool:
        """Whether the last row of a pass in a fixed order is another process's too, to share evenly."""
        return not self._sampler.shuffle and getattr(self._sampler, "ends_with_a_double", False)

    def __iter__(self) -> Iterator[Any]:
        self._position = self._sampler.skip
        for batch in self._batches():
            self._position += 1
            yield batch

    def _batches(self) -> Iterator[Any]:
        if self._workers or self._pin_memory:
            # By this name trainers find the workers that they end with a run.
            self._iterator = iter(
                DataLoader(
                    self._dataset,
                    sampler=self._keys,
                    batch_size=None,
                    num_workers=self._workers,
                    pin_memory=self._pin_memory,
                    worker_init_fn=end_with_the_run,
                    # PyTorch draws the workers' seeds; drawn from the run's own generator, the numbers that
                    # follow would depend on whether there are workers, and on interruptions.
                    generator=torch.Generator().manual_seed(mixed_seed(self._sampler.epoch)),
                )
            )
            return self._iterator
        return (self._dataset[key] for key in self._keys)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        return {"epoch": self._sampler.epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next pass continue where `state` was taken."""
        self._sampler.resume(state["epoch"], state["position"])
        self._position = state["position"]


class _WithEpoch:
    """The keys of a sampler, each with the epoch that they are of."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return ((self._sampler.epoch, key) for key in self._sampler)
