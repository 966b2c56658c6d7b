"""Who is measured on a GPU: each subject runs the same network, with the same weights, on the same batch.

Legend: `T` time, `B` batch, `H` hidden size, `G` gates.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from itertools import permutations
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab.nn import DeepRNN

if TYPE_CHECKING:
    from rnnlab_benchmarks.gpu import Case


class Refused(Exception):
    """A subject cannot run a case; the message says why."""


class Network:
    """A subject's network for one case. `run` maps `x` [T, B, H] to outputs [T, B, *]."""

    ours: ClassVar[bool] = False

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        dtype = getattr(torch, case.dtype)
        torch.manual_seed(0)
        self.reference = DeepRNN(
            case.cell, case.H, case.H, case.L, bidirectional=case.bidirectional, backend="eager"
        ).to(device, dtype)
        random = torch.Generator().manual_seed(1)
        self.x = torch.randn(case.T, case.B, case.H, generator=random).to(device, dtype).requires_grad_()
        width = case.H * (2 if case.bidirectional else 1)
        self.cotangent = torch.randn(case.T, case.B, width, generator=random).to(device, dtype)
        self.lengths = None
        if case.packed:
            self.lengths = torch.linspace(1, case.T, case.B).long().flip(0)
        self.parameters: dict[str, Tensor] = dict(self.reference.named_parameters())
        self.run: Callable[[Tensor], Tensor] = self._forward
        self.prepare()

    def prepare(self) -> None:
        """Set `run`, and `parameters` where the network has its own. Raises Refused."""

    def _forward(self, x: Tensor) -> Tensor:
        return self.reference(x, lengths=self.lengths)[0]

    def infer(self) -> Tensor:
        with torch.no_grad():
            return self.run(self.x)

    def train(self) -> None:
        for tensor in (self.x, *self.parameters.values()):
            tensor.grad = None
        self.run(self.x).backward(self.cotangent)

    def results(self) -> dict[str, Tensor]:
        """Outputs and gradients by name."""
        outputs = self.infer()
        self.train()
        named = {"x": self.x, **self.parameters}
        return {"outputs": outputs} | {
            f"gradient of {name}": tensor.grad for name, tensor in named.items() if tensor.grad is not None
        }


class Eager(Network):
    """The Python loop over the cell."""


class Ours(Network):
    """Our kernels, by the strategy that `auto` comes to, or by a forced one."""

    ours = True
    strategy: ClassVar[Any] = None

    def prepare(self) -> None:
        self.network = DeepRNN(
            self.case.cell,
            self.case.H,
            self.case.H,
            self.case.L,
            bidirectional=self.case.bidirectional,
            backend="fused",
        ).to(self.x)
        self.network.load_state_dict(self.reference.state_dict())
        self.parameters = dict(self.network.named_parameters())

    def _forward(self, x: Tensor) -> Tensor:
        return self.network(x, lengths=self.lengths)[0]

    def infer(self) -> Tensor:
        with self._forced():
            return super().infer()

    def train(self) -> None:
        with self._forced():
            super().train()

    def _forced(self) -> contextlib.AbstractContextManager[None]:
        from rnnlab_kernels.triton.choice import force

        return force(self.strategy)


class Resident(Ours):
    strategy = "resident"


class Streamed(Ours):
    strategy = "streamed"


class Stepwise(Ours):
    strategy = "stepwise"


class CuDNN(Network):
    """`torch.nn`'s own network."""

    def prepare(self) -> None:
        if self.case.cell not in ("rnn", "lstm", "gru"):
            raise Refused("torch.nn has no such network")
        self.network: Any = self.reference.to_torch()
        self.network.to(self.x).flatten_parameters()
        self.parameters = {}  # named differently; the gradient of the input is compared

    def _forward(self, x: Tensor) -> Tensor:
        if self.lengths is None:
            return self.network(x)[0]
        outputs = self.network(pack_padded_sequence(x, self.lengths))[0]
        return pad_packed_sequence(outputs, total_length=self.case.T)[0]


