"""Cells that put the compiler to work: every region, shape and kind of operator, every form of autograd."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sized(nn.Module):
    """A cell of two sizes."""

    def __init__(self, input_size: int = 5, hidden_size: int = 6) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.inward = nn.Linear(input_size, hidden_size)
        self.across = nn.Linear(hidden_size, hidden_size)


class EagerParts(Sized):
    """Operators without a row operation on the input's side, and a readout that multiplies matrices."""

    def __init__(self, input_size: int = 5, hidden_size: int = 6) -> None:
        super().__init__(input_size, hidden_size)
        self.head = nn.Linear(hidden_size, 3)
        self.norm = nn.LayerNorm(input_size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        scale = torch.sigmoid(torch.atan2(x[:, :1], x[:, 1:2]))
        return torch.tanh(self.inward(torch.atan(self.norm(x))) + self.across(h)) * scale

    def output(self, h: Tensor) -> Tensor:
        # log(0) in the padding would put NaN into gradients, were it computed there.
        return torch.log_softmax(self.head(h), -1) + torch.log(h[:, :1].abs())


class Returned(Sized):
    """Returns an output of state and input beside the state, from a learned start."""

    def __init__(self, input_size: int = 5, hidden_size: int = 6) -> None:
        super().__init__(input_size, hidden_size)
        self.head = nn.Linear(hidden_size + input_size, 3)
        self.start = nn.Parameter(torch.randn(hidden_size))

    def initial_state(self, batch: int) -> Tensor:
        return torch.tanh(self.start).expand(batch, -1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.inward(x) + self.across(h))
        return self.head(torch.cat([h, x], -1)), h


class Heads(Sized):
    """Rows of several dimensions: heads with matrices, softmax and normalisation of their own, a mask."""

    def __init__(self, input_size: int = 5, hidden_size: int = 6) -> None:
        super().__init__(input_size, hidden_size)
        self.weight = nn.Parameter(torch.randn(2, hidden_size // 2, hidden_size // 2))
        self.gain = nn.Parameter(torch.randn(2, hidden_size // 2))
        self.register_buffer("mask", torch.arange(hidden_size) % 3 > 0)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z = h.view(-1, 2, self.hidden_size // 2)
        r = torch.einsum("bhd,hde->bhe", z, self.weight)
        r = r * torch.softmax(z.sum(-1, keepdim=True) * self.gain, 1)
        r = F.layer_norm(r + z.mean(1, keepdim=True).amax(-1, keepdim=True), r.shape[-1:])
        mixed = torch.where(self.mask, r.flatten(1) + self.inward(x), h.clamp(-0.5, 0.5))
        return torch.tanh(mixed) * 0.9


class Matrix(nn.Module):
    """A memory that is a matrix, written by an outer product and read by a product with a vector."""

    def __init__(self, input_size: int = 5, hidden_size: int = 3) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.qkv = nn.Linear(input_size, 3 * hidden_size)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        zeros = self.qkv.weight.new_zeros(batch, self.hidden_size, self.hidden_size)
        return zeros, zeros[:, 0] + 1

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        memory, norm = state
        q, k, v = self.qkv(x).chunk(3, -1)
        memory = 0.9 * memory + v[:, :, None] * k[:, None, :]
        norm = 0.9 * norm + k
        read = torch.bmm(memory, q.unsqueeze(2)).squeeze(2)
        return read / torch.clamp((norm * q).sum(-1, keepdim=True).abs(), min=1), (memory, norm)


class Detached(Sized):
    """Parts through which no gradient flows."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        a = torch.tanh(self.inward(x) + self.across(h).detach())
        with torch.no_grad():
            gate = torch.sigmoid(h) * self.across.bias
        return a * gate + h.detach() * h * 0.1 + 0.5 * h + F.gelu(h) * F.softplus(a)


class Tied(Sized):
    """One matrix used three times a step, once transposed, under two names."""

    def __init__(self, input_size: int = 5, hidden_size: int = 6) -> None:
        super().__init__(input_size, hidden_size)
        self.again = nn.Linear(hidden_size, hidden_size, bias=False)
        self.again.weight = self.across.weight

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        up = torch.relu(h)
        return torch.tanh(self.inward(x) + self.across(h) + self.again(up) + up @ self.across.weight)


class Wandering(nn.Module):
    """States that trade places, and one that nothing but the input makes."""

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        one = torch.ones(batch, 5, dtype=torch.float64)
        return one, one * 0, one[:, :1]

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = state
        return b + x, a * c, x.sum(-1, keepdim=True)


class Linear(Sized):
    """A step that reads nothing of its input."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return self.across(h)


ALL = (EagerParts, Returned, Heads, Matrix, Detached, Tied, Wandering, Linear)
