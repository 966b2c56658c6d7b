"""`rnnlab bench gpu`: the Triton kernels against cuDNN, torch.compile, the eager loop, FlashRNN and Haste.

Correctness first: a subject is timed where its results agree with the eager loop in float64. Times are
medians of CUDA events over interleaved rounds. Nothing here has been run on a GPU yet.

Legend: `T` time, `B` batch, `H` hidden size (and input size), `L` layers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rnnlab.recurrence.accuracy import compare
from rnnlab_benchmarks.gpu_subjects import SUBJECTS, Network, Refused


@dataclass(frozen=True)
class Case:
    """A network and a batch to measure."""

    cell: str = "lstm"
    H: int = 256
    B: int = 64
    T: int = 128
    dtype: str = "bfloat16"
    L: int = 1
    bidirectional: bool = False
    packed: bool = False


@dataclass
class Measured:
    """What came out of a case: microseconds a step, by subject, for both modes."""

    case: Case
    device: str
    inference_us: dict[str, float] = field(default_factory=dict)
    training_us: dict[str, float] = field(default_factory=dict)
    roofline_us: dict[str, float] = field(default_factory=dict)
    """The least time of a step for each mode, from the Programs' counts and the measured peaks."""
    memory_mb: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peaks:
    """What the device was measured to reach: multiply-adds as two operations, and a copy's bytes."""

    tflops: float
    bandwidth_tb_s: float


def cases(sizes: Sequence[int], cells: Sequence[str]) -> list[Case]:
    """One axis at a time around a middle case; the product of all would run for days."""
    found: dict[Case, None] = {}
    for cell in cells:
        middle = Case(cell)
        for size in sizes:
            found[replace(middle, H=size)] = None
        for batch in (1, 4, 16, 64, 256):
            found[replace(middle, B=batch)] = None
        for length in (16, 128, 512, 2048):
            found[replace(middle, T=length)] = None
        for dtype in ("float32", "float16", "bfloat16"):
            found[replace(middle, dtype=dtype)] = None
        for layers in (1, 2, 3):
            found[replace(middle, L=layers)] = None
        found[replace(middle, bidirectional=True)] = None
        found[replace(middle, packed=True)] = None
    return list(found)


