"""Relatives of the GRU, mostly with fewer gates. Legend: `B` batch, `I` input, `H` hidden."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.gru import GRUCell
from rnnlab.cells.init import Initialiser


class ResetBeforeGRUCell(GRUCell):
    """The gated recurrent unit as first published, with the reset gate *before* the recurrent matrix product.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)
        h' = (1 - z) * n + z * h

    `GRUCell` has it after the product. The parameters have the same names and shapes, but weights trained for
    one are wrong for the other.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`.

    Source: Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder for statistical
    machine translation", equations 5 to 8, with biases. Courses write an update gate 1 - z and call r the
    relevance gate.
    """

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        sizes = [2 * self.hidden_size, self.hidden_size]
        weight_rz, weight_n = self.weight_hh.split(sizes)
        bias_rz, bias_n = self.bias_hh.split(sizes) if self.bias_hh is not None else (None, None)
        x_rz, x_n = F.linear(x, self.weight_ih, self.bias_ih).split(sizes, dim=-1)
        r, z = torch.sigmoid(x_rz + F.linear(h, weight_rz, bias_rz)).chunk(2, dim=-1)
        n = torch.tanh(x_n + F.linear(r * h, weight_n, bias_n))
        return (1 - z) * n + z * h


class SimplifiedGRUCell(Cell):
    """The gated recurrent unit with an update gate only, as courses introduce it.

        u  = sigmoid(W_iu x + b_iu + W_hu h + b_hu)
        n  = tanh(W_in x + b_in + W_hn h + b_hn)
        h' = u * n + (1 - u) * h

    Here the update gate multiplies the *candidate*, as in the course; `GRUCell`'s z multiplies the old state.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; two gates, in the order u, n.

    Source: Ng (2018), "Sequence models", the simplified GRU, where h is written c and u is Gamma_u.
    """

    gates = 2

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        u, n = gates.chunk(2, dim=-1)
        u, n = torch.sigmoid(u), torch.tanh(n)
        return u * n + (1 - u) * h


class MinimalGatedCell(Cell):
    """The minimal gated unit (MGU): one gate, which resets and updates.

        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
        n  = tanh(W_in x + b_in + W_hn (f * h) + b_hn)
        h' = (1 - f) * h + f * n

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; two gates, in the order f, n.

    Source: Zhou et al. (2016), "Minimal gated unit for recurrent neural networks", section 3.
    """

    gates = 2

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        weight_f, weight_n = self.weight_hh.chunk(2)
        bias_f, bias_n = self.bias_hh.chunk(2) if self.bias_hh is not None else (None, None)
        x_f, x_n = F.linear(x, self.weight_ih, self.bias_ih).chunk(2, dim=-1)
        f = torch.sigmoid(x_f + F.linear(h, weight_f, bias_f))
        n = torch.tanh(x_n + F.linear(f * h, weight_n, bias_n))
        return (1 - f) * h + f * n


class UGRNNCell(Cell):
    """The update-gate recurrent network: a simple network that may keep its state.

        g  = sigmoid(W_ig x + b_ig + W_hg h + b_hg)
        n  = tanh(W_in x + b_in + W_hn h + b_hn)
        h' = g * h + (1 - g) * n

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; two gates, in the order g, n.

    Args:
        forget_bias: the sum of the gate's biases to start from, 1 in the paper's experiments; None leaves
            them as drawn. ValueError without a bias.

    Source: Collins, Sohl-Dickstein and Sussillo (2017), "Capacity and trainability in recurrent neural
    networks", equations of the UGRNN.
    """

    gates = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        forget_bias: float | None = None,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if forget_bias is not None and not bias:
            raise ValueError(f"forget_bias={forget_bias} needs a bias, got bias=False")
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, bias, init=init, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.forget_bias is not None:
            for bias, value in ((self.bias_ih, self.forget_bias), (self.bias_hh, 0.0)):
                if bias is not None:
                    nn.init.constant_(bias.data[: self.hidden_size], value)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        g, n = gates.chunk(2, dim=-1)
        g, n = torch.sigmoid(g), torch.tanh(n)
        return g * h + (1 - g) * n

    def extra_repr(self) -> str:
        forget = f", forget_bias={self.forget_bias}" if self.forget_bias is not None else ""
        return super().extra_repr() + forget
