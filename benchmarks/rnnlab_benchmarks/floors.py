"""The least time of a step that a GPU's data sheet allows each strategy: computed, not measured.

A step cannot be quicker than the slowest of what it must do: read its weights (from shared memory in the
resident strategy, from L2 in the streamed one, from L2 or memory in the stepwise one), multiply, move its
sequences, and launch its kernels. All of it counted from the Program. Latencies come on top: a step also
waits for its own barriers and for the first byte, so that a small network does not reach its floor.

Legend: B batch, H hidden size (and input size).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rnnlab_kernels.program import Program
from rnnlab_kernels.triton.backend import Config
from rnnlab_kernels.triton.choice import ROWS, Device, count, dots
from rnnlab_kernels.triton.phases import generate_stepwise
from rnnlab_kernels.triton.split import split

LAUNCH_US = 1.5
"""Assumed time of one kernel that waits for the one before it in a CUDA graph."""


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says of a GPU. Bytes a clock are of one processor, but for `l2_bytes`, of all."""

    name: str
    processors: int
    clock_ghz: float
    half_tflops: float
    tf32_tflops: float
    memory_tb_s: float
    shared: int
    l2: int
    shared_bytes: int = 128
    l2_port_bytes: int = 64
    l2_bytes: int = 5120
    warp: int = 32


# NVIDIA's A100 and H100 whitepapers and AMD's MI300X data sheet; H100's L2 is taken to be as wide as A100's.
GPUS = (
    Gpu("A100 80GB", 108, 1.41, 312, 156, 2.04, 163 * 1024, 40 * 2**20),
    Gpu("H100 SXM", 132, 1.83, 989, 494, 3.35, 227 * 1024, 50 * 2**20),
    Gpu("MI300X", 304, 2.1, 1307, 654, 5.3, 64 * 1024, 32 * 2**20, l2_bytes=16384, warp=64),
)


@dataclass(frozen=True)
class Floor:
    """The least time of a step, in microseconds, and what it is bound by; None where it cannot run."""

    time_us: float | None
    bound: str


def floors(program: Program, dtype: torch.dtype, gpu: Gpu, batch: int) -> dict[str, Floor]:
    """The floor of each strategy for a Program's time loop."""
    loop = split(program).loop
    size = dtype.itemsize
    parts = dots(loop)
    weights = sum(left.padded * result.padded for left, result in parts) * size
    moved = (
        size
        * batch
        * (sum(item.width for item in loop.inputs if item.per == "step") + sum(o.width for o in loop.outputs))
    )
    tiles = -(-batch // ROWS)
    rounds = -(-tiles // gpu.processors)
    clock = gpu.clock_ghz * 1e3  # a microsecond
    peak = (gpu.tf32_tflops if dtype == torch.float32 else gpu.half_tflops) * 1e6
    flops = 2 * ROWS * tiles * weights / size
    busy = min(tiles, gpu.processors)
    memory = moved / (gpu.memory_tb_s * 1e6)
    multiply = {"matmuls": flops / (peak * busy / gpu.processors), "memory": memory}
    device = Device(gpu.name, gpu.name, gpu.warp, gpu.shared, processors=gpu.processors)
    needs = count(program, dtype, Config("resident", warps=8), device)
    fits = needs.shared <= gpu.shared
    resident = multiply | {"shared memory": rounds * weights / (gpu.shared_bytes * clock)}
    ports = min(busy * gpu.l2_port_bytes, gpu.l2_bytes)
    streamed = multiply | {"L2": tiles * weights / (ports * clock)}
    plan = generate_stepwise(loop, dtype)
    launches = sum(len(phase.groups) + (phase.kernel is not None) for phase in plan.phases)
    read = weights / (gpu.l2_bytes * clock) if weights <= gpu.l2 else weights / (gpu.memory_tb_s * 1e6)
    source = "L2" if weights <= gpu.l2 else "memory"
    stepwise = {"matmuls": flops / peak, source: max(read, memory), "launches": launches * LAUNCH_US}
    return {
        "resident": _slowest(resident) if fits else Floor(None, "the weights do not fit"),
        "streamed": _slowest(streamed),
        "stepwise": _slowest(stepwise),
    }


def _slowest(parts: dict[str, float]) -> Floor:
    bound = max(parts, key=lambda name: parts[name])
    return Floor(parts[bound], bound)


def main(words: Sequence[str]) -> int:
    """Print the floors of cells on known GPUs. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="rnnlab kernels floors", description=__doc__.split("\n")[0])
    parser.add_argument("--cells", default="lstm,gru", help="(default %(default)s)")
    parser.add_argument("--sizes", default="32,64,128,256,512,1024,2048", help="(default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    given = parser.parse_args(list(words))
    from rnnlab.cells import CELLS
    from rnnlab_benchmarks.kernels import programs

    unknown = [cell for cell in given.cells.split(",") if cell not in CELLS]
    if unknown:
        print(f"rnnlab kernels: unknown cell {unknown[0]!r}: there are {', '.join(CELLS)}", file=sys.stderr)
        return 2
    rows = []
    what = f"forward, {given.dtype}, B={given.batch}"
    print(f"Microseconds a step, {what}: computed from data sheets, not measured.\n")
    print("| GPU | cell | H | resident | streamed | stepwise |\n| --- | --- | --- | --- | --- | --- |")
    for gpu in GPUS:
        for cell in given.cells.split(","):
            for size in map(int, given.sizes.split(",")):
                found = floors(programs(cell, size)[0], getattr(torch, given.dtype), gpu, given.batch)
                rows.append(
                    {"gpu": gpu.name, "cell": cell, "H": size, **{k: asdict(f) for k, f in found.items()}}
                )
                print(
                    f"| {gpu.name} | {cell} | {size} | {' | '.join(map(_cell, found.values()))} |", flush=True
                )
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _cell(floor: Floor) -> str:
    return "-" if floor.time_us is None else f"{floor.time_us:.2f} ({floor.bound})"
