"""The scalar LSTM with exponential gating. Legend: `B` batch, `I` input, `H` hidden."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.init import Initialiser

# In effect the logarithm of zero: finite, since infinity times zero is NaN, and within float16's range.
_LOG_ZERO = -1e4


class SLSTMCell(Cell):
    """The LSTM with exponential gates, a normaliser and a stabiliser (sLSTM).

        i, f, z, o = W_ih x + b_ih + R h + b_hh
        m' = max(log f + m, i)            log f = log sigmoid(f), or f itself with forget_gate="exp"
        c' = exp(log f + m - m') * c + exp(i - m') * tanh(z)
        n' = exp(log f + m - m') * n + exp(i - m')
        h' = sigmoid(o) * c' / n'

    R is block-diagonal, one block a head and gate. The state starts at `m = -10^4`, in effect an empty
    memory's logarithm, so that the first step is `n' = 1` exactly; `n` never falls below one then.

    Shapes: `x` `[B, I]`, state `(h, c, n, m)`, `[B, H]` each; `weight_hh` `[4H, H/heads]`.

    Args:
        heads: how many groups of units, each connected to itself; ValueError unless it divides H.
        forget_gate: "sigmoid" or "exp"; ValueError for another.

    Source: Beck et al. (2024), "xLSTM: extended long short-term memory", equations 8 to 17. With a named
    initialiser the forget gate's bias starts evenly spaced from 3 to 6, as in the authors' own code.
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        heads: int = 1,
        forget_gate: Literal["sigmoid", "exp"] = "sigmoid",
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(heads, int) or heads < 1 or hidden_size % heads:
            raise ValueError(f"heads must divide hidden_size={hidden_size}, got {heads!r}")
        if forget_gate not in ("sigmoid", "exp"):
            raise ValueError(f"forget_gate must be 'sigmoid' or 'exp', got {forget_gate!r}")
        self.heads = heads
        self.forget_gate = forget_gate
        super().__init__(input_size, hidden_size, bias, init=init, device=device, dtype=dtype)

    @property
    def recurrent_size(self) -> int:
        return self.hidden_size // self.heads

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if isinstance(self.init, str) and self.bias_ih is not None:
            forget = slice(self.hidden_size, 2 * self.hidden_size)
            self.bias_ih.data[forget] = torch.linspace(3, 6, self.hidden_size)
            if self.bias_hh is not None:
                nn.init.zeros_(self.bias_hh.data[forget])

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Zeros `[B, H]` for h, c and n, and -10^4 for m."""
        zeros = self.weight_hh.new_zeros(batch, self.hidden_size)
        return zeros, zeros, zeros, torch.full_like(zeros, _LOG_ZERO)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, c, n, m = state
        gates = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self._recurrent(), self.bias_hh)
        i, f, z, o = gates.chunk(4, dim=-1)
        log_f = F.logsigmoid(f) if self.forget_gate == "sigmoid" else f
        m_next = torch.maximum(log_f + m, i)
        i = torch.exp(i - m_next)
        f = torch.exp(log_f + m - m_next)
        c = f * c + i * torch.tanh(z)
        n = f * n + i
        return torch.sigmoid(o) * c / n, c, n, m_next

    def _recurrent(self) -> Tensor:
        """R `[4H, H]`: the blocks of each gate along its diagonal."""
        if self.heads == 1:
            return self.weight_hh
        gates = self.weight_hh.chunk(4)
        return torch.cat([torch.block_diag(*gate.chunk(self.heads)) for gate in gates])

    def extra_repr(self) -> str:
        heads = f", heads={self.heads}" if self.heads > 1 else ""
        return super().extra_repr() + heads + (", forget_gate='exp'" if self.forget_gate == "exp" else "")
