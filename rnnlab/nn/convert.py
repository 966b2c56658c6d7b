"""Between `DeepRNN` and `torch.nn`'s networks: the parameters are the same, under other names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from rnnlab.recurrence import aten

if TYPE_CHECKING:
    from rnnlab.nn.deep import DeepRNN

_CELLS = {"RNN_TANH": "rnn", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru"}


def from_torch(module: nn.RNNBase, *, backend: str = "auto") -> DeepRNN:
    """See `DeepRNN.from_torch`."""
    network = skeleton(module, backend=backend).to_empty(device=module.all_weights[0][0].device)
    with torch.no_grad():
        for cell, name, torch_name in names(network):
            source = getattr(module, torch_name)
            parameter = getattr(cell, name)
            parameter.copy_(source)
            parameter.requires_grad_(source.requires_grad)
    return network.train(module.training)


def to_torch(network: DeepRNN) -> nn.RNNBase:
    """See `DeepRNN.to_torch`."""
    reason = network._not_plain()
    if reason is not None:
        raise ValueError(f"this DeepRNN is no nn.RNN, nn.LSTM or nn.GRU: {reason}")
    first = next(network.parameters())
    stack = [layer.cell for layer in network._recurrences()]
    module = aten.torch_module(
        stack,
        bidirectional=network.bidirectional,
        batch_first=network.batch_first,
        # torch.nn warns of a dropout that a single layer cannot use.
        dropout=network.dropout if network.num_layers > 1 else 0.0,
        device="meta",
        dtype=first.dtype,
    ).to_empty(device=first.device)
    with torch.no_grad():
        for cell, name, torch_name in names(network):
            source, parameter = getattr(cell, name), getattr(module, torch_name)
            if source is None:
                parameter.zero_()
            else:
                parameter.copy_(source)
                parameter.requires_grad_(source.requires_grad)
    return module.train(network.training)


def skeleton(module: nn.RNNBase, *, backend: str = "auto") -> DeepRNN:
    """A `DeepRNN` on the CPU with the structure of `module`, whose parameters have no values yet."""
    from rnnlab.nn.deep import DeepRNN

    if not isinstance(module, nn.RNNBase):
        raise TypeError(f"expected an nn.RNN, nn.LSTM or nn.GRU, got {type(module).__name__}")
    projected = {"proj_size": module.proj_size} if module.proj_size > 0 else {}
    network = DeepRNN(
        "projected_lstm" if projected else _CELLS[module.mode],
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
        # Nothing is drawn, so that the random numbers of whoever converts stay as they were.
        cell_options={"init": _leave, **projected},
        backend=backend,
        device="cpu",
        dtype=module.all_weights[0][0].dtype,
    )
    for layer in network._recurrences():
        layer.cell.init = "torch"  # type: ignore[assignment]
    return network


def _leave(cell: nn.Module) -> None:
    """An initialiser that leaves the parameters as they are."""


def names(network: DeepRNN) -> Iterator[tuple[nn.Module, str, str]]:
    """Each cell of a plain network with its parameters' names, its own and those of `torch.nn`.

    A single bias is named twice: `bias_hh` is then None.
    """
    for layer, recurrence in network.layers.items():
        cell = recurrence.cell
        assert isinstance(cell, nn.Module)
        parameters = ["weight_ih", "weight_hh"]
        if cell.bias_ih is not None:
            parameters += ["bias_ih", "bias_hh"]
        if hasattr(cell, "weight_hr"):
            parameters.append("weight_hr")
        for name in parameters:
            yield cell, name, f"{name}_{layer}"
