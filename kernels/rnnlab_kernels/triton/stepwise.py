"""Runs the stepwise strategy: chunks of steps on buffers that stay where they are, replayed as a CUDA graph.

A chunk's launches are the same whatever T is, since its sequences are copied in and out of static
buffers: what is captured once serves every call of the same Program, batch, dtype and direction. Steps
that stand beyond T are marked as not valid, and change nothing.

Without a GPU the same launches run one by one (in Triton's interpreter). The capture itself has not been
run for want of a GPU, and no time of it has been measured.

Legend: T time, B batch, C steps of a chunk.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rnnlab_kernels.program import Program
from rnnlab_kernels.triton.codegen import Kernel
from rnnlab_kernels.triton.launch import launch
from rnnlab_kernels.triton.phases import Group, Stepwise, generate_stepwise

CHUNK = 32
MAX_GRAPHS = 8
"""Captured chunks that are kept; the one used longest ago gives way."""


@dataclass
class Chunk:
    """The static buffers of a chunk and the work on them."""

    sequences: dict[int, Tensor]
    others: dict[int, Tensor]
    valid: Tensor
    restart: Tensor | None
    states: tuple[list[Tensor], list[Tensor]]
    totals: tuple[list[Tensor], list[Tensor]] | None
    initial: list[Tensor]
    outputs: list[Tensor]
    weights: dict[int, Tensor]
    lefts: dict[int, Tensor]
    products: dict[int, Tensor]
    kept: dict[int, Tensor]
    work: list[Callable[[], Any]] = field(default_factory=list)
    graph: Any = None

    def replay(self) -> None:
        if self.graph is not None and not _capturing(self.valid.device):
            self.graph.replay()
            return
        for piece_of_work in self.work:
            piece_of_work()


def _capturing(device: torch.device) -> bool:
    """Whether the caller records a CUDA graph of its own; ours cannot be replayed into it."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_chunks: OrderedDict[tuple, Chunk] = OrderedDict()


def clear() -> None:
    """Forget all captured chunks and free their memory."""
    _chunks.clear()


