"""Gated cells with layer normalisation inside the step. Legend: `B` batch, `I` input, `H` hidden."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.gru import GRUCell
from rnnlab.cells.lstm import LSTMCell


class LayerNormLSTMCell(LSTMCell):
    """The LSTM with layer normalisation of both products and of the cell state.

        i, f, g, o = LN(W_ih x; w_ln_ih, b_ih) + LN(W_hh h; w_ln_hh, b_hh)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'; w_ln_c, b_ln_c))

    LN(a; w, b) normalises a row to mean zero and variance one, then scales by w and shifts by b; the four
    gates are normalised together, as one row of 4H.

    Shapes: `x` `[B, I]`, state `(h, c)`, `[B, H]` each; `weight_ln_ih`, `weight_ln_hh` `[4H]`, `weight_ln_c`,
    `bias_ln_c` `[H]`.

    Source: Ba, Kiros and Hinton (2016), "Layer normalization", equations 20 to 22.
    """

    bias_ln_c: nn.Parameter | None

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_ln_ih = parameter(4 * self.hidden_size)
        self.weight_ln_hh = parameter(4 * self.hidden_size)
        self.weight_ln_c = parameter(self.hidden_size)
        self.bias_ln_c = parameter(self.hidden_size) if self.bias else None

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for weight in (self.weight_ln_ih, self.weight_ln_hh, self.weight_ln_c):
            nn.init.ones_(weight)
        if self.bias_ln_c is not None:
            nn.init.zeros_(self.bias_ln_c)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        rows = (4 * self.hidden_size,)
        gates = F.layer_norm(F.linear(x, self.weight_ih), rows, self.weight_ln_ih, self.bias_ih)
        gates = gates + F.layer_norm(F.linear(h, self.weight_hh), rows, self.weight_ln_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        normal = F.layer_norm(c, (self.hidden_size,), self.weight_ln_c, self.bias_ln_c)
        return torch.sigmoid(o) * torch.tanh(normal), c


class LayerNormGRUCell(GRUCell):
    """The gated recurrent unit with layer normalisation of both products; its reset gate acts *after* the
    recurrent one.

        r, z = sigmoid(LN(W_i[r,z] x; w_ln_ih, b_ih) + LN(W_h[r,z] h; w_ln_hh, b_hh))
        n  = tanh(LN(W_in x; w_ln_ih, b_ih) + r * LN(W_hn h; w_ln_hh, b_hh))
        h' = (1 - z) * n + z * h

    LN(a; w, b) normalises a row to mean zero and variance one, then scales by w and shifts by b: r and z
    together, as one row of 2H, and n by itself. As in `GRUCell`, z multiplies the old state; in the paper it
    multiplies the candidate.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; `weight_ln_ih`, `weight_ln_hh` `[3H]`.

    Source: Ba, Kiros and Hinton (2016), "Layer normalization", equations 23 to 25.
    """

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_ln_ih = parameter(3 * self.hidden_size)
        self.weight_ln_hh = parameter(3 * self.hidden_size)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.weight_ln_ih)
        nn.init.ones_(self.weight_ln_hh)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_rz, x_n = self._normalised(F.linear(x, self.weight_ih), self.weight_ln_ih, self.bias_ih)
        h_rz, h_n = self._normalised(F.linear(h, self.weight_hh), self.weight_ln_hh, self.bias_hh)
        r, z = torch.sigmoid(x_rz + h_rz).chunk(2, dim=-1)
        n = torch.tanh(x_n + r * h_n)
        return (1 - z) * n + z * h

    def _normalised(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        sizes = [2 * self.hidden_size, self.hidden_size]
        biases = bias.split(sizes) if bias is not None else (None, None)
        parts = zip(rows.split(sizes, dim=-1), sizes, weight.split(sizes), biases, strict=True)
        rz, n = (F.layer_norm(part, (size,), w, b) for part, size, w, b in parts)
        return rz, n
