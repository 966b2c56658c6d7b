"""`rnnlab tune`: measure every configuration that can run on this GPU, and keep the fastest for `auto`.

Nothing here has been run on a GPU yet.

Legend: `T` time, `B` batch, `H` hidden size (and input size).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from rnnlab_kernels.program import Contraction, Operand, Program
from rnnlab_kernels.triton import Config, contract, refusal, run
from rnnlab_kernels.triton.choice import Device, candidates, describe
from rnnlab_kernels.triton.table import Table, Winner
from torch import Tensor, nn

from rnnlab import cells
from rnnlab.recurrence.compiler import compile_cell
from rnnlab.recurrence.derivative import Derivative
from rnnlab_benchmarks.gpu import interleaved, no_gpu

STANDARD: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def main(words: Sequence[str]) -> int:
    """Measure, store and print. Returns the exit status: 0 done, 2 there is no GPU or no such cell."""
    parser = argparse.ArgumentParser(prog="rnnlab tune", description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default="lstm,gru", help="names of cells (default %(default)s)")
    parser.add_argument("--sizes", default="64,128,256,512", help="hidden sizes (default %(default)s)")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="(default %(default)s)")
    parser.add_argument("--batches", default="1,16,64,256", help="(default %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="steps of a sequence (default %(default)s)")
    given = parser.parse_args(list(words))
    unknown = [name for name in given.cells.split(",") if name not in cells.CELLS]
    if unknown:
        print(
            f"rnnlab tune: unknown cell {unknown[0]!r}: there are {', '.join(cells.CELLS)}", file=sys.stderr
        )
        return 2
    if (reason := no_gpu()) is not None:
        print(f"rnnlab tune: {reason}", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    table = Table.load()
    for cell in given.cells.split(","):
        for size in map(int, given.sizes.split(",")):
            for dtype in given.dtypes.split(","):
                for batch in map(int, given.batches.split(",")):
                    tune(
                        table,
                        cell,
                        size,
                        getattr(torch, dtype),
                        batch,
                        given.length,
                        device,
                        describe(device),
                    )
    print(f"stored in {table.store()}")
    return 0


def tune(
    table: Table,
    cell: str,
    size: int,
    dtype: torch.dtype,
    batch: int,
    length: int,
    device: torch.device,
    gpu: Device,
    *,
    rounds: int = 20,
) -> None:
    """Find the winners for a cell's Programs, add them to the table and print them.

    A standard cell's Programs win against PyTorch's own kernels or give way to them: the inference Program by
    itself, the two Programs of a training step together with the weight gradients that follow them.
    """
    compiled = compile_cell(cells.find(cell)(size, size), torch.zeros(2, 2, size))
    derivative = compiled.derivative()
    found: dict[str, Winner] = {}
    for name, program in (
        ("inference", compiled.program),
        ("forward", derivative.forward),
        ("adjoint", derivative.adjoint),
    ):
        reason = refusal(program, dtype)
        if reason is not None:
            print(f"{cell} H={size} {dtype}: not fused: {reason}")
            return
        times = measure(program, dtype, batch, length, device, gpu, rounds)
        if not times:
            print(f"{cell} H={size} B={batch} {dtype} {name}: nothing could be measured (out of memory?)")
            return
        best = min(times, key=lambda config: times[config])
        found[name] = Winner(best, 1e3 * times[best])
    if cell in STANDARD:
        own = _own(STANDARD[cell], size, dtype, batch, length, device, rounds)
        following = _contractions(derivative, dtype, batch, length, device, rounds)
        training = found["forward"].time_us + found["adjoint"].time_us + following
        if own["inference"] < found["inference"].time_us:
            found["inference"] = Winner(None, own["inference"])
        if own["training"] < training:
            found |= {name: Winner(None, own["training"]) for name in ("forward", "adjoint")}
    keys = {"inference": compiled.program, "forward": derivative.forward, "adjoint": derivative.adjoint}
    for name, winner in found.items():
        table.add(gpu.name, dtype, keys[name].key, batch, winner)
        what = "aten" if winner.config is None else str(winner.config)
        print(f"{cell} H={size} B={batch} {dtype} {name:<10} {winner.time_us:9.1f} us  {what}", flush=True)


def measure(
    program: Program,
    dtype: torch.dtype,
    batch: int,
    length: int,
    device: torch.device,
    gpu: Device,
    rounds: int,
) -> dict[Config, float]:
    """Milliseconds of each configuration that runs; one that does not fit in memory is left out."""
    inputs, states = tensors(program, dtype, batch, length, device)
    times: dict[Config, float] = {}
    for candidate in candidates(program, dtype, gpu):
        if candidate.reason is not None:
            continue
        config = candidate.config
        try:
            found = interleaved(
                {"": lambda config=config: run(program, inputs, states, config=config)},  # type: ignore[misc]
                device,
                rounds,
            )
            times[config] = found[""]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(f"  {config.strategy}: out of memory, left out")
        except Exception as error:  # a kernel too large for the device says so only when it is loaded
            print(f"  {config.strategy} with {config.warps} warps: {str(error).splitlines()[0][:120]}")
    return times


def tensors(
    program: Program, dtype: torch.dtype, batch: int, length: int, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Random inputs and states of the shapes that a Program asks for."""
    shapes = {"step": (length, batch), "sequence": (batch,), "call": ()}
    inputs = [
        torch.randn(i.rows, i.width, device=device, dtype=dtype) * i.width**-0.5
        if i.rows is not None
        else torch.randn(*shapes[i.per], i.width, device=device, dtype=dtype)
        for i in program.inputs
    ]
    return inputs, [torch.zeros(batch, s.width, device=device, dtype=dtype) for s in program.states]


def _own(
    kind: Callable[..., nn.RNNBase],
    size: int,
    dtype: torch.dtype,
    batch: int,
    length: int,
    device: torch.device,
    rounds: int,
) -> dict[str, float]:
    """Microseconds of PyTorch's own layer, for inference and for a training step."""
    layer = kind(size, size, device=device, dtype=dtype)
    x = torch.randn(length, batch, size, device=device, dtype=dtype, requires_grad=True)

    def infer() -> None:
        with torch.no_grad():
            layer(x)

    def train() -> None:
        layer(x)[0].sum().backward()

    found = interleaved({"inference": infer, "training": train}, device, rounds)
    return {name: 1e3 * time_ms for name, time_ms in found.items()}


def factors(
    derivative: Derivative, dtype: torch.dtype, batch: int, length: int, device: torch.device
) -> list[tuple[Contraction, Tensor | None, Tensor]]:
    """The contractions that follow an adjoint loop, with random sequences of the widths that they read."""

    def like(operand: Operand) -> Tensor:
        return torch.randn(length, batch, derivative.width(operand), device=device, dtype=dtype)

    return [(c, None if c.left is None else like(c.left), like(c.right)) for c in derivative.contractions]


def _contractions(
    derivative: Derivative, dtype: torch.dtype, batch: int, length: int, device: torch.device, rounds: int
) -> float:
    """Microseconds of the weight gradients that follow an adjoint loop."""
    work = factors(derivative, dtype, batch, length, device)

    def all_of_them() -> None:
        for contraction, left, right in work:
            contract(contraction, left, right)

    return 1e3 * interleaved({"": all_of_them}, device, rounds)[""]
