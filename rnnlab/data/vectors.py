"""Sequences of vectors, such as recordings, in one flat tensor.

Legend: `T` time, `B` batch, `I` features, `N` sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.batching import SequenceBatch


class VectorSequences(Dataset[SequenceBatch]):
    """Float sequences of unlike length; indexing by a list of rows gives their `SequenceBatch`.

    Args:
        sequences: `[T, I]` each, with T at least 1 and the same I.
        targets: `[N, *]`, one entry a sequence, or None.

    Raises:
        ValueError: a sequence is empty, or the targets are not one a sequence.
    """

    def __init__(self, sequences: Sequence[Tensor], targets: Tensor | None = None) -> None:
        self.lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        if targets is not None and len(targets) != len(self.lengths):
            raise ValueError(
                f"one target a sequence is needed; got {len(targets)} for {len(sequences)} sequences"
            )
        if not len(self.lengths) or not self.lengths.all():
            raise ValueError(
                "there is no sequence" if not len(self.lengths) else "a sequence without steps is none"
            )
        self.flat = torch.cat(list(sequences)).float().contiguous()
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.targets = targets

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, number: int) -> Tensor:
        """One sequence, `[T, I]`."""
        return self.flat[self.starts[number] : self.starts[number] + self.lengths[number]]

    def __getitem__(self, rows: Sequence[int] | int) -> SequenceBatch:
        chosen = torch.as_tensor([rows] if isinstance(rows, int) else rows, dtype=torch.int64)
        lengths = self.lengths[chosen]
        steps = torch.arange(int(lengths.max())).unsqueeze(1)
        # Past its end a row reads some other row's step, which is then put to zero.
        places = (self.starts[chosen] + steps).clamp_(max=len(self.flat) - 1)
        inputs = self.flat[places]
        if int(lengths.min()) < len(steps):
            inputs[steps >= lengths] = 0.0
        return SequenceBatch(inputs, lengths, None if self.targets is None else self.targets[chosen])
