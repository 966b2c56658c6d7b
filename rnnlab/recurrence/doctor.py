"""`rnnlab doctor`: what this machine has for rnnlab, and what to install.

A finding is good, a warning (something is slower or missing, and everything still works) or an error (rnnlab
cannot work as installed).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

Grade = Literal["good", "warning", "error"]

CORE = ("torch", "lightning", "hydra-core", "torchmetrics", "rich", "matplotlib")
OPTIONAL = {
    "triton": "kernels on a GPU",
    "datasets": "data sets by name: pip install 'rnnlab[hf]'",
    "tokenizers": "subword tokenisers: pip install 'rnnlab[hf]'",
    "tensorboard": "logger=tensorboard: pip install 'rnnlab[tensorboard]'",
    "mlflow": "logger=mlflow: pip install 'rnnlab[mlflow]'",
    "wandb": "logger=wandb: pip install 'rnnlab[wandb]'",
    "jax": "one more peer in rnnlab bench cpu: pip install jax",
}
LARGE_CACHE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, what was found, and, where it is not good, what to do."""

    what: str
    grade: Grade
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything that rnnlab uses; a look that fails is itself a finding."""
    found: list[Finding] = []
    for look in (_python, _packages, _compiler, _kernel, _caches, _threads, _gpu):
        try:
            found += look()
        except Exception as error:
            found.append(Finding(look.__name__.strip("_"), "error", f"{type(error).__name__}: {error}"))
    return found


def main(words: Sequence[str]) -> int:
    """`rnnlab doctor`; returns 0, or 1 if something is in error."""
    argparse.ArgumentParser(
        "rnnlab doctor",
        description="Say what this machine has for rnnlab, and what to install. "
        "The exit status is 1 if rnnlab cannot work as it is installed.",
    ).parse_args(words)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table()
    for column in ("", "what", "found, and what to do"):
        view.add_column(column)
    marks: dict[Grade, Text] = {
        "good": Text("ok", "green"),
        "warning": Text("note", "yellow"),
        "error": Text("ERROR", "bold red"),
    }
    found = examine()
    for finding in found:
        said = Text(finding.found)
        if finding.advice:
            said.append(f"\n{finding.advice}", "italic")
        view.add_row(marks[finding.grade], finding.what, said)
    Console(width=None if sys.stdout.isatty() else 130).print(view)
    return 1 if any(finding.grade == "error" for finding in found) else 0


def _python() -> list[Finding]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    advice = "" if supported else "rnnlab is tested with Python 3.11 to 3.13"
    return [Finding("Python", "good" if supported else "warning", found, advice)]


def _packages() -> list[Finding]:
    missing = [name for name in CORE if _version(name) is None]
    versions = ", ".join(f"{name} {_version(name)}" for name in CORE if name not in missing)
    own = _version("rnnlab") or "run from a source tree"
    found = [Finding("rnnlab", "good", f"{own}, in {Path(__file__).resolve().parents[1]}")]
    if missing:
        advice = f"pip install {' '.join(missing)}"
        found.append(Finding("packages", "error", f"missing: {', '.join(missing)}; {versions}", advice))
    else:
        found.append(Finding("packages", "good", versions))
    have = [f"{name} {_version(name)}" for name in OPTIONAL if _version(name)]
    lack = [f"{name} ({use})" for name, use in OPTIONAL.items() if not _version(name)]
    found.append(Finding("optional packages", "good", ", ".join(have) or "none"))
    if lack:
        found.append(Finding("not installed", "good", "\n".join(lack)))
    return found


def _compiler() -> list[Finding]:
    from rnnlab_kernels.cpu import toolchain

    reason = toolchain.missing()
    if reason is not None:
        return [Finding("C++ compiler", "warning", reason, "until then cells run by aten or eager")]
    compiler = toolchain.compiler()
    sets = [
        name.strip("_") for name in compiler.target.split() if name.startswith(("__AVX", "__ARM_F", "__FMA"))
    ]
    wide = next((s for s in ("AVX512F", "AVX2", "ARM_FEATURE_SVE", "ARM_NEON") if s in sets), None)
    return [
        Finding("C++ compiler", "good", f"{' '.join(compiler.command)}: {compiler.version}"),
        Finding(
            "instruction set",
            "good" if wide else "warning",
            f"{platform.machine()} {wide or 'without wide vectors'} ({_processor()})",
            "" if wide else "kernels work, and are slower than on a processor with AVX2 or NEON",
        ),
    ]


def _kernel() -> list[Finding]:
    """Compile and run one cell, which is what all the rest is for."""
    import time

    import torch

    from rnnlab import cells
    from rnnlab.recurrence import Recurrence
    from rnnlab.recurrence.accuracy import compare, results
    from rnnlab.recurrence.choice import names

    if "fused" not in names():
        return [Finding("a fused cell", "warning", "this installation has no fused backend")]
    cell, x = cells.PeepholeLSTMCell(4, 8), torch.randn(5, 3, 4)
    start = time.perf_counter()
    try:
        found = results(Recurrence(cell, backend="fused"), x)
    except ValueError as refusal:
        return [Finding("a fused cell", "warning", str(refusal), "until then cells run by aten or eager")]
    taken_s = time.perf_counter() - start
    eager = results(Recurrence(cell, backend="eager"), x)
    exact = results(Recurrence(cell.double(), backend="eager"), x.double())
    verdict = compare(found, eager, exact)
    if not verdict.ok:
        advice = "please report this with the lines above; backend='eager' is right meanwhile"
        return [Finding("a fused cell", "error", f"computes wrongly: {verdict.worst}", advice)]
    return [Finding("a fused cell", "good", f"compiled or loaded, and right, in {taken_s:.2f} s")]


def _caches() -> list[Finding]:
    from rnnlab_kernels.cpu import cache

    chosen = os.environ.get("RNNLAB_CACHE_DIR")
    folder = cache.folder()
    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    count = sum(1 for _ in folder.glob("*.so"))
    said = f"{folder}: {count} kernels, {size / 1e6:.1f} MB" + (" (RNNLAB_CACHE_DIR)" if chosen else "")
    wanted = cache.wanted()
    if folder != wanted:
        advice = "make it writable for you alone, or set RNNLAB_CACHE_DIR to a folder of your own"
        said = f"{wanted} cannot be used: {cache.unfit(wanted)}; each process compiles anew"
        return [Finding("kernel cache", "warning", said, advice)]
    if size > LARGE_CACHE_BYTES:
        return [Finding("kernel cache", "warning", said, "it may be emptied at any time")]
    return [Finding("kernel cache", "good", said)]


def _threads() -> list[Finding]:
    import torch

    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    threads = torch.get_num_threads()
    said = f"{threads} for torch, on {usable} usable processors"
    given = [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ
    ]
    said += f" ({', '.join(given)})" if given else ""
    if threads > usable:
        return [
            Finding(
                "threads",
                "warning",
                said,
                f"more threads than processors wait for each other: threads={usable}",
            )
        ]
    return [Finding("threads", "good", said)]


def _gpu() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        said = "no GPU is visible" if built else "this torch is built for the CPU alone"
        return [Finding("GPU", "good", f"{said}; everything runs on the CPU")]
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        devices.append(
            f"{properties.name}, {memory:.0f} GiB, compute capability {properties.major}.{properties.minor}"
        )
    if _version("triton") is None:
        return [Finding("GPU", "warning", "; ".join(devices), "pip install triton, for kernels on it")]
    return [Finding("GPU", "good", "; ".join(devices))]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            found = next(
                (line.partition(":")[2].strip() for line in file if line.startswith("model name")), ""
            )
    except OSError:
        found = ""
    return found or platform.processor() or "unknown processor"
