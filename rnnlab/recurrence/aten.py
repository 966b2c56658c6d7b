"""PyTorch's own kernels (oneDNN, cuDNN) as a backend, for the cells whose equations they have built in.

Legend: `T` time, `B` batch, `I` input, `L` layers, `D` directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab import cells
from rnnlab.recurrence.contract import Call, State

# By exact type: a subclass may have changed the equation.
_MODES: dict[type[nn.Module], str] = {
    nn.RNNCell: "RNN",
    nn.LSTMCell: "LSTM",
    nn.GRUCell: "GRU",
    cells.RNNCell: "RNN",
    cells.LSTMCell: "LSTM",
    cells.ProjectedLSTMCell: "LSTM",
    cells.GRUCell: "GRU",
}
_KERNELS: dict[str, Any] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "LSTM": torch.lstm,
    "GRU": torch.gru,
}


class Aten:
    """The fused kernels of PyTorch for a simple RNN, LSTM or GRU cell, ours or `torch.nn`'s."""

    name = "aten"

    def refusal(self, call: Call) -> str | None:
        cell, x = call.cell, call.x
        if type(cell) not in _MODES:
            return "PyTorch has kernels for the RNN, LSTM and GRU cells alone"
        if cell._forward_hooks or cell._forward_pre_hooks or cell._backward_hooks or cell._backward_pre_hooks:
            return "the cell has hooks, which its kernel would not call"
        if call.resets is not None:
            return "PyTorch's kernels have no resets"
        if call.noise:
            return "PyTorch's kernels have no noise inside the recurrence"
        if x.dim() != 3:
            return f"PyTorch's kernels take inputs [T, B, I], got {x.dim()} dimensions"
        weight = weights(cell)[0]
        autocast = torch.is_autocast_enabled(x.device.type)
        if x.dtype != weight.dtype and not autocast:
            return f"the inputs are {x.dtype}, the parameters {weight.dtype}"
        return None

    def run(self, call: Call) -> tuple[Tensor, State]:
        x, lengths = call.x, call.lengths
        if call.reverse:
            x = _reversed(x, lengths)
        state = tuple(s.unsqueeze(0) for s in call.state)
        if lengths is None:
            outputs, final = run_stack([call.cell], x, state)
        else:
            host = call.host_lengths if call.host_lengths is not None else lengths.cpu()
            packed = pack_padded_sequence(x, host, enforce_sorted=False)
            done, final = run_stack([call.cell], packed, state)
            outputs, _ = pad_packed_sequence(done, total_length=x.shape[0])
        if call.reverse:
            outputs = _reversed(outputs, lengths)
        # Autocast computes in a lower precision; a state keeps its dtype.
        kept = tuple(s.squeeze(0).to(old.dtype) for s, old in zip(final, call.state, strict=True))
        return outputs.to(call.state[0].dtype), kept


def run_stack(
    stack: Sequence[nn.Module],
    x: Any,
    state: State,
    *,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
) -> tuple[Any, State]:
    """Several layers of one kind in one call of PyTorch's kernel.

    Args:
        stack: cells of one type and hidden size, layer after layer, forward before reverse in each.
        x: `[T, B, I]`, or a `PackedSequence`.
        state: `[L*D, B, *]` each, in the order of `stack`, the rows in the order before packing.
        dropout: between layers, where `training`.

    Returns:
        The outputs in the form of `x`, and the final state.
    """
    has_biases = stack[0].bias_ih is not None
    flat = _contiguous(stack, [weight for cell in stack for weight in weights(cell)], bidirectional)
    num_layers = len(stack) // (2 if bidirectional else 1)
    options = (flat, has_biases, num_layers, dropout, training, bidirectional)
    kernel = _KERNELS[str(mode(stack[0]))]
    order = x.sorted_indices if isinstance(x, PackedSequence) else None
    if order is not None:
        state = tuple(s.index_select(1, order) for s in state)
    hidden = state if len(state) > 1 else state[0]
    if isinstance(x, PackedSequence):
        outputs, *final = kernel(x.data, x.batch_sizes, hidden, *options)
        outputs = PackedSequence(outputs, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
        if x.unsorted_indices is not None:
            final = [s.index_select(1, x.unsorted_indices) for s in final]
    else:
        outputs, *final = kernel(x, hidden, *options, False)
    return outputs, tuple(final)


def mode(cell: nn.Module) -> str | None:
    """The kernel of a cell, as `nn.RNNBase.mode` names it; None for a cell that has none."""
    found = _MODES.get(type(cell))
    return f"RNN_{cell.nonlinearity}".upper() if found == "RNN" else found


def weights(cell: nn.Module) -> list[Tensor]:
    """The parameters in the order of the kernels; a single bias is joined by one of zeros."""
    found: list[Any] = [cell.weight_ih, cell.weight_hh]
    if cell.bias_ih is not None:
        found += [cell.bias_ih, torch.zeros_like(cell.bias_ih) if cell.bias_hh is None else cell.bias_hh]
    return [*found, cell.weight_hr] if isinstance(cell, cells.ProjectedLSTMCell) else found


_flattened: WeakKeyDictionary[nn.Module, list[int]] = WeakKeyDictionary()


def _contiguous(stack: Sequence[nn.Module], flat: list[Tensor], bidirectional: bool) -> list[Tensor]:
    """On a GPU, move the parameters into one block of memory as cuDNN wants them, once, as `nn.LSTM` does."""
    if not flat[0].is_cuda or not all(isinstance(weight, nn.Parameter) for weight in flat):
        return flat
    if _flattened.get(stack[0]) != [weight.data_ptr() for weight in flat]:
        owner = torch_module(stack, bidirectional=bidirectional, device="meta")
        for name, weight in zip(owner._flat_weights_names, flat, strict=True):
            setattr(owner, name, weight)
        owner.flatten_parameters()
        _flattened[stack[0]] = [weight.data_ptr() for weight in flat]
    return flat


def torch_module(stack: Sequence[nn.Module], *, bidirectional: bool = False, **options: Any) -> nn.RNNBase:
    """An `nn.RNN`, `nn.LSTM` or `nn.GRU` of the sizes of `stack`, with parameters of its own.

    `options` go to its constructor (`batch_first`, `dropout`, `device`, `dtype`).
    """
    cell: Any = stack[0]
    kind = _MODES[type(cell)]
    if kind == "RNN":
        options["nonlinearity"] = cell.nonlinearity
    if isinstance(cell, cells.ProjectedLSTMCell):
        options["proj_size"] = cell.proj_size
    return getattr(nn, kind)(
        cell.input_size,
        cell.hidden_size,
        num_layers=len(stack) // (2 if bidirectional else 1),
        bias=cell.bias_ih is not None,
        bidirectional=bidirectional,
        **options,
    )


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each row of `[T, B, *]` from its own end to its start; what lies past it stays where it is."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, source[:, :, None].expand_as(x))
