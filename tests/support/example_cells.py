"""Cells as their authors might write them, one for each form that the contract allows."""

import torch
from torch import Tensor, nn


class Leaky(nn.Module):
    """One state, nothing but forward and hidden_size."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.inward = nn.Linear(input_size, hidden_size)
        self.across = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * h + 0.5 * torch.tanh(self.inward(x) + self.across(h))


class Triple(nn.Module):
    """Three states of three widths, a learned start, and an output of its own from all of them."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.mix = nn.Linear(input_size + hidden_size, hidden_size)
        self.narrow = nn.Linear(hidden_size, 2)
        self.start = nn.Parameter(torch.randn(hidden_size) / 2)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        a = self.start.expand(batch, -1)
        return a, self.start.new_zeros(batch, 2), self.start.new_ones(batch, 1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        a, b, count = state
        a = torch.tanh(self.mix(torch.cat([x, a * torch.sigmoid(count)], -1)))
        return a, 0.9 * b + self.narrow(a), 0.8 * count + 0.1

    def output(self, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.cat([state[0], state[1] * state[2]], -1)


class OutputAndState(nn.Module):
    """`forward` returns an output and a new state of one tensor."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.cell = nn.RNNCell(input_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size + 1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return self.out(h), h


class OutputAndPair(nn.Module):
    """`forward` returns an output and a new state of two tensors."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.cell = nn.LSTMCell(input_size, hidden_size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, c = self.cell(x, state)
        return torch.relu(c), (h, c)


class Repeat(nn.Module):
    """The output is the input; the state is their sum. It has no parameters."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x, h + x


CELLS = {
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
    "leaky": Leaky,
    "triple": Triple,
    "output_and_state": OutputAndState,
    "output_and_pair": OutputAndPair,
}