class Compiled(Network):
    """`torch.compile` of the eager loop, which it unrolls: minutes to compile beyond a few dozen steps."""

    longest = 32

    def prepare(self) -> None:
        if self.longest < self.case.T:
            raise Refused(f"torch.compile unrolls the loop: not tried beyond T={self.longest}")
        self.run = torch.compile(self._forward)


class OneLSTM(Network):
    """A peer that has an LSTM of one layer and direction, over padded batches."""

    package: ClassVar[str] = ""

    def prepare(self) -> None:
        try:
            self.library = importlib.import_module(self.package)
        except ImportError as error:
            raise Refused(f"not installed ({error})") from error
        case = self.case
        if case.cell != "lstm" or case.L > 1 or case.bidirectional or case.packed:
            raise Refused("compared on an LSTM of one layer and direction without padding")
        named = {name.split(".")[-1]: p for name, p in self.reference.named_parameters()}
        self.weight_ih, self.weight_hh = named["weight_ih"].detach(), named["weight_hh"].detach()
        self.bias = (named["bias_ih"] + named["bias_hh"]).detach()
        self.parameters = {}
        self.adapt()

    def adapt(self) -> None:
        raise NotImplementedError

    def gates(self, order: tuple[int, ...], tensor: Tensor) -> Tensor:
        """`tensor` [G*H, *] with its gates, which stand as i, f, g, o, in another order."""
        return tensor.unflatten(0, (4, self.case.H))[list(order)].flatten(0, 1)


class Haste(OneLSTM):
    """Haste's LSTM (float32): gates i, g, f, o, weights transposed."""

    package = "haste_pytorch"

    def adapt(self) -> None:
        if self.case.dtype != "float32":
            raise Refused("computes in float32")
        layer = self.library.LSTM(self.case.H, self.case.H).to(self.device)
        order = (0, 2, 1, 3)
        with torch.no_grad():
            layer.kernel.copy_(self.gates(order, self.weight_ih).T)
            layer.recurrent_kernel.copy_(self.gates(order, self.weight_hh).T)
            layer.bias.copy_(self.gates(order, self.bias))
        layer.train()
        self.run = lambda x: layer(x)[0]


class FlashRNN(OneLSTM):
    """FlashRNN's LSTM with one head. Its gate order is not documented: it is found by comparing with ours."""

    package = "flashrnn"

    def adapt(self) -> None:
        with torch.no_grad():
            wanted = self.reference(self.x)[0]
        for order in permutations(range(4)):
            for transposed in (True, False):
                run = self._candidate(order, transposed)
                with torch.no_grad():
                    if torch.allclose(run(self.x), wanted, rtol=0.05, atol=0.05):
                        self.run = run
                        return
        raise Refused("wrong: agrees in no order of its gates")

    def _candidate(self, order: tuple[int, ...], transposed: bool) -> Callable[[Tensor], Tensor]:
        size = self.case.H
        weight = self.gates(order, self.weight_ih)
        recurrent = self.gates(order, self.weight_hh).unflatten(0, (4, 1, size))
        recurrent = (recurrent.mT if transposed else recurrent).contiguous().requires_grad_()
        bias = self.gates(order, self.bias).view(4, 1, size).clone().requires_grad_()
        leaf = weight.clone().requires_grad_()

        def run(x: Tensor) -> Tensor:
            projected = nn.functional.linear(x.transpose(0, 1), leaf).unflatten(-1, (4, 1, size))
            states, _ = self.library.flashrnn(
                projected, recurrent, bias, function="lstm", backend="cuda_fused"
            )
            return states[0][:, :, 0].transpose(0, 1)

        return run


SUBJECTS: dict[str, type[Network]] = {
    "eager": Eager,
    "auto": Ours,
    "resident": Resident,
    "streamed": Streamed,
    "stepwise": Stepwise,
    "cudnn": CuDNN,
    "compile": Compiled,
    "flashrnn": FlashRNN,
    "haste": Haste,
}
