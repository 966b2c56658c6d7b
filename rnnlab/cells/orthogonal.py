"""The orthogonal recurrent network. Legend: `B` batch, `I` input, `H` hidden."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnnlab.cells.base import Cell


class OrthogonalRNNCell(Cell):
    """The recurrent network whose recurrent matrix is a rotation, whatever is learned.

        A = L - L^T,   L the part of weight_hh strictly below its diagonal
        Q = (I + A)^-1 (I - A)
        z = W_ih x + Q h
        h' = sign(z) relu(|z| + b)

    Q, the Cayley transform of a skew-symmetric matrix, is orthogonal, so that a gradient neither vanishes nor
    explodes on its way through time but where `b` cuts it. Q is of parameters alone: it is solved for once a
    call and not at each step.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; `weight_hh` `[H, H]`, of which the rest is not read; the one
    bias `[H]`, whether `bias` is True or "single". Without a bias the cell is linear.

    Sources: Helfrich, Willmott and Ye (2018), "Orthogonal recurrent neural networks with scaled Cayley
    transform", section 3, with no negative scales; Arjovsky, Shah and Bengio (2016), "Unitary evolution
    recurrent neural networks", for the modReLU, here of real numbers; Henaff, Szlam and LeCun (2016),
    "Recurrent orthogonal networks and long-memory tasks", for the rotations of planes that it starts from
    with a named initialiser, here by angles of U(-0.9 pi, 0.9 pi), as half a turn has no Cayley transform.
    """

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.bias_hh = None

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if isinstance(self.init, str):
            nn.init.zeros_(self.weight_hh)
            with torch.no_grad():
                planes = self.weight_hh.diagonal(-1)[::2]
                planes.copy_(torch.tan(planes.uniform_(-0.45 * math.pi, 0.45 * math.pi)))
            if self.bias_ih is not None:
                nn.init.zeros_(self.bias_ih)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        below = self.weight_hh.tril(-1)
        skew, one = below - below.mT, torch.eye(self.hidden_size, dtype=h.dtype, device=h.device)
        z = F.linear(x, self.weight_ih) + F.linear(h, torch.linalg.solve(one + skew, one - skew))
        if self.bias_ih is None:
            return z
        return torch.sign(z) * torch.relu(z.abs() + self.bias_ih)
