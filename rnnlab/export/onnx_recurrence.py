"""Recurrences in ONNX: its own RNN, LSTM and GRU for the cells whose equations they are, Scan for the rest.

Legend: `T` time, `B` batch, `H` hidden, `G` gates; `*` stands for any further dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import rnnlab.export.onnx_shapes  # noqa: F401  (registers its rules)
from rnnlab.export.onnx_emit import Dyn, Emitter, Val, helper, value_info
from rnnlab.export.onnx_ops import RULES
from rnnlab.export.opaque import ExportError
from rnnlab.recurrence import aten as kernels
from rnnlab.recurrence.contract import StepSpec
from rnnlab.recurrence.graph import Operation, Rows, Unsupported, Value
from rnnlab.recurrence.trace import trace

# Where ONNX has the gates that PyTorch has in the order i, f, g, o (LSTM) and r, z, n (GRU).
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def write_recurrence(
    e: Emitter,
    cell: nn.Module,
    spec: StepSpec,
    x: Val,
    states: Sequence[Val],
    lengths: Val | None,
    reverse: bool,
) -> list[str]:
    """Write one layer and direction; the names of its outputs `[T, B, *]` and final states `[B, *]`.

    Raises:
        ExportError: an operator of the cell's step has no form in ONNX; names it and its line.
    """
    kind = kernels.mode(cell)
    if kind is not None and getattr(cell, "proj_size", 0) == 0:
        return _standard(e, cell, kind, x, states, lengths, reverse)
    return _scan(e, cell, spec, x, states, lengths, reverse)


def _standard(
    e: Emitter,
    cell: nn.Module,
    kind: str,
    x: Val,
    states: Sequence[Val],
    lengths: Val | None,
    reverse: bool,
) -> list[str]:
    """A node RNN, LSTM or GRU: weights `[1, G*H, *]` and bias `[1, 2*G*H]` in ONNX's order of gates.

    The GRU's reset gate acts behind the recurrent product, as in PyTorch: linear_before_reset.
    """
    name = kind.partition("_")[0]
    weights = kernels.weights(cell)

    def ordered(tensor: Tensor) -> Tensor:
        gates = tensor.detach().chunk(len(GATES[name]))
        return torch.cat([gates[place] for place in GATES[name]])

    options: dict[str, Any] = {"hidden_size": cell.hidden_size}
    options["direction"] = "reverse" if reverse else "forward"
    if name == "RNN":
        options["activations"] = [kind.partition("_")[2].capitalize()]
    if name == "GRU":
        options["linear_before_reset"] = 1
    inputs: list[Any] = [x]
    inputs += [e.weight(ordered(weight)[None], f"{name.lower()}_weight") for weight in weights[:2]]
    bias = torch.cat([ordered(part) for part in weights[2:4]])[None] if len(weights) > 2 else None
    inputs.append("" if bias is None else e.weight(bias, f"{name.lower()}_bias"))
    inputs.append("" if lengths is None else e.cast(lengths, lengths.dtype, torch.int32))
    inputs += [e.op("Unsqueeze", state, e.constant([0])) for state in states]
    outputs, *final = e.op(name, *inputs, outputs=1 + len(states), **options)
    return [
        e.op("Squeeze", outputs, e.constant([1])),
        *(e.op("Squeeze", state, e.constant([0])) for state in final),
    ]


def _scan(
    e: Emitter,
    cell: nn.Module,
    spec: StepSpec,
    x: Val,
    states: Sequence[Val],
    lengths: Val | None,
    reverse: bool,
) -> list[str]:
    """A node Scan whose body is the captured step.

    What depends on parameters alone is written outside it, or as its value where ONNX has no such operator.
    """
    name = type(cell).__name__
    like = torch.zeros(1, *x.shape[2:], dtype=x.dtype)
    try:
        step = trace(cell, spec, like, [torch.zeros(1, *s.shape[1:], dtype=s.dtype) for s in states])
    except Unsupported as error:
        raise ExportError(f"{name} has no form in ONNX: {error}") from error
    body = Emitter(e.shared)
    x_t = Val(body.fresh("x_t"), x.dtype, x.shape[1:])
    before = [Val(body.fresh("state"), s.dtype, s.shape) for s in states]
    known: dict[Value, Val] = {step.x: x_t, **dict(zip(step.states, before, strict=True))}
    held: dict[Value, Tensor] = {}
    for value in (*step.parameters, *step.constants):
        tensor = value.tensor if value.tensor is not None else _held(cell, value.path)
        known[value] = Val(e.weight(tensor.detach(), f"{name}.{value.path or value.name}"), value.dtype, ())
        known[value] = Val(known[value].name, value.dtype, tuple(tensor.shape))
        held[value] = tensor.detach()
    rows = body.size(before[0], 0)
    varies = {step.x, *step.states}
    for operation in step.operations:
        inside = any(value in varies for value in operation.operands) or _has_rows(operation)
        if not inside:
            held.update(_evaluated(operation, held))
        if inside or operation.target in RULES:
            results = write_operation(body if inside else e, operation, known, rows, name)
        else:
            values = [value for value in operation.outputs if value is not None]
            results = {v: Val(e.weight(held[v], f"{name}.{v.name}"), v.dtype, v.shape) for v in values}
        known.update(results)
        if inside:
            varies.update(results)
    output, after = known[step.output], [known[value] for value in step.next_states]
    after = [
        Val(body.cast(new, new.dtype, old.dtype), old.dtype, old.shape)
        for new, old in zip(after, before, strict=True)
    ]
    inputs, declared = [x], [value_info(x_t.name, x_t.dtype, [None] * x_t.rank)]
    if lengths is not None:
        inputs.append(_mask(e, x, lengths))
        valid = Val(body.fresh("valid"), torch.bool, (None,))
        declared.append(value_info(valid.name, torch.bool, [None]))
        output, after = _held_still(body, valid, output, after, before)
    # A body's results are values of its own: no inputs, no weights, none twice.
    results_ = [Val(body.op("Identity", value), value.dtype, value.shape) for value in (*after, output)]
    graph = helper.make_graph(
        body.nodes,
        body.fresh(f"{name}_step"),
        [*(value_info(s.name, s.dtype, [None] * s.rank) for s in before), *declared],
        [value_info(v.name, v.dtype, [None] * v.rank) for v in results_],
    )
    directions = [int(reverse)]
    *final, outputs = e.op(
        "Scan",
        *states,
        *inputs,
        outputs=1 + len(states),
        body=graph,
        num_scan_inputs=len(inputs),
        scan_input_directions=directions * len(inputs),
        scan_output_directions=directions,
    )
    return [outputs, *final]


def _evaluated(operation: Operation, held: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """The results of an operator of parameters and constants alone."""

    def given(item: Any) -> Any:
        if isinstance(item, list | tuple):
            return [given(part) for part in item]
        return held[item] if isinstance(item, Value) else item

    options = {key: given(item) for key, item in operation.kwargs.items()}
    with torch.no_grad():
        made = operation.target(*map(given, operation.args), **options)
    tensors = made if isinstance(made, list | tuple) else [made]
    pairs = zip(operation.outputs, tensors, strict=False)
    return {value: tensor.contiguous() for value, tensor in pairs if value is not None}


def _mask(e: Emitter, x: Val, lengths: Val) -> Val:
    """`[T, B]`, true where a step lies within its row's length."""
    steps = e.op("Range", e.constant(0), e.scalar(e.size(x, 0)), e.constant(1))
    column = e.op("Unsqueeze", steps, e.constant([1]))
    row = e.op("Unsqueeze", e.cast(lengths, lengths.dtype, torch.int64), e.constant([0]))
    return Val(e.op("Less", column, row), torch.bool, (None, None))


