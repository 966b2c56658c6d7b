"""The independently recurrent network. Legend: `B` batch, `I` input, `H` hidden."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.init import Initialiser
from rnnlab.cells.rnn import Bias, RNNCell


class IndRNNCell(RNNCell):
    """The recurrent network whose units see their own past and no other's.

        h' = relu(W_ih x + b_ih + w_hh * h + b_hh)

    Units meet in the next layer. The gradient of a unit through T steps is `w_hh^T` with relu: keep `|w_hh|`
    below about `2^(1/T)`.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; `weight_hh` `[H]`.

    Args:
        nonlinearity: "relu" or "tanh"; ValueError for another.

    Source: Li et al. (2018), "Independently recurrent neural network (IndRNN)", equation 2. With a named
    initialiser the recurrent weights start in U(0, 1), so that no unit explodes whatever the length.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        nonlinearity: str = "relu",
        *,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, nonlinearity, init=init, device=device, dtype=dtype)

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_hh = parameter(self.hidden_size)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if isinstance(self.init, str):
            nn.init.uniform_(self.weight_hh, 0, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        activate = torch.relu if self.nonlinearity == "relu" else torch.tanh
        a = F.linear(x, self.weight_ih, self.bias_ih) + self.weight_hh * h
        return activate(a if self.bias_hh is None else a + self.bias_hh)

    def extra_repr(self) -> str:
        return super().extra_repr().replace(", nonlinearity='relu'", "") + (
            ", nonlinearity='tanh'" if self.nonlinearity == "tanh" else ""
        )
