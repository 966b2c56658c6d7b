"""Clips with one label each: digits that move, generated, and arrays from files.

Legend: `T` frames, `B` batch, `C` colour channels, `H` height, `W` width, `N` clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from rnnlab.data.audio import draw
from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import SequenceBatch, mixed_seed
from rnnlab.data.splits import SPLIT_NAMES, SPLITS, Split, check_fractions, complete_splits, split_indices

MOVING_DIGITS = "moving_digits"
# Rows and columns a frame, rows counted downwards.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "up": (-1, 0),
    "up right": (-1, 1),
    "right": (0, 1),
    "down right": (1, 1),
    "down": (1, 0),
    "down left": (1, -1),
    "left": (0, -1),
    "up left": (-1, -1),
}
_WIDTH = 8  # of a digit, in pixels


@dataclass(frozen=True)
class MovingDigits:
    """Clips `[T, 1, size, size]` of a handwritten digit that moves a pixel a frame, in one of 8 directions.

    In each frame some of the digit's pixels are hidden, and the whole is noisy. A single frame shows the
    digit badly, and its direction not at all.

    Args:
        target: what is to be told: `"digit"`, `"direction"` or `"both"`.
        size: height and width of a frame, in pixels.
        least: fewest frames of a clip.
        most: most of them.
        hidden: probability that a pixel of the digit is dark in a frame.
        noise: standard deviation of the noise, where a pixel is from 0 to 1.
        clips: of training, drawn anew in each epoch.
        eval_clips: of validation, and of the test; always the same.

    Raises:
        ValueError: a setting out of range.

    The digits are the 1,797 of scikit-learn, from Alpaydin and Kaynak 1998 (UCI, "Optical Recognition of
    Handwritten Digits"); the clips are after Srivastava, Mansimov and Salakhutdinov 2015, "Unsupervised
    Learning of Video Representations using LSTMs", section 3.1.
    """

    target: Literal["digit", "direction", "both"] = "both"
    size: int = 20
    least: int = 6
    most: int = 12
    hidden: float = 0.4
    noise: float = 0.2
    clips: int = 4000
    eval_clips: int = 1000

    def __post_init__(self) -> None:
        if self.target not in ("digit", "direction", "both"):
            raise ValueError(f"target is 'digit', 'direction' or 'both'; got {self.target!r}")
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least is at least 1 and not above most; got {self.least} and {self.most}")
        if self.size < _WIDTH + self.most - 1:
            raise ValueError(
                f"size={self.size}: a digit of {_WIDTH} pixels that moves for {self.most} frames needs "
                f"{_WIDTH + self.most - 1}"
            )
        if not 0 <= self.hidden < 1 or self.noise < 0:
            raise ValueError(
                f"hidden lies in [0, 1), noise is at least 0; got {self.hidden} and {self.noise}"
            )
        if self.clips < 1 or self.eval_clips < 1:
            raise ValueError(f"clips and eval_clips are at least 1; got {self.clips} and {self.eval_clips}")

    @property
    def labels(self) -> list[str]:
        """Every class, such as `"7"`, `"left"` or `"7 left"`."""
        digits, directions = list(map(str, range(10))), list(DIRECTIONS)
        if self.target == "both":
            return [f"{digit} {direction}" for digit in digits for direction in directions]
        return digits if self.target == "digit" else directions

    def lengths(self, clips: int, seed: int) -> Tensor:
        """Frames of so many clips, `[N]`, from `least` to `most`."""
        generator = torch.Generator().manual_seed(mixed_seed(seed, clips))
        return torch.randint(self.least, self.most + 1, (clips,), generator=generator)

    def draw(
        self, split: Split, frames: int, generator: torch.Generator, *, clean: bool = False
    ) -> tuple[Tensor, str]:
        """A clip `[T, 1, size, size]` of so many frames, and its label.

        Args:
            split: whose digits; no digit is in two of them.
            frames: T.
            generator: of all that is drawn.
            clean: leave out what hides the digit.
        """
        images, digits, rows = _digits()
        row = rows[split][draw(0, len(rows[split]) - 1, generator)]
        names = list(DIRECTIONS)
        name = names[draw(0, len(names) - 1, generator)]
        steps = DIRECTIONS[name]
        room = self.size - _WIDTH
        starts = [draw(0, room - abs(step) * (frames - 1), generator) for step in steps]
        # Against the axis a path begins at its far end.
        starts = [room - start if step < 0 else start for start, step in zip(starts, steps, strict=True)]
        shown = images[row].expand(frames, _WIDTH, _WIDTH)
        if not clean:
            shown = shown * (torch.rand(shown.shape, generator=generator) >= self.hidden)
        time, pixels = torch.arange(frames).view(-1, 1, 1), torch.arange(_WIDTH)
        tops, lefts = (start + step * time for start, step in zip(starts, steps, strict=True))
        clip = torch.zeros(frames, 1, self.size, self.size)
        clip[time, 0, tops + pixels.unsqueeze(1), lefts + pixels] = shown
        if not clean:
            clip += self.noise * torch.randn(clip.shape, generator=generator)
        digit = str(int(digits[row]))
        return clip, {"digit": digit, "direction": name, "both": f"{digit} {name}"}[self.target]


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor, dict[Split, list[int]]]:
    """The handwritten digits, `[1797, 8, 8]` from 0 to 1, what they are, and those of each split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            f"{MOVING_DIGITS} needs the package scikit-learn: pip install 'rnnlab[digits]'"
        ) from None
    data = load_digits()
    rows = split_indices([str(number) for number in range(len(data.target))], validation=0.15, test=0.15)
    return torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target), rows


