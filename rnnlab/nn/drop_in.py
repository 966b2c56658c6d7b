"""Stand-ins for `torch.nn`'s networks: the same modules, run by whichever backend applies.

Each is a subclass of `torch.nn`'s class, which keeps the constructor, the parameters with their names and
initialisation, the checks with their messages, and the methods. Only the computation goes another way.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnlab.nn import convert
from rnnlab.nn.deep import DeepRNN
from rnnlab.recurrence import choice


class _ByBackend(nn.RNNBase):
    """`forward` by a `DeepRNN` over this module's own parameters, or by PyTorch's kernel if it is chosen."""

    backend: str = "auto"

    def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
        choice.check_name(backend)
        super().__init__(*args, **kwargs)
        self.backend = backend
        self._network()  # here and not at the first call, which `torch.compile` may be tracing

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As in `torch.nn`: outputs and final state, for a tensor or a `PackedSequence`."""
        if self.backend == "aten" or not self._fits(input, hx):
            return super().forward(input, hx)
        network = self._network()
        packed = isinstance(input, PackedSequence)
        x = input.data.unsqueeze(0) if packed else input if input.dim() == 3 else input.unsqueeze(1)
        if network._torch_is_chosen(x, packed):
            return super().forward(input, hx)
        return network(input, hx)

    def _fits(self, input: Any, hx: Any) -> bool:
        """Whether all tensors are as they should be; if not, `torch.nn` itself says what is wrong."""
        packed = isinstance(input, PackedSequence)
        x, batch_sizes = (input.data, input.batch_sizes) if packed else (input, None)
        if not isinstance(x, Tensor) or x.dim() not in ((2,) if packed else (2, 3)) or not x.numel():
            return False
        batched = packed or x.dim() == 3
        try:
            if not batched:
                x = x.unsqueeze(0 if self.batch_first else 1)
            if hx is None:
                self.check_input(x, batch_sizes)
                return True
            states = hx if self.mode == "LSTM" else (hx,)
            if not batched and any(h.dim() != 2 for h in states):
                return False
            states = tuple(h if batched else h.unsqueeze(1) for h in states)
            self.check_forward_args(x, states if self.mode == "LSTM" else states[0], batch_sizes)  # type: ignore[arg-type]
            return len(states) == (2 if self.mode == "LSTM" else 1)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False

    def _network(self) -> DeepRNN:
        """A `DeepRNN` that computes with this module's parameters, whatever they are at the moment.

        They may have been replaced since the last call: by `torch.func.functional_call`, a parametrization,
        or plain tensors, as weight drop does.
        """
        network: DeepRNN | None = self.__dict__.get("_deep")
        if network is None or network.backend != self.backend:
            network = convert.skeleton(self, backend=self.backend)
            # Past nn.Module.__setattr__, which would make it a submodule with parameters of its own.
            self.__dict__["_deep"] = network
            self.__dict__["_links"] = tuple(convert.names(network))
        for cell, name, torch_name in self.__dict__["_links"]:
            parameter = getattr(self, torch_name)
            if cell._parameters.get(name) is not parameter:
                cell._parameters[name] = parameter
        for name in ("training", "dropout", "batch_first"):
            if getattr(network, name) != getattr(self, name):
                setattr(network, name, getattr(self, name))
        return network

    def _forget_network(self, state: dict[str, Any]) -> None:
        state.pop("_deep", None)
        state.pop("_links", None)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        self._forget_network(state)
        return state

    def _replicate_for_data_parallel(self) -> Any:
        replica = super()._replicate_for_data_parallel()
        self._forget_network(replica.__dict__)
        return replica

    def extra_repr(self) -> str:
        backend = f", backend={self.backend!r}" if self.backend != "auto" else ""
        return super().extra_repr() + backend


class RNN(_ByBackend, nn.RNN):
    """`torch.nn.RNN` on any backend.

    Takes the arguments of `torch.nn.RNN`, and `backend` as in `rnnlab.DeepRNN`. Shapes, parameters, their
    initialisation, errors and checkpoints are those of `torch.nn.RNN`, in both ways.
    """


class LSTM(_ByBackend, nn.LSTM):
    """`torch.nn.LSTM` on any backend, `proj_size` included.

    Takes the arguments of `torch.nn.LSTM`, and `backend` as in `rnnlab.DeepRNN`. Shapes, parameters, their
    initialisation, errors and checkpoints are those of `torch.nn.LSTM`, in both ways.
    """


class GRU(_ByBackend, nn.GRU):
    """`torch.nn.GRU` on any backend.

    Takes the arguments of `torch.nn.GRU`, and `backend` as in `rnnlab.DeepRNN`. Shapes, parameters, their
    initialisation, errors and checkpoints are those of `torch.nn.GRU`, in both ways.
    """
