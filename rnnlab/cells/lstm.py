"""Long short-term memory. Legend: `B` batch, `I` input, `H` hidden (cell state), `P` projection."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.init import Initialiser


class LSTMCell(Cell):
    """Long short-term memory with a forget gate.

        i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Shapes: `x` `[B, I]`, state `(h, c)`, `[B, H]` each.

    Args:
        forget_bias: the sum of the forget gate's biases to start from, set after `init` has drawn them; None
            leaves them as drawn. 1 keeps the memory open at first. ValueError without a bias.

    Source: Hochreiter and Schmidhuber (1997), "Long short-term memory"; the forget gate by Gers, Schmidhuber
    and Cummins (2000), "Learning to forget"; its bias of 1 by Jozefowicz, Zaremba and Sutskever (2015), "An
    empirical exploration of recurrent network architectures". Parameters as in `torch.nn.LSTMCell`.
    """

    gates = 4

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
            forget = slice(self.hidden_size, 2 * self.hidden_size)
            for bias, value in ((self.bias_ih, self.forget_bias), (self.bias_hh, 0.0)):
                if bias is not None:
                    nn.init.constant_(bias.data[forget], value)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros `([B, H], [B, H])`."""
        zeros = self.weight_hh.new_zeros(batch, self.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        i, f, g, o = gates.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, c

    def extra_repr(self) -> str:
        forget = f", forget_bias={self.forget_bias}" if self.forget_bias is not None else ""
        return super().extra_repr() + forget


class ProjectedLSTMCell(LSTMCell):
    """Long short-term memory whose hidden state is a projection of its output.

        i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = W_hr (sigmoid(o) * tanh(c'))

    Shapes: `x` `[B, I]`, state `(h [B, P], c [B, H])`.

    Args:
        proj_size: P, from 1 to H - 1; ValueError otherwise.

    Source: Sak, Senior and Beaufays (2014), "Long short-term memory recurrent neural network architectures
    for large scale acoustic modeling". Parameters as in `torch.nn.LSTM(proj_size=P)`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        proj_size: int,
        forget_bias: float | None = None,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(proj_size, int) or not 0 < proj_size < hidden_size:
            raise ValueError(
                f"proj_size must be from 1 to hidden_size - 1 = {hidden_size - 1}, got {proj_size!r}"
            )
        self.proj_size = proj_size
        super().__init__(
            input_size, hidden_size, bias, forget_bias=forget_bias, init=init, device=device, dtype=dtype
        )
        self.weight_hr = nn.Parameter(torch.empty(proj_size, hidden_size, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def recurrent_size(self) -> int:
        return self.proj_size

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros `([B, P], [B, H])`."""
        new_zeros = self.weight_hh.new_zeros
        return new_zeros(batch, self.proj_size), new_zeros(batch, self.hidden_size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = super().forward(x, state)
        return F.linear(h, self.weight_hr), c

    def extra_repr(self) -> str:
        return super().extra_repr() + f", proj_size={self.proj_size}"