class ClipSet(Dataset[SequenceBatch]):
    """Clips with a label each; indexing by a list of rows gives their `SequenceBatch`, `[T, B, C, H, W]`.

    Args:
        lengths: `[N]`, frames.
        labels: every class.
    """

    draws = True

    def __init__(self, lengths: Tensor, labels: Sequence[str]) -> None:
        self.lengths = lengths
        self.numbers = {label: number for number, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self.lengths)

    def clip(self, row: int, epoch: int = 0) -> tuple[Tensor, str]:
        """A clip `[T, C, H, W]` and its label."""
        raise NotImplementedError

    def name(self, row: int) -> str:
        """What `predict` finds the clip by."""
        raise NotImplementedError

    def __getitem__(self, key: Sequence[int] | tuple[int, Sequence[int]]) -> SequenceBatch:
        epoch, rows = key if isinstance(key, tuple) else (0, key)
        clips, labels = zip(*(self.clip(row, epoch) for row in rows), strict=True)
        targets = torch.tensor([self.numbers[label] for label in labels])
        return SequenceBatch(pad_sequence(list(clips)), self.lengths[torch.as_tensor(rows)], targets)


class MovingClips(ClipSet):
    """Generated clips: those of a row depend on split, seed, epoch and row alone.

    Args:
        moving: how they are drawn.
        split: whose digits they show. The test and validation clips are the same for every seed and epoch.
        seed: of the training clips.
    """

    def __init__(self, moving: MovingDigits, split: Split, seed: int) -> None:
        self.moving, self.split = moving, split
        self.seed = seed if split == "train" else -1 - SPLITS.index(split)
        count = moving.clips if split == "train" else moving.eval_clips
        super().__init__(moving.lengths(count, self.seed), moving.labels)

    def clip(self, row: int, epoch: int = 0) -> tuple[Tensor, str]:
        epoch = epoch if self.split == "train" else 0
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, row))
        return self.moving.draw(self.split, int(self.lengths[row]), generator)

    def name(self, row: int) -> str:
        return f"{MOVING_DIGITS}:{row + 1}"


class StoredClips(ClipSet):
    """Clips that were read from files.

    Args:
        clips: `[T, C, H, W]` each, as they were stored.
        texts: their labels.
        files: where they come from.
        labels: every class.
    """

    def __init__(
        self, clips: Sequence[Tensor], texts: Sequence[str], files: Sequence[Path], labels: Sequence[str]
    ) -> None:
        super().__init__(torch.tensor([len(clip) for clip in clips]), labels)
        self.clips, self.texts, self.files = list(clips), list(texts), list(files)

    def clip(self, row: int, epoch: int = 0) -> tuple[Tensor, str]:
        return as_floats(self.clips[row]), self.texts[row]

    def name(self, row: int) -> str:
        return str(self.files[row])


def as_floats(clip: Tensor) -> Tensor:
    """Bytes from 0 to 255 as numbers from 0 to 1; other numbers as they are."""
    return clip.float() / 255 if clip.dtype == torch.uint8 else clip.float()


