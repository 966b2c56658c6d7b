"""Compiles generated kernels ahead of time, without a GPU, and reads what they need.

Registers, spills and stack are what `ptxas` (NVIDIA) or the code object's notes (AMD) report; shared
memory is what Triton asks the driver for.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from typing import Any

import torch

from rnnlab_kernels.program import Program
from rnnlab_kernels.triton.backend import Config, Precision, loop_constants
from rnnlab_kernels.triton.codegen import Kernel, generate
from rnnlab_kernels.triton.isolate import CannotCompile, Order, Resources, compile_apart, module
from rnnlab_kernels.triton.phases import generate_stepwise
from rnnlab_kernels.triton.split import split

__all__ = ["TARGETS", "CannotCompile", "Resources", "compile_config"]

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
        cached: let an earlier compilation on this machine answer.

    Raises:
        ValueError: an unknown target.
        CannotCompile: the compiler refuses, or falls over it.
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
    orders = [_order(source, kernel, dtype, constants, config, target, left_out) for kernel in kernels]
    return _remembered(orders) if cached else compile_apart(orders)


def _order(
    source: str,
    kernel: Kernel,
    dtype: torch.dtype,
    constants: dict[str, Any],
    config: Config,
    target: str,
    left_out: set[str],
) -> Order:
    signature: dict[str, str] = {}
    known: dict[int, Any] = {}
    aligned = []
    for position, parameter in enumerate(kernel.parameters):
        if parameter.role in left_out:
            signature[parameter.name] = "constexpr"
            known[position] = None
            continue
        signature[parameter.name] = _type(parameter.role, dtype)
        if signature[parameter.name].startswith("*"):  # what PyTorch allocates is aligned to 16 bytes
            aligned.append(position)
    names = getattr(module(source, interpret=False), kernel.name).arg_names
    for name, value in constants.items():
        signature[name] = "constexpr"
        known[names.index(name)] = value
    options: dict[str, int | bool] = {
        "num_warps": config.warps,
        "num_stages": config.stages,
        "enable_fp_fusion": True,
    }
    backend, architecture, warp, _ = TARGETS[target]
    return Order(
        source, kernel.name, signature, known, tuple(aligned), (backend, architecture, warp), options
    )


def _remembered(orders: list[Order]) -> list[Resources]:
    """What these kernels need, compiled once on this machine: notes beside `rnnlab tune`'s table keep it."""
    import triton

    from rnnlab_kernels.triton.table import path

    text = json.dumps([triton.__version__, *(asdict(order) for order in orders)], sort_keys=True)
    note = path().parent / "triton" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [Resources(**row) for row in json.loads(note.read_text())]
    made = compile_apart(orders)
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time and nothing else
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        half = note.with_suffix(f".{os.getpid()}")
        half.write_text(json.dumps([asdict(row) for row in made]))
        half.replace(note)
    return made


def _type(role: str, dtype: torch.dtype) -> str:
    match role:
        case "T" | "B" | "row":
            return "i32"
        case "lengths":
            return "*i32"
        case "resets" | "valid" | "restart":
            return "*u8"
    return "*fp32" if role in _STATES else _POINTERS[dtype]
