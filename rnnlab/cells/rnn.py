"""The simple recurrent network. Legend: `B` batch, `I` input, `H` hidden."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.init import Initialiser


class RNNCell(Cell):
    """The simple recurrent network with tanh or relu.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    Shapes: `x` `[B, I]`, state `h` `[B, H]`.

    Args:
        nonlinearity: "tanh" or "relu"; ValueError for another.

    Source: Elman (1990), "Finding structure in time"; parameters as in `torch.nn.RNNCell`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        nonlinearity: str = "tanh",
        *,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, init=init, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        activate = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        return activate(F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh))

    def extra_repr(self) -> str:
        relu = ", nonlinearity='relu'" if self.nonlinearity == "relu" else ""
        return super().extra_repr() + relu
