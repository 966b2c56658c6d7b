"""A deep recurrent network over any cell.

Legend: `T` time, `B` batch, `I` input, `H` hidden, `L` layers, `D` directions (1 or 2), `O` output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnlab.cells import Bias
from rnnlab.nn import convert
from rnnlab.nn.build import CellFactory, build, per_layer
from rnnlab.nn.state_layout import StateLayout, reordered
from rnnlab.recurrence import Lengths, Recurrence, StepSpec, aten, choice
from rnnlab.recurrence.contract import autocast_dtype, check_lengths, has_hooks, initial_state

Merge = Literal["concat", "sum", "mean", "mul"]

_MERGES = {
    "concat": lambda outputs: torch.cat(outputs, dim=-1),
    "sum": lambda outputs: outputs[0] + outputs[1],
    "mean": lambda outputs: (outputs[0] + outputs[1]) / 2,
    "mul": lambda outputs: outputs[0] * outputs[1],
}


class DeepRNN(nn.Module):
    """Layers of recurrent cells, each fed with the outputs of the one below.

        h^l_t = cell^l(h^(l-1)_t, h^l_(t-1)),    h^0_t = x_t

    Any cell works that `rnnlab.Recurrence` runs, `torch.nn.GRUCell` and `nn.LSTMCell` among them.

    Shapes:
        x: `[T, B, I]`; `[B, T, I]` with `batch_first`; `[T, I]` unbatched; or a `PackedSequence`.
        outputs: as `x`, with O = `output_size` features: H, or 2H for two concatenated directions.
        state: `[L*D, B, H]`, or a tuple of such for cells with several states, as `torch.nn.LSTM` has it,
            where all layers have states of the same shapes (`stacked_state`). Else, in mixed stacks and for
            unequal sizes, a tuple over layers and directions (`l0`, `l0_reverse`, `l1`, ...) of each cell's
            own state, a tensor `[B, H]` or a tuple of them. Every stack takes the tuple over layers and
            directions too, which may hold None where a layer starts from its cell's initial state.

    Attributes: `output_size` is O; `stacked_state` tells which layout states have. Parameters are named
    `layers.l0.cell.*`, `layers.l0_reverse.cell.*`, `layers.l1.cell.*`, ..., whatever the backend.

    Args:
        cell: a name of `rnnlab.cells.CELLS`; a class or factory, called as `cell(input_size, hidden_size)`;
            or a list of these, one a layer.
        input_size: I.
        hidden_size: H, or a list, one a layer.
        num_layers: L; may be left out where `cell` or `hidden_size` is a list.
        bias: True, False or "single"; see `rnnlab.cells.Cell`.
        batch_first: batch before time in `x`, outputs and `resets`; states stay as they are.
        dropout: the probability of zeroing an output between layers, in training.
        bidirectional: add to each layer a second one that runs from the end of each row to its start.
        merge: how two directions become one output: "concat", "sum", "mean" or "mul"; unused with one.
        variational_dropout: draw the mask of `dropout` once a sequence, and not for each step.
        residual: add a layer's input to its output in each layer where their widths agree.
        return_all_layers: return a tuple of the outputs of all layers, the last one being the usual output.
        cell_options: further keyword arguments of the cells, such as `{"forget_bias": 1.0}`.
        backend: "auto", or one of `rnnlab.recurrence.backends()`; an explicit one raises where it cannot run.

    Raises:
        ValueError, TypeError: settings that do not fit together; the message says which and what would.

    Sources: Schmidhuber (1992), "Learning complex, extended sequences using the principle of history
    compression"; Graves, Mohamed and Hinton (2013), "Speech recognition with deep recurrent neural networks".
    Two directions: Schuster and Paliwal (1997). Variational dropout: Gal and Ghahramani (2016).
    """

    def __init__(
        self,
        cell: str | CellFactory | Sequence[str | CellFactory],
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        merge: Merge = "concat",
        variational_dropout: bool = False,
        residual: bool = False,
        return_all_layers: bool = False,
        cell_options: Mapping[str, Any] | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        layers = per_layer(cell, hidden_size, num_layers)
        if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size < 1:
            raise ValueError(f"input_size must be a positive integer, got {input_size!r}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a number from 0 to 1, got {dropout!r}")
        flags = {"batch_first": batch_first, "bidirectional": bidirectional, "residual": residual}
        flags |= {"variational_dropout": variational_dropout, "return_all_layers": return_all_layers}
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, got {flag!r}")
        if merge not in _MERGES:
            raise ValueError(f"merge must be one of {', '.join(map(repr, _MERGES))}, got {merge!r}")
        choice.check_name(backend)
        self.input_size = input_size
        self.hidden_size: int | tuple[int, ...] = tuple(size for _, size in layers)
        if len(set(self.hidden_size)) == 1:
            self.hidden_size = self.hidden_size[0]
        self.num_layers = len(layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.merge = merge
        self.variational_dropout = variational_dropout
        self.residual = residual
        self.return_all_layers = return_all_layers

        self.layers = nn.ModuleDict()
        specs: list[StepSpec] = []
        widths = [input_size]
        for index, (factory, size) in enumerate(layers):
            for suffix in ("", "_reverse")[: self.num_directions]:
                options = cell_options or {}
                made = build(
                    factory, widths[-1], size, bias=bias, options=options, device=device, dtype=dtype
                )
                layer = Recurrence(made, reverse=bool(suffix), backend=backend, input_size=widths[-1])
                self.layers[f"l{index}{suffix}"] = layer
                specs.append(self._probe(layer, widths[-1]))
            width = specs[-1].output_shape[0]
            widths.append(2 * width if bidirectional and merge == "concat" else width)
        self.output_size = widths[-1]
        self._states = StateLayout(tuple(self.layers), specs)
        self._choices: dict[Any, bool] = {}
        self._adds = [residual and above == below for below, above in pairwise(widths)]
        if residual and not any(self._adds):
            raise ValueError(f"residual=True needs a layer as wide as its input, got the widths {widths}")

    @staticmethod
    def _probe(layer: Recurrence, width: int) -> StepSpec:
        parameter = _first_parameter(layer.cell)
        like = torch.empty(0) if parameter is None else parameter
        spec = layer.spec(torch.zeros(1, width, dtype=like.dtype, device=like.device))
        if len(spec.output_shape) != 1:
            raise ValueError(
                f"the output of {type(layer.cell).__name__} must be [B, O] to feed the next layer, "
                f"got [B, {', '.join(map(str, spec.output_shape))}]"
            )
        return spec

    @property
    def num_directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def stacked_state(self) -> bool:
        """Whether states come as `[L*D, B, H]`, and not as a tuple over layers and directions."""
        return self._states.stacked

    @property
    def backend(self) -> str:
        """The backend asked for; setting it sets that of all layers."""
        return self._recurrences()[0].backend

    @backend.setter
    def backend(self, name: str) -> None:
        choice.check_name(name)
        for layer in self._recurrences():
            layer.backend = name

    @classmethod
    def from_torch(cls, module: nn.RNNBase, *, backend: str = "auto") -> DeepRNN:
        """The network of an `nn.RNN`, `nn.LSTM` or `nn.GRU`, with a copy of its parameters.

        Raises TypeError for another module.
        """
        return convert.from_torch(module, backend=backend)

    def to_torch(self) -> nn.RNNBase:
        """The `nn.RNN`, `nn.LSTM` or `nn.GRU` of this network, with a copy of its parameters.

        A single bias becomes two, the second zero. Raises ValueError, with the reason, where there is none.
        """
        return convert.to_torch(self)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Any = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the whole sequence through all layers.

        Args:
            x: the sequence, in one of the forms above.
            state: the state to start from, in one of the layouts above; the cells' initial states where None.
            lengths: `[B]`, the steps of each row, from 1 to T. Past its length a row's state stands still and
                its outputs are zero; the reverse direction starts at each row's own end.
            resets: bool, with the leading dimensions of `x`: true where a new document starts. Before that
                step the states return to the cells' initial states; in the reverse direction they return
                there where a document ends.

        Returns:
            The outputs in the form of `x` (a tuple of them with `return_all_layers`), and the final state.

        Raises:
            ValueError, TypeError: a rank, size, dtype or device that does not fit, lengths out of range, or a
                named backend that cannot run this call.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, state, lengths, resets)
        batched = self._check_input(x, 3, "[B, T, I]" if self.batch_first else "[T, B, I]")
        if not batched:
            if lengths is not None:
                raise ValueError("lengths need a batch: an unbatched sequence [T, I] is as long as it is")
            x, resets = x.unsqueeze(1), None if resets is None else resets.unsqueeze(1)
        elif self.batch_first:
            x, resets = x.transpose(0, 1), None if resets is None else resets.transpose(0, 1)
        known = None if lengths is None else check_lengths(lengths, x.shape[0], x.shape[1], x.device)
        outputs, final = self._run(x, self._states.split(state, x.shape[1], batched), known, resets)
        if not batched:
            outputs = [output.squeeze(1) for output in outputs]
        elif self.batch_first:
            outputs = [output.transpose(0, 1) for output in outputs]
        return self._chosen(outputs), self._states.join(final, batched)

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Any, Any]:
        """One step through all layers, for streaming and generation.

        Fed step by step, with each state passed on, it computes what `forward` does on the whole sequence. In
        training mode dropout draws anew at each step.

        Shapes: `x_t` is `[B, I]` or `[I]`, the output `[B, O]` or `[O]`; states as in `forward`.

        Raises:
            ValueError: for a bidirectional network, whose reverse direction needs the whole sequence first.
        """
        if self.bidirectional:
            raise ValueError(
                "a bidirectional network cannot run step by step: its reverse direction starts at the end of "
                "the sequence; use forward, or bidirectional=False"
            )
        batched = self._check_input(x_t, 2, "[B, I]")
        h = x_t if batched else x_t.unsqueeze(0)
        outputs: list[Tensor] = []
        final: list[Any] = []
        states = self._states.split(state, h.shape[0], batched)
        for index, (layer, before) in enumerate(zip(self._recurrences(), states, strict=True)):
            output, after = layer.step(h, before)
            h = self._finish_layer(index, output, h, outputs)
            final.append(after)
        if not batched:
            outputs = [output.squeeze(0) for output in outputs]
        return self._chosen(outputs), self._states.join(final, batched)

    def _run(
        self, x: Tensor, states: list[Any], lengths: Lengths | None, resets: Tensor | None
    ) -> tuple[list[Tensor], list[Any]]:
        """All layers over `[T, B, I]`: the outputs of each layer, the final state of each direction of it."""
        if self._runs_whole(x, lengths, resets):
            return self._run_whole(x, states, lengths)
        layers = self._recurrences()
        if self.residual and lengths is not None:
            # The padding of x may hold anything; that of every output is zero.
            steps = torch.arange(x.shape[0], device=x.device)[:, None]
            x = torch.where((steps < lengths.values)[:, :, None], x, 0)
        outputs: list[Tensor] = []
        final: list[Any] = []
        directions = self.num_directions
        for index in range(self.num_layers):
            each = []
            for position in range(index * directions, (index + 1) * directions):
                output, after = layers[position](x, states[position], lengths=lengths, resets=resets)
                each.append(output)
                final.append(after)
            x = self._finish_layer(
                index, each[0] if directions == 1 else _MERGES[self.merge](each), x, outputs
            )
        return outputs, final

    def _runs_whole(self, x: Tensor, lengths: Lengths | None, resets: Tensor | None) -> bool:
        """Whether one call of PyTorch's kernel does all layers: in a plain stack that it would run anyway.

        It is there for cuDNN, which can overlap the layers of one call; on a CPU it is no faster than layers.
        """
        if len(self._states.specs) == 1 or resets is not None:
            return False
        return self._torch_is_chosen(x, lengths is not None) and self._not_plain() is None

    def _torch_is_chosen(self, x: Tensor, with_lengths: bool) -> bool:
        """Whether PyTorch's kernel is the choice for inputs like `x` `[*, *, I]`; kept once found."""
        autocast = autocast_dtype(x.device.type)
        traced = with_lengths and torch.compiler.is_compiling()
        key = (x.dtype, x.device, with_lengths, torch.is_grad_enabled(), traced, autocast, self.backend)
        found = self._choices.get(key)
        if found is None:
            lengths = Lengths(x.new_ones(x.shape[1], dtype=torch.long), None) if with_lengths else None
            found = self._choices[key] = self._recurrences()[0].chosen(x, lengths=lengths) == "aten"
        return found

    def _not_plain(self) -> str | None:
        """Why this stack is not what `nn.RNN`, `nn.LSTM` or `nn.GRU` can be; None if it is."""
        layers = self._recurrences()
        modes = {aten.mode(layer.cell) for layer in layers}
        if None in modes or len(modes) > 1:
            return "its cells must all be RNN, all LSTM or all GRU cells"
        if not self.stacked_state:
            return "its layers must have equal sizes"
        if len({layer.cell.bias_ih is None for layer in layers}) > 1:
            return "its layers must all have a bias, or none"
        if self.bidirectional and self.merge != "concat":
            return f"its directions are merged by {self.merge!r} and not by 'concat'"
        for name in ("residual", "return_all_layers"):
            if getattr(self, name):
                return f"it has {name}=True"
        if self.variational_dropout and self.dropout:
            return "it has variational dropout"
        if any(has_hooks(layer) or has_hooks(layer.cell) for layer in layers):
            return "its cells have hooks"
        return None

    def _run_whole(
        self, x: Tensor, states: list[Any], lengths: Lengths | None
    ) -> tuple[list[Tensor], list[Any]]:
        layers, spec = self._recurrences(), self._states.specs[0]
        each = [
            initial_state(layer.cell, spec, x.shape[1], x)
            if state is None
            else layer.check_state(spec, state, x.shape[1], x)
            for layer, state in zip(layers, states, strict=True)
        ]
        outputs, final = aten.run_stack(
            [layer.cell for layer in layers],
            x,
            tuple(torch.stack(column) for column in zip(*each, strict=True)),
            lengths,
            dropout=self.dropout,
            training=self.training,
            bidirectional=self.bidirectional,
        )
        return [outputs], [spec.to_cell(column) for column in zip(*(s.unbind(0) for s in final), strict=True)]

    def _finish_layer(self, index: int, output: Tensor, below: Tensor, outputs: list[Tensor]) -> Tensor:
        """Add the residual, keep the layer's output, and return the next layer's input."""
        if self._adds[index]:
            output = output + below
        outputs.append(output)
        if index == self.num_layers - 1 or not self.training or not self.dropout:
            return output
        if self.variational_dropout and output.dim() == 3:  # in `step`, a sequence is one step
            return output * F.dropout(torch.ones_like(output[:1]), self.dropout)
        return F.dropout(output, self.dropout)

    def _forward_packed(
        self, x: PackedSequence, state: Any, lengths: Any, resets: Tensor | None
    ) -> tuple[Any, Any]:
        if lengths is not None:
            raise ValueError("a PackedSequence has its own lengths: leave `lengths` out")
        self._check_input(x.data, 2, "a PackedSequence of [*, I]")
        # Rows stay in the packed order, the longest first, so that nothing is sorted twice.
        padded, steps = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes))
        if resets is not None:
            resets = resets.transpose(0, 1) if self.batch_first else resets
        states = self._states.split(state, len(steps), True)
        if x.sorted_indices is not None:
            states = [reordered(s, x.sorted_indices) for s in states]
            resets = None if resets is None else resets.index_select(1, x.sorted_indices)
        known = check_lengths(steps, padded.shape[0], len(steps), padded.device)
        outputs, final = self._run(padded, states, known, resets)
        if x.unsorted_indices is not None:
            final = [reordered(s, x.unsorted_indices) for s in final]
        packed = [
            PackedSequence(
                pack_padded_sequence(output, steps).data, x.batch_sizes, x.sorted_indices, x.unsorted_indices
            )
            for output in (outputs if self.return_all_layers else outputs[-1:])
        ]
        return self._chosen(packed), self._states.join(final, True)

    def _chosen(self, outputs: Sequence[Any]) -> Any:
        return tuple(outputs) if self.return_all_layers else outputs[-1]

    def _recurrences(self) -> list[Recurrence]:
        layers: Any = self._modules["layers"]  # past nn.Module.__getattr__, which is slow
        return list(layers._modules.values())

    def _check_input(self, x: Tensor, dims: int, form: str) -> bool:
        """Whether `x` has a batch. Raises for a rank, size, dtype or device that does not fit."""
        if not isinstance(x, Tensor):
            raise TypeError(f"the input must be a tensor {form}, got {type(x).__name__}")
        shape = x.shape
        packed = form.startswith("a Packed")
        if len(shape) != dims and (packed or len(shape) != dims - 1):
            unbatched = "" if packed else ", or without the batch"
            raise ValueError(f"the input must be {form}{unbatched}, got {list(shape)}")
        if shape[-1] != self.input_size:
            raise ValueError(f"the input must have input_size={self.input_size} features, got {list(shape)}")
        first = self._recurrences()[0]
        # A layer that something wraps (a checkpoint, FSDP, torch.compile) passes its attributes on.
        cell: Any = first._modules.get("cell") or first.cell
        parameter = _first_parameter(cell)
        if parameter is not None:
            if x.device != parameter.device:
                raise ValueError(
                    f"the input is on {x.device}, the parameters on {parameter.device}: move one by .to()"
                )
            if x.dtype != parameter.dtype and autocast_dtype(x.device.type) is None:
                raise ValueError(
                    f"the input is {x.dtype}, the parameters {parameter.dtype}: convert one by .to(dtype)"
                )
        return len(shape) == dims

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "variational_dropout": False,
            "bidirectional": False,
            "merge": "concat",
            "residual": False,
            "return_all_layers": False,
            "backend": "auto",
        }
        parts += [
            f"{k}={getattr(self, k)!r}" for k, default in defaults.items() if getattr(self, k) != default
        ]
        return ", ".join(parts)


def _first_parameter(cell: nn.Module) -> Tensor | None:
    for parameter in cell._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            return parameter
    return next((p for p in cell.parameters() if p.is_floating_point()), None)
