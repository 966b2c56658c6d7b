"""A task as an ONNX model, from the graph that PyTorch captures around its recurrences.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from rnnlab.export.onnx_emit import OPSET, Dyn, Emitter, Val, helper, value_info
from rnnlab.export.onnx_recurrence import write, write_recurrence
from rnnlab.export.opaque import Calls, ExportError, torchs_own_warnings_aside
from rnnlab.export.signature import Signature
from rnnlab.export.torch_program import capture

# A protobuf holds 2 GiB.
LARGEST_BYTES = 2**31 - 2**20
_SIZES = {operator.add: "Add", operator.sub: "Sub", operator.mul: "Mul", operator.floordiv: "Div"}


def onnx_model(signature: Signature, facts: Mapping[str, str]) -> Any:
    """The model, with the names and free dimensions of a signature.

    Args:
        signature: what goes in and comes out.
        facts: texts that are kept in it (`metadata_props`).

    Raises:
        ExportError: an operator has no form in ONNX, or the weights are too large for one file.
    """
    calls = Calls()
    program = capture(signature, calls)
    with torchs_own_warnings_aside():
        program = program.run_decompositions()
    e = Emitter()
    outputs = _Walk(e, program, calls, signature).outputs()
    infos = []
    for name, example in signature.inputs.items():
        shape = [signature.free[name].get(dim, size) for dim, size in enumerate(example.shape)]
        infos.append(value_info(name, example.dtype, shape))
    results = []
    for name, value in zip(signature.outputs, outputs, strict=True):
        e.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        results.append(value_info(name, value.dtype, [_free_name(size) for size in value.shape]))
    weights = list(e.shared.weights.values())
    if sum(len(weight.raw_data) for weight in weights) > LARGEST_BYTES:
        raise ExportError("the weights are larger than the 2 GiB that an ONNX file holds; use format=torch")
    graph = helper.make_graph(e.nodes, "rnnlab", infos, results, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="rnnlab")
    model.ir_version = 9
    helper.set_model_props(model, dict(facts))
    from onnx import checker

    checker.check_model(model)
    return model


class _Walk:
    """Writes the nodes of a captured graph that its outputs need."""

    def __init__(self, e: Emitter, program: ExportedProgram, calls: Calls, signature: Signature) -> None:
        self.e, self.calls, self.program = e, calls, program
        self.values: dict[fx.Node, Any] = {}
        placed = program.graph_signature
        stored = {
            **placed.inputs_to_parameters,
            **placed.inputs_to_buffers,
            **placed.inputs_to_lifted_tensor_constants,
        }
        given = iter(signature.inputs.items())
        needed = _needed(program.graph)
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node.name in stored:
                    if node in needed:
                        self.values[node] = self._stored(stored[node.name])
                else:
                    name, example = next(given)
                    self.values[node] = Val(name, example.dtype, _shape(node))
            elif node.op == "call_function" and node in needed:
                self.values[node] = self._call(node)

    def outputs(self) -> list[Val]:
        """What the graph returns."""
        last = next(node for node in self.program.graph.nodes if node.op == "output")
        return [self.values[node] for node in last.args[0]]

    def _stored(self, name: str) -> Val:
        found = self.program.state_dict.get(name, self.program.constants.get(name))
        if not isinstance(found, torch.Tensor):
            raise ExportError(f"{name} is no tensor, and has no place in ONNX")
        return Val(self.e.weight(found.detach(), name), found.dtype, tuple(found.shape))

    def _given(self, item: Any) -> Any:
        if isinstance(item, fx.Node):
            return self.values[item]
        if isinstance(item, list | tuple):
            return [self._given(part) for part in item]
        return item

    def _call(self, node: fx.Node) -> Any:
        args = [self._given(item) for item in node.args]
        kwargs = {key: self._given(item) for key, item in node.kwargs.items()}
        target: Any = node.target
        if target is operator.getitem:
            return args[0][args[1]]
        if target in _SIZES:
            left, right = (item if isinstance(item, Dyn) else self.e.constant([item]) for item in args)
            return Dyn(self.e.op(_SIZES[target], left, right))
        if target is torch.ops.rnnlab_export.recurrence.default:
            x, states, lengths, number, _ = args
            cell, spec, reverse = self.calls.cells[number]
            names = write_recurrence(self.e, cell, spec, x, states, lengths, reverse)
        else:
            made = node.meta["val"]
            dtype = getattr(made[0] if isinstance(made, list | tuple) else made, "dtype", torch.int64)
            names = write(self.e, target, args, kwargs, dtype, str(target))
        if isinstance(names, Dyn):
            return names
        made = node.meta["val"]
        if isinstance(made, torch.Tensor):
            return Val(names if isinstance(names, str) else names[0], made.dtype, tuple(made.shape))
        return [Val(name, part.dtype, tuple(part.shape)) for name, part in zip(names, made, strict=False)]


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes on which the graph's outputs depend."""
    found: set[fx.Node] = set()
    open_ = [node for node in graph.nodes if node.op == "output"]
    while open_:
        node = open_.pop()
        if node not in found:
            found.add(node)
            open_ += node.all_input_nodes
    return found


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _free_name(size: Any) -> Any:
    return size if isinstance(size, int) else None
