"""Compiles generated kernels ahead of time, without a GPU, and reads what they need.

Registers, spills and stack are what `ptxas` (NVIDIA) or the code object's notes (AMD) report; shared
memory is what Triton asks the driver for.
"""

import contextlib
import io
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch

from rnnlab_kernels.program import Program
from rnnlab_kernels.triton.backend import Config, Precision, loop_constants
from rnnlab_kernels.triton.codegen import Kernel, generate
from rnnlab_kernels.triton.launch import module
from rnnlab_kernels.triton.phases import generate_stepwise
from rnnlab_kernels.triton.split import split

# name: (Triton's backend, architecture, threads of a warp, shared bytes that a program may ask for)
TARGETS: dict[str, tuple[str, int | str, int, int]] = {
    "sm_80": ("cuda", 80, 32, 163 * 1024),
    "sm_86": ("cuda", 86, 32, 99 * 1024),
    "sm_89": ("cuda", 89, 32, 99 * 1024),
    "sm_90": ("cuda", 90, 32, 227 * 1024),
    "sm_100": ("cuda", 100, 32, 227 * 1024),
    "gfx942": ("hip", "gfx942", 64, 64 * 1024),
}

_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
_STATES = ("initial", "final", "state_in", "state_out", "total_in", "total_out", "product", "kept")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel needs: registers of a thread; spills, stack and shared memory in bytes."""

    kernel: str
    registers: int
    spills: int
    stack: int
    shared: int
    seconds: float


class CannotCompile(Exception):
    """The compiler refuses a kernel for a target; the message is its reason, in one line."""


def compile_config(
    program: Program,
    dtype: torch.dtype,
    config: Config,
    target: str,
    *,
    precision: Precision = "tf32",
    lengths: bool = True,
    resets: bool = False,
    cached: bool = False,
) -> list[Resources]:
    """Compile the kernels of a Program's time loop for a target, and read what each needs.

    Args:
        target: a key of `TARGETS`.
        lengths, resets: whether the kernel takes them; each adds a little.
        cached: let Triton's own cache answer. What it kept has no report on spills, so that any stack counts
            as one.

    Raises:
        ValueError: an unknown target.
        CannotCompile: the compiler refuses.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}: there are {', '.join(TARGETS)}")
    loop = split(program).loop
    if config.strategy == "stepwise":
        plan = generate_stepwise(loop, dtype)
        kernels = [phase.kernel for phase in plan.phases if phase.kernel is not None]
        constants: dict[str, Any] = {"BLOCK_B": config.block_b}
        source = plan.source
    else:
        made = generate(loop, dtype, config.strategy, precision)
        kernels, source = [made.kernel], made.source
        constants = loop_constants(config, backwards=loop.adjoint)
    left_out = {
        name for name, given in (("lengths", lengths), ("resets", resets), ("restart", resets)) if not given
    }
    if not resets:
        left_out |= {"total_in", "total_out"}
    return [
        _compile(source, kernel, dtype, constants, config, target, left_out, cached) for kernel in kernels
    ]


def _compile(
    source: str,
    kernel: Kernel,
    dtype: torch.dtype,
    constants: dict[str, Any],
    config: Config,
    target: str,
    left_out: set[str],
    cached: bool,
) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend, architecture, warp, _ = TARGETS[target]
    function = getattr(module(source, interpret=False), kernel.name)
    signature: dict[str, str] = {}
    constexprs: dict[tuple[int, ...], Any] = {}
    attributes = {}
    for position, parameter in enumerate(kernel.parameters):
        if parameter.role in left_out:
            signature[parameter.name] = "constexpr"
            constexprs[(position,)] = None
            continue
        signature[parameter.name] = _type(parameter.role, dtype)
        if signature[parameter.name].startswith("*"):  # what PyTorch allocates is aligned to 16 bytes
            attributes[(position,)] = [["tt.divisibility", 16]]
    for name, value in constants.items():
        signature[name] = "constexpr"
        constexprs[(function.arg_names.index(name),)] = value
    made = ASTSource(fn=function, signature=signature, constexprs=constexprs, attrs=attributes)
    options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    printed = io.StringIO()
    start = time.perf_counter()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope():
        triton.knobs.compilation.always_compile = not cached
        triton.knobs.nvidia.dump_ptxas_log = True
        try:
            with contextlib.redirect_stdout(printed):
                compiled = triton.compile(
                    made, target=GPUTarget(backend, architecture, warp), options=options
                )
        except Exception as error:
            raise CannotCompile(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
    seconds = time.perf_counter() - start
    if backend == "hip":
        registers, spills, stack = _read_amd(compiled.asm["amdgcn"])
    elif cached:
        registers, stack = _read_cubin(compiled.asm["cubin"])
        spills = stack
    else:
        registers, spills, stack = _read_nvidia(printed.getvalue())
    return Resources(kernel.name, registers, spills, stack, compiled.metadata.shared, seconds)


def _type(role: str, dtype: torch.dtype) -> str:
    match role:
        case "T" | "B" | "row":
            return "i32"
        case "lengths":
            return "*i32"
        case "resets" | "valid" | "restart":
            return "*u8"
    return "*fp32" if role in _STATES else _POINTERS[dtype]


def _read_nvidia(report: str) -> tuple[int, int, int]:
    def number(pattern: str) -> int:
        found = re.findall(pattern, report)
        if not found:
            raise CannotCompile("ptxas gave no report on registers and spills")
        return int(found[-1])

    spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return number(r"Used (\d+) registers"), spills, number(r"(\d+) bytes stack frame")


def _read_cubin(cubin: bytes) -> tuple[int, int]:
    """Registers and stack of a compiled kernel, by the disassembler that Triton ships."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if found is None:
        raise CannotCompile("cuobjdump gave no report on registers and stack")
    return int(found[1]), int(found[2])


def _read_amd(report: str) -> tuple[int, int, int]:
    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", report)
        if found is None:
            raise CannotCompile(f"the code object has no note {name}")
        return int(found[1])

    # Notes count spilled registers, of 4 bytes a lane.
    return number("vgpr_count"), 4 * number("vgpr_spill_count"), number("private_segment_fixed_size")
