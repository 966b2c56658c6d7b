"""Cells that discretise a differential equation, made for long memories.

Legend: `B` batch, `I` input, `H` hidden.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Bias, Cell
from rnnlab.cells.init import Initialiser


class LEMCell(Cell):
    """Long expressive memory: two states, each with a learned time step of its own.

        d1 = dt sigmoid(V_1 x + b_1 + W_1 y)
        d2 = dt sigmoid(V_2 x + b_2 + W_2 y)
        z' = (1 - d1) * z + d1 * tanh(V_z x + b_z + W_z y)
        y' = (1 - d2) * y + d2 * tanh(V_y x + b_y + W_y z')

    Shapes: `x` `[B, I]`, state `(y, z)`, `[B, H]` each, the output y; `weight_ih` `[4H, I]` holds V_1, V_2,
    V_z and V_y, `weight_hh` `[3H, H]` holds W_1, W_2 and W_z, `weight_hh_y` `[H, H]` is W_y; one bias,
    whether `bias` is True or "single".

    Args:
        dt: the largest time step; 1 in most of the paper's experiments. ValueError unless above zero.

    Source: Rusch et al. (2022), "Long expressive memory for sequence modeling", equation 3.
    """

    gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        dt: float = 1.0,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dt = _positive("dt", dt)
        super().__init__(input_size, hidden_size, bias, init=init, device=device, dtype=dtype)

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_hh = parameter(3 * self.hidden_size, self.hidden_size)
        self.weight_hh_y = parameter(self.hidden_size, self.hidden_size)
        self.bias_hh = None

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros `([B, H], [B, H])`."""
        zeros = self.weight_hh.new_zeros(batch, self.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, z = state
        sizes = [2 * self.hidden_size, self.hidden_size, self.hidden_size]
        x_d, x_z, x_y = F.linear(x, self.weight_ih, self.bias_ih).split(sizes, dim=-1)
        y_d, y_z = F.linear(y, self.weight_hh).split(sizes[:2], dim=-1)
        d1, d2 = (self.dt * torch.sigmoid(x_d + y_d)).chunk(2, dim=-1)
        z = (1 - d1) * z + d1 * torch.tanh(x_z + y_z)
        y = (1 - d2) * y + d2 * torch.tanh(x_y + F.linear(z, self.weight_hh_y))
        return y, z

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", dt={self.dt}" if self.dt != 1 else "")


class CoRNNCell(Cell):
    """The coupled oscillatory network: each unit a damped oscillator, forced by the others and the input.

        z' = z + dt (tanh(W_ih x + b_ih + W_hh y + W_hh_z z) - gamma y - epsilon z)
        y' = y + dt z'

    Shapes: `x` `[B, I]`, state `(y, z)`, `[B, H]` each, the output y; `weight_hh`, `weight_hh_z` `[H, H]`;
    one bias, whether `bias` is True or "single".

    Args:
        dt: the time step; gamma: the frequency; epsilon: the damping. The paper tunes all three for each
            task. ValueError unless above zero.

    Source: Rusch and Mishra (2021), "Coupled oscillatory recurrent neural network (coRNN)", equation 3 with
    explicit damping.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        dt: float = 0.05,
        gamma: float = 3.0,
        epsilon: float = 5.0,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dt = _positive("dt", dt)
        self.gamma = _positive("gamma", gamma)
        self.epsilon = _positive("epsilon", epsilon)
        super().__init__(input_size, hidden_size, bias, init=init, device=device, dtype=dtype)

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_hh_z = parameter(self.hidden_size, self.hidden_size)
        self.bias_hh = None

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros `([B, H], [B, H])`."""
        zeros = self.weight_hh.new_zeros(batch, self.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        y, z = state
        force = F.linear(x, self.weight_ih, self.bias_ih)
        force = torch.tanh(force + F.linear(y, self.weight_hh) + F.linear(z, self.weight_hh_z))
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        y = y + self.dt * z
        return y, z

    def extra_repr(self) -> str:
        return super().extra_repr() + f", dt={self.dt}, gamma={self.gamma}, epsilon={self.epsilon}"


class AntisymmetricRNNCell(Cell):
    """The network whose recurrent matrix is antisymmetric, and its dynamics therefore stable.

        A  = W_hh - W_hh^T - gamma I
        h' = h + epsilon tanh(A h + W_ih x + b_ih)

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; one bias, whether `bias` is True or "single".

    Args:
        epsilon: the step size; gamma: the diffusion. ValueError unless epsilon is above zero and gamma at
            least zero.

    Source: Chang et al. (2019), "AntisymmetricRNN: a dynamical system view on recurrent neural networks",
    equation 10.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = True,
        *,
        epsilon: float = 0.1,
        gamma: float = 0.01,
        init: str | Initialiser = "torch",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.epsilon = _positive("epsilon", epsilon)
        if not gamma >= 0:
            raise ValueError(f"gamma must be at least zero, got {gamma!r}")
        self.gamma = gamma
        super().__init__(input_size, hidden_size, bias, init=init, device=device, dtype=dtype)

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.weight_hh = parameter(self.hidden_size, self.hidden_size)
        self.bias_hh = None

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_n = F.linear(x, self.weight_ih, self.bias_ih)
        return h + self.epsilon * torch.tanh(x_n + self._antisymmetric(h))

    def _antisymmetric(self, h: Tensor) -> Tensor:
        return F.linear(h, self.weight_hh - self.weight_hh.T) - self.gamma * h

    def extra_repr(self) -> str:
        return super().extra_repr() + f", epsilon={self.epsilon}, gamma={self.gamma}"


class GatedAntisymmetricRNNCell(AntisymmetricRNNCell):
    """The antisymmetric network with a gate that shares its matrix.

        A  = W_hh - W_hh^T - gamma I
        z  = sigmoid(A h + W_iz x + b_iz)
        h' = h + epsilon z * tanh(A h + W_in x + b_in)

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; `weight_ih` `[2H, I]`, in the order z, n; `weight_hh` `[H, H]`;
    one bias, whether `bias` is True or "single".

    Source: Chang et al. (2019), "AntisymmetricRNN: a dynamical system view on recurrent neural networks",
    equation 12.
    """

    gates = 2

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_z, x_n = F.linear(x, self.weight_ih, self.bias_ih).chunk(2, dim=-1)
        recurrent = self._antisymmetric(h)
        return h + self.epsilon * torch.sigmoid(x_z + recurrent) * torch.tanh(x_n + recurrent)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above zero, got {value!r}")
    return value
