"""Polyphonic music as piano rolls: the next frame from those before it.

Legend: `T` frames, `B` batch, `K` keys (88).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import SequenceBatch, mixed_seed
from rnnlab.data.piano_rolls import KEYS, Pieces, read_rolls
from rnnlab.data.splits import SPLITS, Split, check_fractions, complete_splits


class Rolls(Dataset[SequenceBatch]):
    """Pieces whole: inputs `[T, B, K]` are a silent frame and all frames but the last, targets all frames.

    Args:
        pieces: boolean rolls `[T, K]`.
    """

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        silence = torch.zeros(1, KEYS, dtype=torch.uint8)
        rows = [row for piece in pieces for row in (silence, piece.to(torch.uint8))]
        # One flat tensor in which each piece stands behind a silent frame.
        self.flat = torch.cat(rows).contiguous()
        self.lengths = torch.tensor([len(piece) for piece in pieces])
        self.starts = (self.lengths + 1).cumsum(0) - self.lengths - 1

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Sequence[int]) -> SequenceBatch:
        chosen = torch.as_tensor(rows)
        return self.gather(self.starts[chosen], self.lengths[chosen])

    def gather(self, starts: Tensor, lengths: Tensor, shifts: Tensor | None = None) -> SequenceBatch:
        """Frames from places `[B]` of the flat tensor on, transposed by `shifts` `[B]` keys upwards."""
        steps = torch.arange(int(lengths.max()) + 1).unsqueeze(1)
        frames = self.flat[(starts + steps).clamp_(max=len(self.flat) - 1)]
        if shifts is not None and bool(shifts.any()):
            places = (torch.arange(KEYS) - shifts.unsqueeze(1)) % KEYS
            frames = frames.gather(2, places.expand(len(steps), -1, -1))
        frames[steps > lengths] = 0
        frames = frames.float()
        inputs = frames[:-1].masked_fill((steps[:-1] >= lengths).unsqueeze(2), 0.0)
        return SequenceBatch(inputs, lengths, frames[1:].contiguous())


class DrawnRolls(Dataset[SequenceBatch]):
    """Parts of pieces, drawn anew in each epoch and transposed at random; indexed by `(epoch, rows)`.

    A piece gives one part for each `window` frames, each somewhere near its place.

    Args:
        rolls: the pieces.
        window: frames of a part; None for whole pieces.
        transpose: most semitones up or down; less where a key would leave the piano.
        seed: with epoch and rows it decides the parts.
    """

    draws = True

    def __init__(self, rolls: Rolls, window: int | None, transpose: int, seed: int) -> None:
        self.rolls, self.transpose, self.seed = rolls, transpose, seed
        window = window or int(rolls.lengths.max())
        parts = (rolls.lengths + window - 1) // window
        self.piece = torch.arange(len(rolls)).repeat_interleave(parts)
        first = (parts.cumsum(0) - parts).repeat_interleave(parts)
        self.place = (torch.arange(len(self.piece)) - first) * window
        self.lengths = rolls.lengths[self.piece].clamp(max=window)
        played = torch.stack(
            [
                rolls.flat[start : start + length + 1].any(0)
                for start, length in zip(rolls.starts.tolist(), rolls.lengths.tolist(), strict=True)
            ]
        ).int()
        self.below = played.argmax(1).clamp(max=transpose)
        self.above = played.flip(1).argmax(1).clamp(max=transpose)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> SequenceBatch:
        epoch, rows = key
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, *rows))
        chosen = torch.as_tensor(rows)
        piece, lengths = self.piece[chosen], self.lengths[chosen]
        move = ((torch.rand(len(rows), generator=generator) - 0.5) * lengths).round().long()
        last = self.rolls.lengths[piece] - lengths
        starts = self.rolls.starts[piece] + (self.place[chosen] + move).clamp(min=0).minimum(last)
        below, above = self.below[piece], self.above[piece]
        drawn = torch.rand(len(rows), generator=generator) * (below + above + 1)
        return self.rolls.gather(starts, lengths, drawn.long() - below)


class MusicData(DataModule):
    """Pieces of music as piano rolls.

    A source with splits of its own keeps them; what it lacks is taken from its training pieces by a hash of
    their notes.

    Args:
        source: a `.mat` or `.json` file; see `rnnlab.data.piano_rolls.read_rolls`.
        window: frames of the parts of pieces that training reads; None for whole pieces. Validation and test
            read whole pieces.
        transpose: most semitones by which training transposes a part, up or down.
        frames_per_beat: how fast the rolls are, for the MIDI files that are written of samples.
        validation: fraction for validation, where the source has no such split.
        test: fraction for the test, where the source has no such split.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read, or has too few pieces.
    """

    def __init__(
        self,
        source: str,
        *,
        window: int | None = None,
        transpose: int = 0,
        frames_per_beat: float = 2.0,
        validation: float = 0.1,
        test: float = 0.1,
        batch_size: int = 16,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        check_fractions(validation, test)
        if window is not None and window < 2:
            raise ValueError(f"window is at least 2, or None for whole pieces; got {window}")
        if not 0 <= transpose < KEYS // 2:
            raise ValueError(f"transpose is from 0 to {KEYS // 2 - 1}; got {transpose}")
        if frames_per_beat <= 0:
            raise ValueError(f"frames_per_beat is above 0; got {frames_per_beat}")
        self.source = source
        self.window, self.transpose, self.frames_per_beat = window, transpose, frames_per_beat
        self.fractions = {"validation": validation, "test": test}

    def read(self) -> Mapping[Split, Any]:
        """Read and split the pieces."""
        self.pieces = self._split(read_rolls(Path(self.source).expanduser()))
        rolls = {split: Rolls(self.pieces[split]) for split in SPLITS}
        train = DrawnRolls(rolls["train"], self.window, self.transpose, mixed_seed(self.seed, 0))
        return {**rolls, "train": train}

    def _split(self, own: Pieces) -> Pieces:
        found = complete_splits(
            own,
            lambda train: [blake2b(piece.numpy().tobytes(), digest_size=16).hexdigest() for piece in train],
            lambda train, rows: [train[row] for row in rows],
            validation=self.fractions["validation"],
            test=self.fractions["test"],
            origin=self.source,
            unit="piece",
            advice="give more pieces, or splits train, valid and test",
        )
        for split in ("validation", "test"):
            if max(map(len, found[split])) < 2:
                raise ValueError(
                    f"{self.source}: the {split} split has no piece of two frames, so nothing to predict"
                )
        return found

    def facts(self) -> dict[str, Any]:
        """How fast the rolls are."""
        return {"frames_per_beat": self.frames_per_beat}

    def summary(self) -> dict[str, Any]:
        """Pieces and frames by split, and the keys that sound."""
        self.need_setup()
        every = torch.cat([piece for pieces in self.pieces.values() for piece in pieces])
        keys = every.any(0).nonzero().flatten()
        low, high = (int(keys[0]) + 21, int(keys[-1]) + 21) if len(keys) else (0, 0)
        return {
            "source": self.source,
            "pieces": {split: len(self.pieces[split]) for split in SPLITS},
            "frames": {split: sum(map(len, self.pieces[split])) for split in SPLITS},
            "keys": f"MIDI {low} to {high}, {every.sum().item() / len(every):.1f} at a time",
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, Tensor]]:
        """Names of pieces, by which `predict` finds them, and rolls, evenly spaced over the split."""
        self.need_setup()
        pieces = self.pieces[split]
        return [(f"{self.source}:{split}:{row + 1}", pieces[row]) for row in evenly(range(len(pieces)), n)]
