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
        z = W_ih x + exp(A) h
        h' = sign(z) relu(|z| + b)

    exp of a skew-symmetric matrix is orthogonal, so that a gradient neither vanishes nor explodes on its way
    through time but where `b` cuts it. The exponential is of parameters alone: it is taken once a call and
    not at each step.

    Shapes: `x` `[B, I]`, state `h` `[B, H]`; `weight_hh` `[H, H]`, of which the rest is not read; the one
    bias `[H]`, whether `bias` is True or "single". Without a bias the cell is linear.

    Sources: Lezcano-Casado and Martinez-Rubio (2019), "Cheap orthogonal constraints in neural networks", for
    the exponential; Arjovsky, Shah and Bengio (2016), "Unitary evolution recurrent neural networks", for the
    modReLU, here of real numbers; Henaff, Szlam and LeCun (2016), "Recurrent orthogonal networks and
    long-memory tasks", for the rotations in planes by angles of U(-pi, pi) that it starts from with a named
    initialiser.
    """

    def add_parameters(self, parameter: Callable[..., nn.Parameter]) -> None:
        self.bias_hh = None

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if isinstance(self.init, str):
            nn.init.zeros_(self.weight_hh)
            with torch.no_grad():
                self.weight_hh.diagonal(-1)[::2].uniform_(-math.pi, math.pi)
            if self.bias_ih is not None:
                nn.init.zeros_(self.bias_ih)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        below = self.weight_hh.tril(-1)
        z = F.linear(x, self.weight_ih) + F.linear(h, torch.matrix_exp(below - below.mT))
        if self.bias_ih is None:
            return z
        return torch.sign(z) * torch.relu(z.abs() + self.bias_ih)
