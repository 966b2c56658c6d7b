"""Relatives of the LSTM with other gates. Legend: `B` batch, `I` input, `H` hidden."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.init import Initialiser
from rnnlab.cells.lstm import LSTMCell


class PeepholeLSTMCell(LSTMCell):
    """The LSTM whose gates see the cell state, each unit its own.

        i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f + w_cf * c) * c + sigmoid(i + w_ci * c) * tanh(g)
        h' = sigmoid(o + w_co * c') * tanh(c')

    The input and forget gates see the old cell state, the output gate the new one.

    Shapes: `x` `[B, I]`, state `(h, c)`, `[B, H]` each; `weight_ci`, `weight_cf`, `weight_co` `[H]`.

    Source: Gers and Schmidhuber (2000), "Recurrent nets that time and count"; in this form Graves (2013),
    "Generating sequences with recurrent neural networks", equations 7 to 11.
    """

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_ci = parameter(self.hidden_size)
        self.weight_cf = parameter(self.hidden_size)
        self.weight_co = parameter(self.hidden_size)

    def reset_parameters(self) -> None:
        for weight in (self.weight_ci, self.weight_cf, self.weight_co):
            nn.init.zeros_(weight)  # what an initialiser for matrices leaves alone
        super().reset_parameters()

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        i = torch.sigmoid(i + self.weight_ci * c)
        f = torch.sigmoid(f + self.weight_cf * c)
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(o + self.weight_co * c)
        return o * torch.tanh(c), c


class CoupledLSTMCell(Cell):
    """The LSTM that forgets exactly as much as it takes in: coupled input and forget gate (CIFG).

        i, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = (1 - sigmoid(i)) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Shapes: `x` `[B, I]`, state `(h, c)`, `[B, H]` each; three gates, in the order i, g, o.

    Source: Greff et al. (2017), "LSTM: a search space odyssey", variant CIFG.
    """

    gates = 3

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros `([B, H], [B, H])`."""
        zeros = self.weight_hh.new_zeros(batch, self.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, g, o = gates.chunk(3, dim=-1)
        i = torch.sigmoid(i)
        c = (1 - i) * c + i * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class MultiplicativeLSTMCell(LSTMCell):
    """The LSTM whose recurrent input is a product of input and hidden state, so that each input has its own
    transition.

        m = (W_ih_m x) * (W_hh_m h)
        i, f, g, o = W_ih x + b_ih + W_hh m + b_hh
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Shapes: `x` `[B, I]`, state `(h, c)`, `[B, H]` each; `weight_ih_m` `[H, I]`, `weight_hh_m` `[H, H]`.

    Source: Krause et al. (2016), "Multiplicative LSTM for sequence modelling", section 3.
    """

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_ih_m = parameter(self.hidden_size, self.input_size)
        self.weight_hh_m = parameter(self.hidden_size, self.hidden_size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        m = F.linear(x, self.weight_ih_m) * F.linear(h, self.weight_hh_m)
        return super().forward(x, (m, c))


class MogrifierLSTMCell(LSTMCell):
    """The LSTM before which input and hidden state gate each other, in `rounds` turns.

        x <- 2 sigmoid(Q_k h) * x    for odd k
        h <- 2 sigmoid(R_k x) * h    for even k,   k = 1 .. rounds
        (h', c') = LSTM(x, (h, c))

    Shapes: `x` `[B, I]`, state `(h, c)`, `[B, H]` each; `weight_hx_k` `[I, H]` is Q_k, `weight_xh_k` `[H, I]`
    is R_k. With no rounds it is the LSTM.

    Args:
        rounds: how many turns; 5 in the paper. ValueError below zero.

    Source: Melis, Kocisky and Blunsom (2020), "Mogrifier LSTM", equations 1 and 2.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        rounds: int = 5,
        forget_bias: float | None = None,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(rounds, int) or rounds < 0:
            raise ValueError(f"rounds must be an integer of at least zero, got {rounds!r}")
        self.rounds = rounds
        super().__init__(
            input_size, hidden_size, bias, forget_bias=forget_bias, init=init, device=device, dtype=dtype
        )

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        for k in range(1, self.rounds + 1):
            if k % 2:
                self.register_parameter(f"weight_hx_{k}", parameter(self.input_size, self.hidden_size))
            else:
                self.register_parameter(f"weight_xh_{k}", parameter(self.hidden_size, self.input_size))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        for k in range(1, self.rounds + 1):
            if k % 2:
                x = 2 * torch.sigmoid(F.linear(h, getattr(self, f"weight_hx_{k}"))) * x
            else:
                h = 2 * torch.sigmoid(F.linear(x, getattr(self, f"weight_xh_{k}"))) * h
        return super().forward(x, (h, c))

    def extra_repr(self) -> str:
        return super().extra_repr() + f", rounds={self.rounds}"
