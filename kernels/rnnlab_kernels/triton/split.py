"""What of a Program runs before, in and after the time loop.

Inside the loop every operation is serial in time; outside it, one library call covers all steps. So a
matmul or a row reduction that reads no state runs before the loop, and a matmul that no state depends on
runs after it: the projection of the input, and in an adjoint the gradient of the input. Cheap pointwise
work stays in the loop, where its operands are in registers already.

Legend: T time, B batch.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from rnnlab_kernels.program import Input, Node, Output, Program, evaluate


@dataclass(frozen=True)
class Split:
    """A Program in three parts; the middle one is a Program again.

    before: nodes over whole sequences that the loop, or `after`, reads.
    loop: the time loop. Its inputs are `loop_inputs`, numbered as in `program`.
    after: nodes over whole sequences that read what the loop stored.
    """

    program: Program
    before: tuple[Node, ...]
    loop: Program
    after: tuple[Node, ...]

    @cached_property
    def loop_inputs(self) -> tuple[int, ...]:
        """The values that the loop reads, in the order of `loop.inputs`."""
        return tuple(item.value for item in self.loop.inputs)

    def prepare(self, inputs: list[Tensor]) -> dict[int, Tensor]:
        """The inputs and the results of `before`, by value."""
        values = {item.value: tensor for item, tensor in zip(self.program.inputs, inputs, strict=True)}
        return _run(self.before, values, inputs)

    def finish(
        self, values: dict[int, Tensor], stored: list[Tensor], size: tuple[int, int], lengths: Tensor | None
    ) -> list[Tensor]:
        """The Program's outputs [T, B, width], from what `prepare` made and what the loop stored."""
        by_value = {output.value: tensor for output, tensor in zip(self.loop.outputs, stored, strict=True)}
        values = _run(self.after, {**values, **by_value}, list(values.values()))
        valid = None
        results: list[Tensor] = []
        for output in self.program.outputs:
            if output.value in by_value:
                first = by_value[output.value]
                shared = any(result is first for result in results)
                results.append(first.clone() if shared else first)
                continue
            result = values[output.value].expand(*size, output.width)
            if lengths is not None:
                if valid is None:
                    steps = torch.arange(size[0], device=lengths.device)
                    valid = (steps[:, None] < lengths)[..., None]
                result = torch.where(valid, result, 0)
            results.append(result.clone(memory_format=torch.contiguous_format))
        return results


def _run(nodes: tuple[Node, ...], values: dict[int, Tensor], like: list[Tensor]) -> dict[int, Tensor]:
    values = dict(values)
    for node in nodes:
        values[node.value] = evaluate(node, [values[v] for v in node.inputs], like[0])
    return values


@lru_cache(maxsize=256)
def split(program: Program) -> Split:
    """Divide a Program into what runs before, in and after the time loop."""
    nodes = {node.value: node for node in program.nodes}
    inputs = {item.value: item for item in program.inputs}
    states = {state.value for state in program.states}

    late: set[int] = set()
    for node in program.nodes:
        deferred = node.kind == "matmul" or not late.isdisjoint(node.inputs)
        if deferred and node.value in program.stateful and node.value not in program.carried:
            late.add(node.value)

    def in_loop(value: int) -> bool:
        return value in states or (value in program.stateful and value not in late)

    before: set[int] = set()
    after: set[int] = set()
    read: set[int] = set()
    held: set[int] = set()
    stored: list[int] = []

    def need_before(value: int) -> None:
        if value in nodes and value not in before:
            before.add(value)
            for operand in nodes[value].inputs:
                need_before(operand)

    def need_in_loop(value: int) -> None:
        if value in inputs:
            read.add(value)
        elif value in nodes and value not in held:
            node = nodes[value]
            if value not in program.stateful and node.kind in ("matmul", "sum", "amax"):
                need_before(value)
                read.add(value)
                return
            held.add(value)
            for operand in node.inputs:
                need_in_loop(operand)

    def need_after(value: int) -> None:
        # A mask cannot be stored, so that a comparison is made again from its operands.
        if in_loop(value) and (value not in nodes or nodes[value].kind != "compare"):
            if value not in stored:
                stored.append(value)
                need_in_loop(value)
        elif value in nodes and value not in after:
            after.add(value)
            for operand in nodes[value].inputs:
                need_after(operand)

    for state in program.states:
        need_in_loop(state.next)
    for output in program.outputs:
        need_after(output.value)
    after -= before  # computed once, before the loop, and kept

    items = [inputs[v] for v in inputs if v in read]
    for value in sorted(read - set(inputs)):
        items.append(
            Input(value, f"{nodes[value].op}_{value}", _per(value, nodes, inputs), nodes[value].width)
        )
    names = {output.value: output.name for output in program.outputs}
    loop = Program(
        inputs=tuple(items),
        states=program.states,
        nodes=tuple(node for node in program.nodes if node.value in held),
        outputs=tuple(Output(v, names.get(v, f"kept_{v}"), program.widths[v]) for v in stored),
        adjoint=program.adjoint,
    )
    return Split(
        program=program,
        before=tuple(node for node in program.nodes if node.value in before),
        loop=loop,
        after=tuple(node for node in program.nodes if node.value in after),
    )


def _per(value: int, nodes: dict[int, Node], inputs: dict[int, Input]) -> Literal["step", "sequence", "call"]:
    """How often a value changes that no state reaches: the most often that anything it reads does."""
    if value in inputs:
        return inputs[value].per
    found = {_per(operand, nodes, inputs) for operand in nodes[value].inputs}
    return "step" if "step" in found else "sequence" if "sequence" in found else "call"
