"""From a sequence of outputs to one vector a row.

Legend: `T` time, `B` batch, `H` features. Every module maps outputs `[T, B, H]` and lengths `[B]` (int64, on
the CPU) to `[B, H]`, and what stands past a row's length never reaches the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def valid_steps(outputs: Tensor, lengths: Tensor) -> Tensor:
    """Mask `[T, B]`, true where a step lies within its row's length."""
    steps = torch.arange(outputs.shape[0], device=outputs.device)
    return steps.unsqueeze(1) < lengths.to(outputs.device, non_blocking=True)


class LastStep(nn.Module):
    """The output that has read the whole row: at its last valid step.

    Where two directions stand side by side in `H`, the second half has read the whole row at step 0, and is
    taken from there: `[h_forward(len-1), h_backward(0)]`.

    Args:
        size: `H`.
        directions: 2 if forward and backward outputs are concatenated, else 1.
    """

    def __init__(self, size: int, *, directions: int = 1) -> None:
        super().__init__()
        self.size, self.directions = size, directions

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        rows = torch.arange(outputs.shape[1], device=outputs.device)
        last = outputs[lengths.to(outputs.device) - 1, rows]
        if self.directions == 1:
            return last
        half = self.size // 2
        return torch.cat([last[:, :half], outputs[0, :, half:]], dim=1)


class MeanPool(nn.Module):
    """The mean over the valid steps.

    Args:
        size: `H`.
        directions: unused by the mean; accepted so that all poolings are built alike.
    """

    def __init__(self, size: int, *, directions: int = 1) -> None:
        super().__init__()

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        kept = outputs.masked_fill(~valid_steps(outputs, lengths).unsqueeze(2), 0.0)
        return kept.sum(0) / lengths.to(outputs).unsqueeze(1)


class MaxPool(nn.Module):
    """The largest value of each feature over the valid steps.

    Args:
        size: `H`.
        directions: unused by the maximum; accepted so that all poolings are built alike.
    """

    def __init__(self, size: int, *, directions: int = 1) -> None:
        super().__init__()

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        return outputs.masked_fill(~valid_steps(outputs, lengths).unsqueeze(2), -torch.inf).amax(0)


class AttentionPool(nn.Module):
    """A weighted mean with learned weights.

        u_t = tanh(W h_t + b),  a = softmax over valid t of (v . u_t),  result = sum_t a_t h_t

    Source: Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", eq. 5-7.

    Args:
        size: `H`, also the size of `u_t`.
        directions: unused by attention; accepted so that all poolings are built alike.
    """

    def __init__(self, size: int, *, directions: int = 1) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def weights(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """The weights `a`, `[T, B]`: each column sums to 1, and is 0 past its row's length."""
        scores = self.score(torch.tanh(self.hidden(outputs))).squeeze(2)
        return scores.masked_fill(~valid_steps(outputs, lengths), -torch.inf).softmax(0)

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        kept = outputs.masked_fill(~valid_steps(outputs, lengths).unsqueeze(2), 0.0)
        return (self.weights(outputs, lengths).unsqueeze(2) * kept).sum(0)


POOLINGS: dict[str, type[LastStep] | type[MeanPool] | type[MaxPool] | type[AttentionPool]] = {
    "last": LastStep,
    "mean": MeanPool,
    "max": MaxPool,
    "attention": AttentionPool,
}


def make_pooling(name: str, size: int, *, directions: int = 1) -> nn.Module:
    """Build the pooling of this name: last, mean, max or attention.

    Raises:
        ValueError: no pooling has this name.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling {name!r} is not known; choose from {', '.join(POOLINGS)}")
    return POOLINGS[name](size, directions=directions)
