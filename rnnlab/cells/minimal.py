"""Gated cells whose gates see no past, so that a sequence could run as a parallel scan.

Legend: `B` batch, `I` input, `H` hidden.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Cell


class _InputGated(Cell):
    """A cell without recurrent weights: `weight_ih` `[G*H, I]` and one `bias_ih` `[G*H]`."""

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        del self.weight_hh
        self.bias_hh = None


class MinGRUCell(_InputGated):
    """The GRU stripped of what depends on the past.

        z  = sigmoid(W_z x + b_z)
        h' = (1 - z) * h + z * (W_h x + b_h)

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; two gates, in the order z, h; one bias, whether `bias` is True
    or "single".

    Source: Feng et al. (2024), "Were RNNs all we needed?", section 3.1.
    """

    gates = 2

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z, candidate = F.linear(x, self.weight_ih, self.bias_ih).chunk(2, dim=-1)
        z = torch.sigmoid(z)
        return (1 - z) * h + z * candidate


class MinLSTMCell(_InputGated):
    """The LSTM stripped of what depends on the past, its two gates summing to one.

        f, i = sigmoid(W_f x + b_f), sigmoid(W_i x + b_i)
        h' = f / (f + i) * h + i / (f + i) * (W_h x + b_h)

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; three gates, in the order f, i, h; one bias, whether `bias` is
    True or "single".

    Source: Feng et al. (2024), "Were RNNs all we needed?", section 3.2.
    """

    gates = 3

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        f, i, candidate = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, dim=-1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        return f / (f + i) * h + i / (f + i) * candidate
