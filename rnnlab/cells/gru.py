"""Gated recurrent units. Legend: `B` batch, `I` input, `H` hidden."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rnnlab.cells.base import Cell


class GRUCell(Cell):
    """The gated recurrent unit, with the reset gate *after* the recurrent matrix product.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    The reset gate multiplies `W_hn h + b_hn`; in the first version of Cho et al. it multiplies `h` before the
    product, `W_hn (r * h)`. Weights trained for one are wrong for the other.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`.

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder for statistical
    machine translation", in the form of cuDNN. Parameters as in `torch.nn.GRUCell`.
    """

    gates = 3

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_r, x_z, x_n = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, dim=-1)
        h_r, h_z, h_n = F.linear(h, self.weight_hh, self.bias_hh).chunk(3, dim=-1)
        r = torch.sigmoid(x_r + h_r)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        return (1 - z) * n + z * h
