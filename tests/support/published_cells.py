"""Published cells that rnnlab does not ship, as their users would write them, with no compiler in mind."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

State = tuple[Tensor, ...]


class OrderedNeurons(nn.Module):
    """Shen et al. (2019), "Ordered neurons": master gates by cumulative softmax over chunks."""

    def __init__(self, input_size: int, hidden_size: int, chunk: int = 2) -> None:
        super().__init__()
        self.hidden_size, self.chunk, self.parts = hidden_size, chunk, hidden_size // chunk
        self.x = nn.Linear(input_size, 4 * hidden_size + 2 * self.parts)
        self.h = nn.Linear(hidden_size, 4 * hidden_size + 2 * self.parts)

    def forward(self, x: Tensor, state: State) -> State:
        h, c = state
        gates = self.x(x) + self.h(h)
        first, second = gates[:, : 2 * self.parts].chunk(2, 1)
        write = (1 - torch.cumsum(F.softmax(first, -1), -1))[:, :, None]
        forget = torch.cumsum(F.softmax(second, -1), -1)[:, :, None]
        o, g, i, f = gates[:, 2 * self.parts :].view(-1, 4 * self.parts, self.chunk).chunk(4, 1)
        both = write * forget
        c = c.view(-1, self.parts, self.chunk)
        c = (torch.sigmoid(f) * both + forget - both) * c
        c = c + (torch.sigmoid(i) * both + write - both) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h.reshape(-1, self.hidden_size), c.reshape(-1, self.hidden_size)


class FastWeights(nn.Module):
    """Ba et al. (2016), "Using fast weights to attend to the recent past": a matrix as a state."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.x, self.h = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def initial_state(self, batch: int) -> State:
        zeros = self.h.weight.new_zeros(batch, self.hidden_size, self.hidden_size)
        return zeros[:, 0], zeros

    def forward(self, x: Tensor, state: State) -> State:
        h, fast = state
        fast = 0.95 * fast + 0.5 * h.unsqueeze(2) @ h.unsqueeze(1)
        slow = self.x(x) + self.h(h)
        h = torch.relu(self.norm(slow))
        for _ in range(2):
            h = torch.relu(self.norm(slow + torch.bmm(fast, h.unsqueeze(2)).squeeze(2)))
        return h, fast


class SimpleUnit(nn.Module):
    """Lei et al. (2018), "Simple recurrent units for highly parallelizable recurrence"."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.w = nn.Linear(input_size, 4 * hidden_size)
        self.v = nn.Parameter(torch.randn(2, hidden_size) / 10)

    def forward(self, x: Tensor, state: State) -> State:
        _, c = state
        u, f, r, skip = self.w(x).chunk(4, -1)
        f, r = torch.sigmoid(f + self.v[0] * c), torch.sigmoid(r + self.v[1] * c)
        c = f * c + (1 - f) * u
        return r * c + (1 - r) * skip, c


class Flow(nn.Module):
    """Rubanova et al. (2019), "Latent ODEs": a GRU step after three Euler steps of a small network."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.flow = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, hidden_size)
        )
        self.jump = nn.GRUCell(input_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        for _ in range(3):
            h = h + 0.1 * self.flow(h)
        return self.jump(x, h)


class Hyper(nn.Module):
    """Ha et al. (2017), "HyperNetworks": a small LSTM scales the gates of a large one."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.small = nn.LSTMCell(input_size + hidden_size, 3)
        self.x, self.h = nn.Linear(input_size, 4 * hidden_size), nn.Linear(hidden_size, 4 * hidden_size)
        self.scale = nn.Linear(3, 8)

    def initial_state(self, batch: int) -> State:
        large, small = self.x.weight.new_zeros(batch, self.hidden_size), self.x.weight.new_zeros(batch, 3)
        return large, large, small, small

    def forward(self, x: Tensor, state: State) -> State:
        h, c, *inner = state
        a, b = self.small(torch.cat([x, h], 1), tuple(inner))
        scale = self.scale(a).view(-1, 2, 4, 1)
        gates = self.x(x).view(-1, 4, self.hidden_size) * scale[:, 0]
        i, f, o, g = (gates + self.h(h).view(-1, 4, self.hidden_size) * scale[:, 1]).unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c, a, b


class Highway(nn.Module):
    """Zilly et al. (2017), "Recurrent highway networks", three layers deep in each step."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.x = nn.Linear(input_size, 2 * hidden_size)
        self.layers = nn.ModuleList([nn.Linear(hidden_size, 2 * hidden_size) for _ in range(3)])

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        for depth, layer in enumerate(self.layers):
            new, gate = (layer(h) + (self.x(x) if depth == 0 else 0)).chunk(2, -1)
            gate = torch.sigmoid(gate)
            h = torch.tanh(new) * gate + h * (1 - gate)
        return h


class Orthogonal(nn.Module):
    """Lezcano-Casado and Martinez-Rubio (2019), "Cheap orthogonal constraints": an exponential map."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.skew = nn.Parameter(torch.randn(hidden_size, hidden_size) / 10)
        self.x = nn.Linear(input_size, hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        weight = torch.linalg.matrix_exp(self.skew - self.skew.T)
        z = self.x(x) + h @ weight.T
        return torch.sign(z) * torch.relu(z.abs() + self.bias)


class Legendre(nn.Module):
    """Voelker et al. (2019), "Legendre memory units": a fixed linear memory beside a nonlinear state."""

    def __init__(self, input_size: int, hidden_size: int, order: int = 4) -> None:
        super().__init__()
        self.hidden_size, self.order = hidden_size, order
        self.register_buffer("a", torch.randn(order, order) / 4)
        self.register_buffer("b", torch.randn(order, 1))
        self.ex, self.eh, self.em = (
            nn.Parameter(torch.randn(1, width)) for width in (input_size, hidden_size, order)
        )
        self.mix = nn.Linear(input_size + hidden_size + order, hidden_size)

    def initial_state(self, batch: int) -> State:
        return self.ex.new_zeros(batch, self.hidden_size), self.ex.new_zeros(batch, self.order)

    def forward(self, x: Tensor, state: State) -> State:
        h, memory = state
        u = F.linear(x, self.ex) + F.linear(h, self.eh) + F.linear(memory, self.em)
        memory = F.linear(memory, self.a) + F.linear(u, self.b)
        return torch.tanh(self.mix(torch.cat([x, h, memory], 1))), memory


class Normed(nn.Module):
    """Weight normalisation (Salimans and Kingma, 2016) and spectral normalisation as PyTorch ships them."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.x = weight_norm(nn.Linear(input_size, hidden_size))
        # In training it counts power iterations in a buffer, which no captured step can.
        self.h = spectral_norm(nn.Linear(hidden_size, hidden_size)).eval()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.x(x) + self.h(h))


ALL = (OrderedNeurons, FastWeights, SimpleUnit, Flow, Hyper, Highway, Orthogonal, Legendre, Normed)