def _held_still(
    body: Emitter, valid: Val, output: Val, after: Sequence[Val], before: Sequence[Val]
) -> tuple[Val, list[Val]]:
    """Past its length a row's states stay and its output is zero."""

    def chosen(new: Val, old: str) -> Val:
        mask = valid.name
        if new.rank > 1:
            mask = body.op("Unsqueeze", valid, body.constant(list(range(1, new.rank))))
        return Val(body.op("Where", mask, new, old), new.dtype, new.shape)

    kept = [chosen(new, old.name) for new, old in zip(after, before, strict=True)]
    return chosen(output, body.constant(0, output.dtype)), kept


def write_operation(
    e: Emitter, operation: Operation, known: Mapping[Value, Val], rows: Dyn, cell: str
) -> dict[Value, Val]:
    """Write one operator of a step; what its results are.

    Raises:
        ExportError: it has no form in ONNX.
    """

    def given(item: Any) -> Any:
        if isinstance(item, Value):
            return known[item]
        if isinstance(item, Rows):
            return rows if item.multiple == 1 else Dyn(e.op("Mul", rows, e.constant([item.multiple])))
        if isinstance(item, list | tuple):
            return [given(part) for part in item]
        return item

    results = [value for value in operation.outputs if value is not None]
    where = f"{cell}: {operation.target}" + (f" ({operation.source})" if operation.source else "")
    options = {key: given(item) for key, item in operation.kwargs.items()}
    made = write(e, operation.target, given(operation.args), options, results[0].dtype, where)
    names = made if isinstance(made, list) else [made]
    pairs = zip(operation.outputs, names, strict=False)
    return {value: Val(name, value.dtype, value.shape) for value, name in pairs if value is not None}


def write(
    e: Emitter, target: Any, args: Sequence[Any], kwargs: dict[str, Any], dtype: torch.dtype, where: str
) -> Any:
    """Write an operator by its rule.

    Raises:
        ExportError: there is none, or it does not serve these arguments.
    """
    rule = RULES.get(target)
    if rule is None:
        raise ExportError(f"{where} has no form in ONNX here; format=torch takes any operator")
    try:
        return rule(e, tuple(args), kwargs, dtype)
    except (NotImplementedError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{where} has no form in ONNX here: {error}") from error


def _has_rows(operation: Operation) -> bool:
    """Whether an operator makes something as large as the batch, which is known in the loop."""
    return any(value is not None and value.varies for value in operation.outputs)


def _held(cell: nn.Module, path: str) -> Tensor:
    holder: Any = cell
    for name in path.split("."):
        holder = getattr(holder, name)
    assert isinstance(holder, Tensor)
    return holder