# Buffers outlive the call: made in inference mode, they could not be written outside of it.
@torch.inference_mode(False)
@torch.no_grad()
def run_stepwise(
    loop: Program,
    inputs: list[Tensor],
    states: list[Tensor],
    like: Tensor,
    size: tuple[int, int],
    *,
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    block_b: int,
    warps: int,
    interpret: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a loop Program by phases, a chunk of steps at a time.

    Args:
        inputs: one contiguous tensor for each input of `loop`, all of one dtype.
        states: initial states [B, width], contiguous, in float32.
        like: a tensor of the dtype and on the device of the inputs, of which there may be none.
        size: T and B.
    """
    length, batch = size
    dtype, device = like.dtype, like.device
    backwards = reverse != loop.adjoint
    steps = min(CHUNK, length + length % 2)  # even, so that the states end where they began
    key: tuple = (
        loop.key,
        dtype,
        device,
        batch,
        steps,
        backwards,
        resets is not None,
        block_b,
        warps,
        interpret,
    )
    if device.type == "cuda":
        key = (*key, torch.cuda.current_stream(device).cuda_stream)
    chunk = _chunks.pop(key, None)
    if chunk is None:
        chunk = _allocate(loop, inputs, like, batch, steps, resets is not None)
        _list_work(loop, chunk, dtype, batch, steps, backwards, block_b, warps, interpret)
    # Taken out while in use and put back after: a chunk that failed half-way is not found again.
    _fill(loop, chunk, dtype, inputs, states)
    valid, restart = _marks(size, lengths, resets, backwards, loop.adjoint, device)
    if chunk.graph is None and device.type == "cuda" and not _capturing(device):
        _capture(chunk)
        _fill(loop, chunk, dtype, inputs, states)
    outputs = [like.new_empty(length, batch, output.width) for output in loop.outputs]
    for first in range(0, length, steps):
        count = min(steps, length - first)
        low = length - first - count if backwards else first
        there = slice(low, low + count)
        here = slice(steps - count, steps) if backwards else slice(0, count)
        for value, buffer in chunk.sequences.items():
            source = inputs[next(i for i, item in enumerate(loop.inputs) if item.value == value)]
            buffer[here].copy_(source[there])
        if count < steps:
            chunk.valid.zero_()
        chunk.valid[here].copy_(valid[there])
        if chunk.restart is not None and restart is not None:
            chunk.restart.zero_()
            chunk.restart[here].copy_(restart[there])
        chunk.replay()
        for buffer, output in zip(chunk.outputs, outputs, strict=True):
            output[there].copy_(buffer[here])
    finals = [state.clone() for state in chunk.states[0]]
    if chunk.totals is not None:
        finals = [final + total for final, total in zip(finals, chunk.totals[0], strict=True)]
    _chunks[key] = chunk
    while len(_chunks) > MAX_GRAPHS:
        _chunks.popitem(last=False)
    return outputs, finals


def _marks(
    size: tuple[int, int],
    lengths: Tensor | None,
    resets: Tensor | None,
    backwards: bool,
    adjoint: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Which steps count, and after which ones the states restart, [T, B] bytes each.

    A forward step that begins with a reset is, for the kernel, the end of the step before it.
    """
    valid = torch.ones(size, dtype=torch.bool, device=device)
    if lengths is not None:
        valid = torch.arange(size[0], device=device)[:, None] < lengths
    restart = None
    if resets is not None:
        restart = resets & valid
        if not adjoint:
            restart = restart.roll(1 if backwards else -1, 0)
            restart[0 if backwards else -1] = False
    return valid.view(torch.uint8), None if restart is None else restart.contiguous().view(torch.uint8)


def _allocate(
    loop: Program, inputs: list[Tensor], like: Tensor, batch: int, steps: int, resets: bool
) -> Chunk:
    plan = generate_stepwise(loop, like.dtype)
    groups = [group for phase in plan.phases for group in phase.groups]
    widths = loop.widths

    def rows(dtype: torch.dtype, value_widths: list[int]) -> list[Tensor]:
        return [torch.zeros(batch, width, dtype=dtype, device=like.device) for width in value_widths]

    state_widths = [state.width for state in loop.states]
    pair = (rows(torch.float32, state_widths), rows(torch.float32, state_widths))
    totals = (rows(torch.float32, state_widths), rows(torch.float32, state_widths))
    return Chunk(
        sequences={
            item.value: like.new_zeros(steps, batch, item.width) for item in loop.inputs if item.per == "step"
        },
        others={
            item.value: torch.empty_like(tensor)
            for item, tensor in zip(loop.inputs, inputs, strict=True)
            if item.per != "step" and not item.is_matrix
        },
        valid=torch.ones(steps, batch, dtype=torch.uint8, device=like.device),
        restart=torch.zeros(steps, batch, dtype=torch.uint8, device=like.device) if resets else None,
        states=pair,
        totals=totals if loop.adjoint and resets else None,
        initial=rows(torch.float32, state_widths),
        outputs=[like.new_zeros(steps, batch, output.width) for output in loop.outputs],
        weights={g.left: like.new_zeros(widths[g.left], g.width) for g in groups},
        lefts={g.left: like.new_zeros(batch, widths[g.left]) for g in groups},
        products={g.left: rows(torch.float32, [g.width])[0] for g in groups},
        kept={value: rows(torch.float32, [widths[value]])[0] for value in plan.kept},
    )


def _list_work(
    loop: Program,
    chunk: Chunk,
    dtype: torch.dtype,
    batch: int,
    steps: int,
    backwards: bool,
    block_b: int,
    warps: int,
    interpret: bool,
) -> None:
    """The launches of a chunk, in order: for each step and phase the matmuls and the kernel."""
    plan = generate_stepwise(loop, dtype)
    grid = -(-batch // block_b)
    constants: dict[str, Any] = {"BLOCK_B": block_b}
    if not interpret:
        constants |= {"num_warps": warps, "enable_fp_fusion": True}
    for step in range(steps):
        row = steps - 1 - step if backwards else step
        for phase in plan.phases:
            for group in phase.groups:
                left, weight = chunk.lefts[group.left], chunk.weights[group.left]
                chunk.work.append(_matmul(left, weight, chunk.products[group.left]))
            if phase.kernel is not None:
                arguments = [
                    _argument(chunk, loop, p.role, p.index, row, batch, step % 2)
                    for p in phase.kernel.parameters
                ]
                chunk.work.append(_kernel(plan, phase.kernel, arguments, grid, constants, interpret))


def _matmul(left: Tensor, weight: Tensor, product: Tensor) -> Callable[[], Any]:
    """left @ weight in float32, from operands of any dtype."""
    if left.dtype == torch.float32:
        return lambda: torch.mm(left, weight, out=product)
    if left.is_cuda:
        return lambda: torch.mm(left, weight, out_dtype=torch.float32, out=product)
    return lambda: torch.mm(left.float(), weight.float(), out=product)


def _kernel(
    plan: Stepwise,
    kernel: Kernel,
    arguments: list[Any],
    grid: int,
    constants: dict[str, Any],
    interpret: bool,
) -> Callable[[], Any]:
    return lambda: launch(plan.source, kernel, arguments, grid, constants, interpret)


def _argument(chunk: Chunk, loop: Program, role: str, index: int, row: int, batch: int, parity: int) -> Any:
    """What a kernel's parameter is bound to; states go back and forth between two buffers."""
    match role:
        case "row":
            return row
        case "B":
            return batch
        case "input":
            value = loop.inputs[index].value
            return chunk.sequences[value] if value in chunk.sequences else chunk.others[value]
        case "state_in":
            return chunk.states[parity][index]
        case "state_out":
            return chunk.states[1 - parity][index]
        case "total_in":
            return None if chunk.totals is None else chunk.totals[parity][index]
        case "total_out":
            return None if chunk.totals is None else chunk.totals[1 - parity][index]
        case "initial":
            return chunk.initial[index]
        case "valid":
            return chunk.valid
        case "restart":
            return chunk.restart
        case "output":
            return chunk.outputs[index]
        case "left":
            return chunk.lefts[index]
        case "product":
            return chunk.products[index]
        case "kept":
            return chunk.kept[index]
    raise AssertionError(f"a kernel's parameter has the unknown role {role!r}")


def _fill(
    loop: Program, chunk: Chunk, dtype: torch.dtype, inputs: list[Tensor], states: list[Tensor]
) -> None:
    """Copy in what holds for the whole call: weights, masks and the initial states."""
    plan = generate_stepwise(loop, dtype)
    by_value = {item.value: tensor for item, tensor in zip(loop.inputs, inputs, strict=True)}
    for value, buffer in chunk.others.items():
        buffer.copy_(by_value[value])
    for group in [group for phase in plan.phases for group in phase.groups]:
        _fill_weight(group, by_value, chunk.weights[group.left])
    for index, state in enumerate(states):
        chunk.states[0][index].copy_(state)
        chunk.initial[index].copy_(state)
    if chunk.totals is not None:
        for total in chunk.totals[0]:
            total.zero_()
    current = {state.value: tensor for state, tensor in zip(loop.states, states, strict=True)}
    for left in plan.carried_lefts:
        chunk.lefts[left].copy_(_assemble(loop, left, current))


def _fill_weight(group: Group, by_value: dict[int, Tensor], buffer: Tensor) -> None:
    start = 0
    for node in group.nodes:
        weight = by_value[node.inputs[1]]
        buffer[:, start : start + node.width].copy_(weight.T if node.transposed else weight)
        start += node.width


def _assemble(loop: Program, value: int, states: dict[int, Tensor]) -> Tensor:
    """A left operand made of slices and concatenations of the states."""
    if value in states:
        return states[value]
    node = next(node for node in loop.nodes if node.value == value)
    parts = [_assemble(loop, operand, states) for operand in node.inputs]
    return torch.cat(parts, 1) if node.kind == "cat" else parts[0][:, node.start : node.stop]


def _capture(chunk: Chunk) -> None:
    """Capture a chunk in a CUDA graph. Its buffers hold real values, and are filled again afterwards."""
    device = chunk.valid.device
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(
        stream
    ):  # compiles the kernels and sets up the library before anything is recorded
        for piece_of_work in chunk.work[: max(1, 2 * len(chunk.work) // max(1, chunk.valid.shape[0]))]:
            piece_of_work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for piece_of_work in chunk.work:
            piece_of_work()
    chunk.graph = graph
