"""`rnnlab kernels compile` and `rnnlab kernels floors`: what can be known of the GPU kernels without a GPU.

Legend: H hidden size (and input size).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from rnnlab_kernels.program import Program
    from rnnlab_kernels.triton.aot import Resources
    from rnnlab_kernels.triton.backend import Config

DTYPES = ("float32", "float16", "bfloat16")
STRATEGIES = ("auto", "resident", "streamed", "stepwise")


@dataclass(frozen=True)
class Job:
    """Kernels to compile: of one cell and size, forward and backward, for several targets."""

    cell: str
    size: int
    dtype: str
    targets: tuple[str, ...]
    strategies: tuple[str, ...]
    precision: str
    again: bool = False


@dataclass(frozen=True)
class Row:
    """One compiled kernel; sizes in bytes.

    `fault` says why it will not do, or why it does not compile; `rejected`, why others were not chosen.
    """

    cell: str
    size: int
    dtype: str
    target: str
    strategy: str
    kernel: str = ""
    warps: int = 0
    block_b: int = 0
    block_k: int = 0
    stages: int = 0
    registers: int = 0
    spills: int = 0
    stack: int = 0
    shared: int = 0
    shared_limit: int = 0
    seconds: float = 0.0
    fault: str = ""
    rejected: tuple[str, ...] = ()


def main(words: Sequence[str]) -> int:
    """`rnnlab kernels compile|floors`.

    Returns:
        The exit status: 0 done, 1 a kernel that `auto` would choose does not fit, 2 refused.
    """
    words = list(words)
    if not words or words[0] in ("-h", "--help"):
        print("usage: rnnlab kernels compile [settings]   compile ahead of time, and show the needs")
        print("       rnnlab kernels floors [settings]    the least time of a step on known GPUs, computed")
        return 0 if words else 2
    if words[0] == "compile":
        return compile_command(words[1:])
    if words[0] == "floors":
        from rnnlab_benchmarks.floors import main as floors

        return floors(words[1:])
    print(f"rnnlab kernels: there is no {words[0]!r}; there are compile and floors", file=sys.stderr)
    return 2


def compile_command(words: Sequence[str]) -> int:
    """Compile each cell, size and dtype for each target, and print what the kernels need."""
    parser = argparse.ArgumentParser(prog="rnnlab kernels compile", description=compile_command.__doc__)
    parser.add_argument("--targets", default="sm_80,sm_90,sm_100,gfx942", help="GPUs (default %(default)s)")
    parser.add_argument("--cells", default="all", help="names of cells, or all (default)")
    parser.add_argument("--sizes", default="32,128,512", help="hidden sizes (default %(default)s)")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="(default %(default)s)")
    parser.add_argument("--strategies", default="auto", help=f"of {', '.join(STRATEGIES)} (default auto)")
    parser.add_argument("--precision", default="ieee", choices=("ieee", "tf32", "tf32x3"), help="of float32")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--again", action="store_true", help="compile what an earlier run on this machine has compiled too"
    )
    given = parser.parse_args(list(words))
    jobs = _jobs(given)
    rows: list[Row] = []
    print(
        _line("cell", "H", "dtype", "target", "kernel", "warps", "registers", "spills", "stack", "shared KB")
    )
    for row in _run(jobs, given.jobs):
        rows.append(row)
        print(_row(row), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    faults = [row for row in rows if row.fault]
    seconds = sum(row.seconds for row in rows)
    print(f"{len(rows)} kernels, {len(faults)} with a fault, {seconds:.0f} s of compiling")
    return 1 if any(row.strategy == "auto" or given.strategies == "auto" for row in faults) else 0


def _jobs(given: argparse.Namespace) -> list[Job]:
    """The jobs that the settings ask for. Raises ValueError for a name that there is not."""
    from rnnlab_kernels.triton.aot import TARGETS

    from rnnlab.cells import CELLS

    cells = _names(given.cells if given.cells != "all" else ",".join(CELLS), tuple(CELLS), "cell")
    targets = _names(given.targets, tuple(TARGETS), "target")
    dtypes = _names(given.dtypes, DTYPES, "dtype")
    strategies = _names(given.strategies, STRATEGIES, "strategy")
    sizes = [int(size) for size in given.sizes.split(",")]
    return [
        Job(cell, size, dtype, targets, strategies, given.precision, given.again)
        for cell in cells
        for size in sizes
        for dtype in dtypes
    ]


def _names(text: str, known: tuple[str, ...], kind: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            print(f"rnnlab kernels: unknown {kind} {name!r}: there are {', '.join(known)}", file=sys.stderr)
            raise SystemExit(2)
    return names


def _run(jobs: list[Job], processes: int) -> Iterator[Row]:
    """The rows of all jobs, in order. Workers are new processes, in which Triton does not interpret."""
    os.environ.pop("TRITON_INTERPRET", None)
    if processes == 1 or len(jobs) == 1:
        for job in jobs:
            yield from compile_job(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for rows in pool.map(compile_job, jobs):
            yield from rows


def compile_job(job: Job) -> list[Row]:
    """Compile one cell and size in one dtype: for each target, pass and strategy."""
    import torch
    from rnnlab_kernels.triton import refusal

    torch.set_num_threads(1)
    dtype = getattr(torch, job.dtype)
    rows: list[Row] = []
    for program in programs(job.cell, job.size):
        reason = refusal(program, dtype)
        for target in job.targets:
            for strategy in job.strategies:
                if reason is not None:
                    rows.append(Row(job.cell, job.size, job.dtype, target, strategy, fault=reason))
                else:
                    rows += _compile(job, program, dtype, target, strategy)
    return rows


def programs(cell: str, size: int) -> list[Program]:
    """The forward and the adjoint Program of a cell, as training runs them."""
    import torch

    from rnnlab.cells import find
    from rnnlab.recurrence.compiler import compile_cell

    more = {"proj_size": max(1, size // 2)} if cell == "projected_lstm" else {}
    derivative = compile_cell(find(cell)(size, size, **more), torch.zeros(2, 2, size)).derivative()
    return [derivative.forward, derivative.adjoint]


def _compile(job: Job, program: Program, dtype: torch.dtype, target: str, strategy: str) -> list[Row]:
    """The kernels of one strategy: for "auto" that which `choice.choose` comes to."""
    from rnnlab_kernels.triton.aot import TARGETS, CannotCompile, compile_config
    from rnnlab_kernels.triton.choice import Device, candidates, choose, unfit

    _, _, warp, limit = TARGETS[target]
    device = Device(target, target, warp, limit)
    made: dict[Config, list[Resources]] = {}
    rejected: list[str] = []

    def compiled(config: Config) -> list[Resources]:
        precision: Any = job.precision
        made[config] = compile_config(
            program, dtype, config, target, precision=precision, cached=not job.again
        )
        return made[config]

    def reject(config: Config) -> str | None:
        try:
            reason = unfit([(r.spills, r.shared) for r in compiled(config)], limit)
        except CannotCompile as error:
            reason = f"does not compile: {error}"
        if reason is not None:
            rejected.append(f"{config}: {reason}")
        return reason

    head = (job.cell, job.size, job.dtype, target)
    if strategy == "auto":
        config = choose(program, dtype, device, batch=16, reject=reject).config
        assert config is not None
    else:
        able = [
            c.config
            for c in candidates(program, dtype, device)
            if c.config.strategy == strategy and not c.reason
        ]
        if not able:
            return []
        config = next((c for c in able if reject(c) is None), able[0])
    try:
        resources = made.get(config) or compiled(config)
    except CannotCompile as error:
        return [Row(*head, strategy=config.strategy, fault=str(error), rejected=tuple(rejected))]
    return [
        Row(
            *head,
            config.strategy,
            r.kernel,
            config.warps,
            config.block_b,
            config.block_k,
            config.stages,
            r.registers,
            r.spills,
            r.stack,
            r.shared,
            limit,
            round(r.seconds, 2),
            unfit([(r.spills, r.shared)], limit) or "",
            tuple(rejected),
        )
        for r in resources
    ]


def _row(row: Row) -> str:
    shared = f"{row.shared / 1024:.0f} of {row.shared_limit // 1024}"
    line = _line(
        row.cell,
        row.size,
        row.dtype,
        row.target,
        row.kernel,
        row.warps,
        row.registers,
        row.spills,
        row.stack,
        shared,
    )
    return f"{line}  {row.fault}" if row.fault else line


def _line(*cells: object) -> str:
    widths = (24, 5, 9, 7, 18, 6, 10, 7, 6, 10)
    return " ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
