"""One long text as parallel streams, read window by window with the state carried on.

Legend: `T` steps of a window, `B` streams, `N` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.batching import mixed_seed

# The target of a step that has none; the number that PyTorch's cross-entropy leaves out by default.
NO_TARGET = -100


@dataclass(frozen=True)
class StreamBatch:
    """One window of all streams, time first.

    Attributes:
        inputs: `[T, B]`, int64.
        targets: `[T, B]`, the next tokens; `NO_TARGET` past the end of a stream.
        first: whether the streams begin here; else the state of the window before is carried on.
    """

    inputs: Tensor
    targets: Tensor
    first: bool

    def __len__(self) -> int:
        """The number of streams, `B`."""
        return self.inputs.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> StreamBatch:
        """A copy on the device."""
        inputs = self.inputs.to(device, non_blocking=non_blocking)
        return StreamBatch(inputs, self.targets.to(device, non_blocking=non_blocking), self.first)

    def pin_memory(self) -> StreamBatch:
        """A copy in page-locked memory, which moves to a GPU without waiting."""
        return StreamBatch(self.inputs.pin_memory(), self.targets.pin_memory(), self.first)


class TokenStreams(Dataset[StreamBatch]):
    """Tokens cut into `B` streams of equal length; indexing by `(start, stop)` gives that window.

    The first token is predicted from `opening`, each further one from the one before, also at the start of a
    stream. In training the last tokens, fewer than `B`, that do not fill all streams are left out; in
    evaluation the last streams are shorter, so that every token counts once.

    Args:
        tokens: `[N]`.
        streams: `B`, over all replicas.
        opening: what stands before the first token, the number of `<eos>`.
        whole: keep every token; for evaluation.
        num_replicas: processes that share the streams.
        rank: which of them this is.

    Raises:
        ValueError: fewer tokens than streams, or streams that the replicas cannot share evenly.
    """

    def __init__(
        self,
        tokens: Tensor,
        streams: int,
        *,
        opening: int,
        whole: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if streams < 1 or streams % num_replicas:
            raise ValueError(
                f"the streams are at least 1 and shared evenly by {num_replicas} processes; got {streams}"
            )
        if len(tokens) < streams:
            raise ValueError(
                f"{streams} streams need at least as many tokens; there are {len(tokens)}: give more text or "
                "a smaller batch size"
            )
        if whole:
            self.steps = math.ceil(len(tokens) / streams)
            missing = self.steps * streams - len(tokens)
            targets = torch.cat([tokens, tokens.new_full((missing,), NO_TARGET)])
        else:
            self.steps = len(tokens) // streams
            targets = tokens[: self.steps * streams]
        inputs = torch.cat([targets.new_tensor([opening]), targets[:-1]])
        share = slice(rank * streams // num_replicas, (rank + 1) * streams // num_replicas)
        # Past the end of a shorter stream any token may stand, as nothing is learned from it.
        self.inputs = inputs.view(streams, self.steps)[share].clamp(min=0).t().contiguous()
        self.targets = targets.view(streams, self.steps)[share].t().contiguous()

    def __len__(self) -> int:
        """Steps of a stream."""
        return self.steps

    def __getitem__(self, window: tuple[int, int]) -> StreamBatch:
        start, stop = window
        return StreamBatch(self.inputs[start:stop].long(), self.targets[start:stop].long(), start == 0)


class WindowSampler:
    """Windows `(start, stop)` that tile a stream, in order, as truncated backpropagation reads it.

    With `vary`, lengths are drawn anew in each epoch, so that windows do not always end at the same places:
    from a normal distribution around `length`, or in one case of 20 around half of it, at least 5, and then
    stretched to tile the stream. Every epoch has as many windows.

    Args:
        steps: of the stream.
        length: `T`, typical steps of a window.
        vary: draw the lengths.
        seed: of the lengths; with the epoch it decides them.

    Raises:
        ValueError: a length below 1, or below 10 with `vary`.

    Source: Merity, Keskar and Socher 2018, "Regularizing and Optimizing LSTM Language Models", section 5.
    """

    def __init__(self, steps: int, length: int, *, vary: bool = False, seed: int = 0) -> None:
        least = 10 if vary else 1
        if length < least:
            when = ", where its length varies" if vary else ""
            raise ValueError(f"a window has at least {least} steps{when}; got {length}")
        self.steps, self.length, self.seed = steps, length, seed
        self.shuffle = vary
        self.epoch = 0
        self._skip = 0
        mean = 0.975 * length if vary else length
        self._count = max(1, round(steps / mean) if vary else math.ceil(steps / mean))

    def __len__(self) -> int:
        """Windows an epoch."""
        return self._count

    @property
    def skip(self) -> int:
        """Windows that the next pass leaves out because they were given before an interruption."""
        return self._skip

    def set_epoch(self, epoch: int) -> None:
        """Choose the windows of this epoch."""
        if epoch != self.epoch:
            self._skip = 0
        self.epoch = epoch

    def resume(self, epoch: int, position: int) -> None:
        """Let the next pass be that of `epoch`, from window `position` on."""
        self.epoch, self._skip = epoch, position

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skip, self._skip = self._skip, 0
        ends = self._ends()
        yield from list(zip([0, *ends], ends, strict=False))[skip:]

    def _ends(self) -> list[int]:
        if not self.shuffle:
            return [min(self.steps, self.length * (i + 1)) for i in range(self._count)]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        around = torch.where(torch.rand(self._count, generator=generator) < 0.95, 1.0, 0.5) * self.length
        drawn = (around + 5 * torch.randn(self._count, generator=generator)).clamp(min=5).double().cumsum(0)
        return [int(end) for end in (drawn * (self.steps / drawn[-1])).round()]