def main(words: Sequence[str]) -> int:
    """Measure on the GPU that there is.

    Returns:
        The exit status: 0 done, 1 one of our kernels was wrong, 2 there is no GPU.
    """
    parser = argparse.ArgumentParser(
        prog="rnnlab bench gpu", description="Triton kernels against their peers."
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--png", type=Path, help="draw the time against the hidden size here")
    parser.add_argument(
        "--cells", default="lstm,gru,gru_reset_before,layer_norm_lstm", help="(default %(default)s)"
    )
    parser.add_argument("--sizes", default="32,64,128,256,512,1024,2048", help="(default %(default)s)")
    parser.add_argument("--subjects", default=",".join(SUBJECTS), help="(default %(default)s)")
    given = parser.parse_args(list(words))
    if (reason := no_gpu()) is not None:
        print(f"rnnlab bench gpu: {reason}", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    todo = cases([int(size) for size in given.sizes.split(",")], given.cells.split(","))
    peaks = {d: measure_peaks(device, getattr(torch, d)) for d in sorted({case.dtype for case in todo})}
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for dtype, peak in peaks.items():
        print(f"measured peak {dtype}: {peak.tflops:.0f} TFLOP/s, {peak.bandwidth_tb_s:.2f} TB/s")
    rows = []
    for case in todo:
        rows.append(measure(case, device, given.subjects.split(","), peaks[case.dtype]))
        print(table_row(rows[-1]), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if given.png is not None:
        draw(rows, given.png)
    wrong = [row for row in rows if any("wrong" in reason for reason in row.refused.values())]
    return 1 if wrong else 0


def no_gpu() -> str | None:
    """Why nothing can be measured here, in one line; None if it can."""
    from rnnlab_kernels.triton import available

    if not torch.cuda.is_available():
        build = "this PyTorch is built for CPUs" if torch.version.cuda is None else "PyTorch finds none"
        return f"needs a GPU, and {build}; `rnnlab kernels compile` shows what can be known without one"
    return available()


def measure(
    case: Case, device: torch.device, names: Sequence[str], peak: Peaks, *, rounds: int = 20
) -> Measured:
    """Check and time the subjects on a case."""
    result = Measured(case, torch.cuda.get_device_name(device) if device.type == "cuda" else str(device))
    ready: dict[str, Network] = {}
    for name in names:
        try:
            _check(name, case, device)
            ready[name] = SUBJECTS[name](case, device)
            ready[name].train()
            ready[name].infer()
        except Refused as error:
            result.refused[name] = str(error)
        except torch.OutOfMemoryError:
            result.refused[name] = "out of memory"
        except Exception as error:  # one subject that fails must not end the run; its reason is reported
            result.refused[name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            )
    for mode, times in (("infer", result.inference_us), ("train", result.training_us)):
        found = interleaved({name: getattr(net, mode) for name, net in ready.items()}, device, rounds)
        times.update({name: 1e3 * time_ms / case.T for name, time_ms in found.items()})
        result.roofline_us[mode] = roofline(case, mode, peak)
    for name, network in ready.items():
        result.memory_mb[name] = _memory(network, device)
    return result


def _check(name: str, case: Case, device: torch.device) -> None:
    """Hold a subject to the eager loop in float64, on a short and narrow part of the case."""
    short = replace(case, T=min(case.T, 12), B=min(case.B, 8))
    results = SUBJECTS[name](short, device).results()
    eager = SUBJECTS["eager"](short, device).results()
    exact = SUBJECTS["eager"](replace(short, dtype="float64"), device).results()
    shared = results.keys()
    verdict = compare(
        results,
        {key: eager[key] for key in shared},
        {key: exact[key] for key in shared},
        factor=2.0 if SUBJECTS[name].ours else 100.0,
    )
    if not verdict.ok:
        raise Refused(f"wrong: {verdict.worst}")


def interleaved(
    functions: dict[str, Callable[[], Any]], device: torch.device, rounds: int
) -> dict[str, float]:
    """The median time of each function in milliseconds, from rounds in which each runs once, in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(timed(function, device))
    return {name: statistics.median(taken) for name, taken in times.items()}


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """One call in milliseconds, by CUDA events where there are any."""
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    before.record()
    function()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after)


def measure_peaks(
    device: torch.device, dtype: torch.dtype, *, size: int = 8192, megabytes: int = 1024
) -> Peaks:
    """What a large matmul and a large copy reach."""
    left = torch.randn(size, size, device=device, dtype=dtype)
    block = torch.empty(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    found = interleaved({"mm": lambda: left @ left, "copy": lambda: target.copy_(block)}, device, 10)
    return Peaks(2 * size**3 / found["mm"] / 1e9, 2 * block.numel() / found["copy"] / 1e9)


def roofline(case: Case, mode: str, peak: Peaks) -> float:
    """The least microseconds a step, from what the Programs count: operations, or bytes moved.

    Every sequence is moved once and every weight once a step's whole call; a training step is the forward and
    the adjoint Program and one outer product for each weight.
    """
    from rnnlab_benchmarks.kernels import programs

    forward, adjoint = programs(case.cell, case.H)
    size = getattr(torch, case.dtype).itemsize
    rows = case.B * case.L * (2 if case.bidirectional else 1)
    weights = sum(2 * (i.rows or 0) * i.width for i in forward.inputs)
    used = [forward] if mode == "infer" else [forward, adjoint]
    flops = rows * (sum(p.flops() for p in used) + (weights if mode == "train" else 0))
    widths = sum(
        sum(i.width for i in p.inputs if i.per == "step") + sum(o.width for o in p.outputs) for p in used
    )
    moved = size * (rows * widths + weights / 2 / case.T)
    return max(flops / (peak.tflops * 1e6), moved / (peak.bandwidth_tb_s * 1e6))


def _memory(network: Network, device: torch.device) -> float:
    """Peak memory of a training step in MB, above what is held anyway; zero without a GPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    network.train()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def table_row(row: Measured) -> str:
    """A case in lines: each subject's microseconds a step, and its share of the roofline."""
    case = row.case
    name = f"{case.cell} H={case.H} B={case.B} T={case.T} {case.dtype} L={case.L}"
    name += " bidirectional" if case.bidirectional else ""
    name += " packed" if case.packed else ""
    lines = [name]
    for subject in sorted(row.training_us, key=lambda s: row.training_us[s]):
        infer, train = row.inference_us[subject], row.training_us[subject]
        shares = [
            f"{row.roofline_us[mode] / time_us:.0%}" for mode, time_us in (("infer", infer), ("train", train))
        ]
        lines.append(
            f"  {subject:<12} inference {infer:9.2f} us/step ({shares[0]} of roofline)   "
            f"training {train:9.2f} us/step ({shares[1]})   {row.memory_mb.get(subject, 0):.0f} MB"
        )
    lines += [f"  {subject:<12} not run: {reason}" for subject, reason in row.refused.items()]
    return "\n".join(lines)


def draw(rows: Sequence[Measured], file: Path) -> None:
    """Time against hidden size, one line a subject, one panel a cell and mode."""
    from matplotlib.figure import Figure

    middle = Case()
    chosen = [r for r in rows if replace(r.case, cell=middle.cell, H=middle.H) == middle]
    cells = list(dict.fromkeys(r.case.cell for r in chosen))
    figure = Figure(figsize=(5 * len(cells), 8), layout="constrained")
    axes = figure.subplots(2, max(1, len(cells)), squeeze=False)
    for column, cell in enumerate(cells):
        for axis, mode in zip(axes[:, column], ("inference_us", "training_us"), strict=True):
            series: dict[str, list[tuple[int, float]]] = {}
            for r in chosen:
                if r.case.cell == cell:
                    for subject, time_us in getattr(r, mode).items():
                        series.setdefault(subject, []).append((r.case.H, time_us))
            for subject, points in series.items():
                axis.loglog(*zip(*sorted(points), strict=True), marker="o", label=subject, base=2)
            axis.set(
                title=f"{cell}, {mode.split('_')[0]}", xlabel="hidden size", ylabel="microseconds a step"
            )
            axis.legend()
    if chosen:
        figure.suptitle(f"{chosen[0].device}, {middle.dtype}, B={middle.B}, T={middle.T}")
    figure.savefig(file, dpi=150)