def read_clip(path: str | Path) -> Tensor:
    """Read an `.npy` array `[T, H, W]` or `[T, H, W, C]` as `[T, C, H, W]`.

    Raises:
        ValueError: no such file, no such array, one without frames or pixels, or with a NaN or an infinity.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise ValueError(f"{path}: not an array that numpy.load reads ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (3, 4) or array.dtype.kind not in "buif":
        shape = list(getattr(array, "shape", []))
        raise ValueError(
            f"{path}: a clip is an array [T, H, W] or [T, H, W, C] of numbers; got {shape} of "
            f"{getattr(array, 'dtype', type(array).__name__)}"
        )
    if not array.size:
        raise ValueError(f"{path}: the clip is empty: its shape is {list(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: there is a NaN or an infinity in the clip")
    if array.dtype.kind != "u" or array.dtype.itemsize > 1:
        array = array.astype("float32")
    clip = torch.from_numpy(np.ascontiguousarray(array))
    return clip.unsqueeze(1) if clip.ndim == 3 else clip.permute(0, 3, 1, 2).contiguous()


class VideoData(DataModule):
    """Clips with one label each, as batches `[T, B, C, H, W]`.

    Args:
        source: `moving_digits`, generated (see `MovingDigits`); or a folder with a folder of `.npy` clips for
            each class (see `read_clip`), also below folders named train, validation and test. Clips of a
            folder are held in memory, and have the same height, width and channels.
        moving: how the digits move.
        validation: fraction for validation, where the source has no such split; by a hash of the file's name.
        test: fraction for the test, where the source has no such split.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`; the seed is also that of the
            generated training clips.

    Raises:
        ValueError: a setting is out of range; on `setup`, the source cannot be read or learned from.
    """

    def __init__(
        self,
        source: str = MOVING_DIGITS,
        *,
        moving: MovingDigits | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        check_fractions(validation, test)
        self.source, self.moving = source, moving or MovingDigits()
        self.fractions = {"validation": validation, "test": test}

    def read(self) -> dict[Split, ClipSet]:
        """Read or prepare the clips of each split."""
        if self.source == MOVING_DIGITS:
            if self.adopted and self.adopted["moving"] is not None:
                self.moving = MovingDigits(**self.adopted["moving"])
            _digits()  # refuses a machine without them before training begins
            self.labels, self.frame = self.moving.labels, [1, self.moving.size, self.moving.size]
            return {split: MovingClips(self.moving, split, self.seed) for split in SPLITS}
        splits = self._files(Path(self.source).expanduser())
        known = sorted({path.parent.name for path in splits["train"]})
        self.labels = list(self.adopted["labels"]) if self.adopted else known
        if len(self.labels) < 2:
            raise ValueError(f"{self.source}: at least two classes are needed; training has {self.labels}")
        self.frame = list(self.adopted["frame"]) if self.adopted else []
        return {split: self._stored(split, files) for split, files in splits.items()}

    def _files(self, root: Path) -> dict[Split, list[Path]]:
        """The clips of each split, in order."""
        if not root.is_dir():
            raise ValueError(f"data source {self.source!r}: no such folder; {MOVING_DIGITS} is generated")
        named = {
            SPLIT_NAMES[folder.name.lower()]: folder
            for folder in sorted(root.iterdir())
            if folder.is_dir() and folder.name.lower() in SPLIT_NAMES
        }
        own = {split: sorted(folder.glob("*/*.npy")) for split, folder in (named or {"train": root}).items()}
        if not own.get("train"):
            raise ValueError(
                f"{root}: there is no clip for training; needed is a folder of .npy files a class"
            )
        return complete_splits(
            own,
            lambda train: [path.relative_to(root).as_posix() for path in train],
            lambda train, rows: [train[row] for row in rows],
            validation=self.fractions["validation"],
            test=self.fractions["test"],
            origin=str(root),
            unit="clip",
        )

    def _stored(self, split: Split, files: Sequence[Path]) -> StoredClips:
        clips = []
        for file in files:
            clip = read_clip(file)
            self.frame = self.frame or list(clip.shape[1:])
            if list(clip.shape[1:]) != self.frame:
                raise ValueError(
                    f"{file}: frames of {list(clip.shape[1:])} (channels, height, width), where others have "
                    f"{self.frame}; bring all to one size"
                )
            if file.parent.name not in self.labels:
                raise ValueError(
                    f"{file}: the {split} split has class {file.parent.name!r}, which is not among "
                    f"{', '.join(map(repr, self.labels[:12]))}"
                )
            clips.append(clip)
        return StoredClips(clips, [file.parent.name for file in files], files, self.labels)

    def facts(self) -> dict[str, Any]:
        """Labels, shape of a frame, and how digits move, if they do."""
        self.need_setup()
        moving = asdict(self.moving) if self.source == MOVING_DIGITS else None
        return {"labels": list(self.labels), "frame": list(self.frame), "moving": moving}

    def summary(self) -> dict[str, Any]:
        """Clips and frames by split, and what the most frequent label alone gets right in the test."""
        test = self.dataset("test")
        counts = Counter(test.clip(row)[1] for row in range(len(test)))
        return {
            "source": self.source,
            "clips": {split: len(self.dataset(split)) for split in SPLITS},
            "frames": {split: int(self.dataset(split).lengths.float().mean().round()) for split in SPLITS},
            "frame": "channels {}, height {}, width {}".format(*self.frame),
            "labels": len(self.labels),
            "accuracy_of_the_most_frequent_label": round(counts.most_common(1)[0][1] / len(test), 4),
        }

    def examples(self, split: Split, n: int) -> list[tuple[str, Tensor, str]]:
        """Names of clips, the clips `[T, C, H, W]`, and their labels."""
        dataset = self.dataset(split)
        return [(dataset.name(row), *dataset.clip(row)) for row in evenly(range(len(dataset)), n)]
