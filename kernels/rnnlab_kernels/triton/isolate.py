"""Compiles generated kernels in a process of their own, and reads what they need.

Triton's compiler can end the process that it runs in: LLVM's assertions are on in its wheels, and one of them
fails on some kernels. A process that only compiles may fall; the one that trains may not. What was compiled
stays in Triton's cache, where a launch finds it.

This file is also the program of that process, run by its path, so that it starts without PyTorch.
"""

import contextlib
import hashlib
import importlib
import io
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any

# A kernel takes seconds; what takes this long will not end.
LIMIT_SECONDS = 600


class CannotCompile(Exception):
    """The compiler refuses a kernel for a target; the message is its reason, in one line."""


@dataclass(frozen=True)
class Order:
    """A kernel to compile for a target.

    Attributes:
        source: the module that holds the kernel.
        kernel: its name.
        signature: the type of each parameter, in order.
        constants: values known to the compiler, by the position of their parameter.
        aligned: positions of pointers to 16-byte boundaries.
        target: Triton's backend, architecture and threads of a warp.
        options: of the compiler.
    """

    source: str
    kernel: str
    signature: dict[str, str]
    constants: dict[int, Any]
    aligned: tuple[int, ...]
    target: tuple[str, int | str, int]
    options: dict[str, int | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel needs: registers of a thread; spills, stack and shared memory in bytes."""

    kernel: str
    registers: int
    spills: int
    stack: int
    shared: int
    seconds: float


@lru_cache(maxsize=512)
def module(source: str, interpret: bool) -> ModuleType:
    """A generated module, executed. Triton reads a kernel's text back; `linecache` serves it from memory."""
    triton = importlib.import_module("triton")
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    name = f"rnnlab_generated_{digest}_{'interpreted' if interpret else 'compiled'}"
    path = f"<{name}>"
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    made = ModuleType(name)
    made.__file__ = path
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = interpret
        exec(compile(source, path, "exec"), made.__dict__)
    return made


def compile_apart(orders: Sequence[Order]) -> list[Resources]:
    """Compile kernels in a new process.

    Raises:
        CannotCompile: the compiler refuses one of them, falls over it, or does not end.
    """
    if not orders:
        return []
    limit = LIMIT_SECONDS * len(orders)
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=json.dumps([asdict(order) for order in orders]),
            capture_output=True,
            text=True,
            timeout=limit,
            env={key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"},
        )
    except subprocess.TimeoutExpired as error:
        names = ", ".join(order.kernel for order in orders)
        raise CannotCompile(f"the compiler of {names} took longer than {limit} s") from error
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if answers and "refused" in answers[-1]:
        raise CannotCompile(answers[-1]["refused"])
    if done.returncode:
        at = orders[min(len(answers), len(orders) - 1)].kernel
        raise CannotCompile(f"the compiler fell over {at}: {_last_words(done)}")
    return [Resources(**answer) for answer in answers]


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process ended, in one line."""
    code = done.returncode
    how = signal.Signals(-code).name if code < 0 else f"status {code}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    found = next((line for line in lines if "Assertion" in line), lines[-1] if lines else "")
    return f"{how}; {found[-160:]}" if found else how


def _complaint(error: Exception) -> str:
    """What the compiler says, in one line: where, and what; between the two it shows the text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([f"{type(error).__name__}:", *dict.fromkeys([*lines[:1], *lines[-1:]])])


def _serve() -> None:
    """Compile what is ordered on standard input; one line of JSON an answer."""
    # The answers' channel; compilers print to the other.
    channel = sys.stdout
    for given in json.load(sys.stdin):
        given["constants"] = {int(position): value for position, value in given["constants"].items()}
        try:
            answer = asdict(_compile(Order(**given)))
        except Exception as error:
            answer = {"refused": _complaint(error)}
        print(json.dumps(answer), file=channel, flush=True)
        if "refused" in answer:
            return


def _compile(order: Order) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend, architecture, warp = order.target
    made = ASTSource(
        fn=getattr(module(order.source, interpret=False), order.kernel),
        signature=order.signature,
        constexprs={(position,): value for position, value in order.constants.items()},
        attrs={(position,): [["tt.divisibility", 16]] for position in order.aligned},
    )
    printed = io.StringIO()
    start = time.perf_counter()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope(), contextlib.redirect_stdout(printed):
        triton.knobs.compilation.always_compile = True  # what the cache holds has no report on spills
        triton.knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(
            made, target=GPUTarget(backend, architecture, warp), options=dict(order.options)
        )
    seconds = time.perf_counter() - start
    read = _read_amd(compiled.asm["amdgcn"]) if backend == "hip" else _read_nvidia(printed.getvalue())
    return Resources(order.kernel, *read, compiled.metadata.shared, seconds)


def _read_nvidia(report: str) -> tuple[int, int, int]:
    """Registers, spills and stack, by ptxas."""

    def number(pattern: str) -> int:
        found = re.findall(pattern, report)
        if not found:
            raise CannotCompile("ptxas gave no report on registers and spills")
        return int(found[-1])

    spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return number(r"Used (\d+) registers"), spills, number(r"(\d+) bytes stack frame")


def _read_amd(report: str) -> tuple[int, int, int]:
    """Registers, spills and stack, by the code object's notes."""

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", report)
        if found is None:
            raise CannotCompile(f"the code object has no note {name}")
        return int(found[1])

    # Notes count spilled registers, of 4 bytes a lane.
    return number("vgpr_count"), 4 * number("vgpr_spill_count"), number("private_segment_fixed_size")


if __name__ == "__main__":
    _serve()
