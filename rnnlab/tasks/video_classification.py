"""Many to one: the class of a clip.

Legend: `T` frames, `B` batch, `C` colour channels, `H` height, `W` width, `F` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rnnlab.data.vectors import VectorSequences
from rnnlab.data.video import MOVING_DIGITS, MovingClips, MovingDigits, as_floats, read_clip
from rnnlab.nn.frames import FrameEncoder
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler
from rnnlab.tasks.classification import Classification


class VideoClassification(Classification):
    """A small convolutional network for each frame, recurrent layers over frames, pooling and dense layers.

    Args:
        labels: names of the classes.
        frame: `[C, H, W]`, the shape of a frame.
        moving: arguments of `MovingDigits`, where the clips are generated; else None.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer, scheduler: see `Task`.
        channels: of the convolutions; see `FrameEncoder`.
        features: F, numbers that the recurrent layers read of each frame.
        pooling: `"last"`, `"mean"`, `"max"` or `"attention"`.
        dense_sizes: features of dense layers before the last one.
        dropout: probability of zeroing a feature before each dense layer.
        label_smoothing: share of each target that is spread over all classes.

    Raises:
        ValueError: a setting out of range.

    Source: Donahue et al. 2015, "Long-term Recurrent Convolutional Networks for Visual Recognition and
    Description", section 4.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        frame: Sequence[int],
        moving: Mapping[str, Any] | None,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        channels: Sequence[int] = (8, 16),
        features: int = 64,
        pooling: Literal["last", "mean", "max", "attention"] = "last",
        dense_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            labels=labels, optimizer=optimizer, scheduler=scheduler, label_smoothing=label_smoothing
        )
        self.frame = list(frame)
        self.input_shape = (None, *self.frame)
        self.moving = None if moving is None else MovingDigits(**moving)
        self.frames = FrameEncoder(frame, channels=channels, features=features)
        self.build_layers(features, model, pooling=pooling, dense_sizes=dense_sizes, dropout=dropout)

    def embed(self, inputs: Tensor) -> Tensor:
        """What each frame shows, `[T, B, F]`, of clips `[T, B, C, H, W]`."""
        return self.frames(inputs)

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """The most probable class of each clip.

        Args:
            inputs: `.npy` files, or `moving_digits:7`, the seventh test clip, where the model has learned
                from generated ones.

        Returns:
            A dict a clip: `input`, `label`, `probability`, and `probabilities` by label.

        Raises:
            ValueError: a clip cannot be read, or its frames are not of the model's shape.
        """
        clips = [self._find(word) for word in inputs]
        for word, clip in zip(inputs, clips, strict=True):
            if list(clip.shape[1:]) != self.frame:
                raise ValueError(
                    f"{word}: frames of {list(clip.shape[1:])} (channels, height, width); the model reads "
                    f"{self.frame}"
                )
        if not clips:
            return []
        return self.class_records(inputs, self.class_probabilities(VectorSequences(clips)))

    def _find(self, word: str) -> Tensor:
        name, _, number = word.partition(":")
        if name != MOVING_DIGITS or Path(word).exists():
            return as_floats(read_clip(word))
        if self.moving is None:
            raise ValueError(f"{word}: this model has learned from files; give an .npy file")
        clips = MovingClips(self.moving, "test", 0)
        if not number.isdigit() or not 1 <= int(number) <= len(clips):
            raise ValueError(f"{word}: test clips are {MOVING_DIGITS}:1 to {MOVING_DIGITS}:{len(clips)}")
        return clips.clip(int(number) - 1)[0]

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test clips with `clip`, `truth`, `predicted` and `confidence`."""
        return [
            {
                "clip": record["input"],
                "truth": truth,
                "predicted": record["label"],
                "confidence": record["probability"],
            }
            for record, (_, _, truth) in self._said(datamodule, n)
        ]

    def _said(self, datamodule: Any, n: int) -> list[tuple[dict[str, Any], tuple[str, Tensor, str]]]:
        examples = datamodule.examples("test", n)
        probabilities = self.class_probabilities(VectorSequences([clip for _, clip, _ in examples]))
        return list(zip(self.class_records([e[0] for e in examples], probabilities), examples, strict=True))

    def draw_pictures(self, datamodule: Any, folder: Path) -> None:
        """Draw frames of some test clips with what is said of them, `clips.png` in the folder."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, paid only by who draws
        from matplotlib.figure import Figure

        said = self._said(datamodule, 6)
        columns = min(8, max(len(clip) for _, (_, clip, _) in said))
        figure = Figure(figsize=(1.1 * columns, 1.35 * len(said)), layout="constrained")
        FigureCanvasAgg(figure)
        for row, (record, (_, clip, truth)) in enumerate(said):
            shown = torch.linspace(0, len(clip) - 1, min(columns, len(clip))).round().long()
            low, high = float(clip.min()), float(clip.max())
            for column, number in enumerate(shown.tolist()):
                axes = figure.add_subplot(len(said), columns, row * columns + column + 1)
                picture = ((clip[number] - low) / max(high - low, 1e-9)).permute(1, 2, 0)
                colour = picture if picture.shape[2] == 3 else picture[:, :, 0]
                axes.imshow(colour.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_xlabel(f"frame {number + 1}", fontsize=6)
                if column == 0:
                    right = record["label"] == truth
                    axes.set_title(
                        f"{truth}: said {record['label']} ({record['probability']:.0%})",
                        fontsize=8,
                        loc="left",
                        color="#2b3440" if right else "#c8442c",
                    )
        figure.savefig(folder / "clips.png", dpi=110)
