"""PyTorch's own kernels (oneDNN, cuDNN) as a backend, for the cells whose equations they have built in.

Legend: `T` time, `B` batch, `I` input, `L` layers, `D` directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab import cells
from rnnlab.recurrence.contract import Call, Lengths, State, autocast_dtype, has_hooks

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
        if has_hooks(cell):
            return "the cell has hooks, which its kernel would not call"
        if call.resets is not None:
            return "PyTorch's kernels have no resets"
        if call.noise:
            return "PyTorch's kernels have no noise inside the recurrence"
        if call.lengths is not None and (x.is_meta or torch.compiler.is_compiling()):
            return "packed sequences need values: they can be neither traced nor run on device 'meta'"
        if x.dim() != 3:
            return f"PyTorch's kernels take inputs [T, B, I], got {x.dim()} dimensions"
        weight = weights(cell)[0]
        if x.dtype != weight.dtype and autocast_dtype(x.device.type) is None:
            return f"the inputs are {x.dtype}, the parameters {weight.dtype}"
        return None

    def run(self, call: Call) -> tuple[Tensor, State]:
        lengths = None if call.lengths is None else Lengths(call.lengths, call.host_lengths)
        x = _reversed(call.x, call.lengths) if call.reverse else call.x
        state = tuple(s.unsqueeze(0) for s in call.state)
        outputs, final = run_stack([call.cell], x, state, lengths)
        if call.reverse:
            outputs = _reversed(outputs, call.lengths)
        return outputs, tuple(s.squeeze(0) for s in final)


def run_stack(
    stack: Sequence[nn.Module],
    x: Tensor,
    state: State,
    lengths: Lengths | None = None,
    *,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
) -> tuple[Tensor, State]:
    """Several layers of one kind in one call of PyTorch's kernel.

    Args:
        stack: cells of one type and hidden size, layer after layer, forward before reverse in each.
        x: `[T, B, I]`.
        state: `[L*D, B, *]` each, in the order of `stack`.
        lengths: of each row, where they differ from T.
        dropout: between layers, where `training`.

    Returns:
        The outputs `[T, B, *]` and the final state, both in the dtype of `state`.
    """
    kernel: Any = _KERNELS[str(mode(stack[0]))]
    flat = _contiguous(stack, [weight for cell in stack for weight in weights(cell)], bidirectional)
    num_layers = len(stack) // (2 if bidirectional else 1)
    options = (flat, stack[0].bias_ih is not None, num_layers, dropout, training, bidirectional)
    hidden = state if len(state) > 1 else state[0]
    if lengths is None:
        outputs, *final = kernel(x, hidden, *options, False)
    else:
        host = lengths.values.cpu() if lengths.host is None else lengths.host
        packed = pack_padded_sequence(x, host, enforce_sorted=False)
        order, back = packed.sorted_indices, packed.unsorted_indices
        assert order is not None
        assert back is not None
        hidden = tuple(s.index_select(1, order) for s in state)
        hidden = hidden if len(state) > 1 else hidden[0]
        data, *final = kernel(packed.data, packed.batch_sizes, hidden, *options)
        outputs, _ = pad_packed_sequence(packed._replace(data=data), total_length=x.shape[0])
        final = [s.index_select(1, back) for s in final]
    # Autocast computes in a lower precision; a state keeps its dtype.
    return outputs.to(state[0].dtype), tuple(s.to(old.dtype) for s, old in zip(final, state, strict=True))


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
