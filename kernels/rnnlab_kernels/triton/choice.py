"""Which strategy runs a Program on a GPU: what can run there, in order, and what has been measured.

Three sources, the first that knows decides:
1. the table that `rnnlab tune` measured on this very device (`table`);
2. needs counted from the Program, against the device's registers and shared memory (`candidates`);
3. the compiler's own report on the best of these (`configure`): a kernel that spills gives way to the next.

For the three standard cells PyTorch's own kernels (cuDNN, MIOpen) come before all of ours, until a table
says that one of ours is faster: none of ours has been measured on a GPU yet.

Legend: B batch.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from rnnlab_kernels.program import Program
from rnnlab_kernels.triton.backend import Config, Precision
from rnnlab_kernels.triton.codegen import Strategy
from rnnlab_kernels.triton.pieces import Piece, pieces
from rnnlab_kernels.triton.split import split
from rnnlab_kernels.triton.table import Table

logger = logging.getLogger("rnnlab")

ROWS = 16
"""Rows of a batch tile: the fewest that a dot takes, since more programs keep more processors at work."""
STREAMED_LIMIT = 256 * 2**10
"""Bytes of weights above which *stepwise* comes first: what a processor streams while two kernels launch."""


@dataclass(frozen=True)
class Device:
    """What of a GPU decides which kernels can run.

    shared: bytes of shared memory that one program may use.
    registers: 32-bit registers of one processor, which a program's threads share; a thread has at most 255.
    """

    name: str
    target: str
    warp: int
    shared: int
    registers: int = 65536
    processors: int = 100


@dataclass(frozen=True)
class Needs:
    """What a kernel is counted to need: registers of a thread, at the least, and shared memory in bytes."""

    registers: int
    shared: int


@dataclass(frozen=True)
class Candidate:
    """A configuration, what it needs, and why it cannot run (None if it can)."""

    config: Config
    needs: Needs
    reason: str | None


@dataclass(frozen=True)
class Choice:
    """What runs a recurrence on a GPU, and why."""

    backend: Literal["fused", "aten"]
    config: Config | None
    reason: str


def describe(device: torch.device) -> Device:
    """The GPU that a torch device is."""
    properties = torch.cuda.get_device_properties(device)
    amd = torch.version.hip is not None
    target = properties.gcnArchName.split(":")[0] if amd else f"sm_{properties.major}{properties.minor}"
    return Device(
        name=properties.name,
        target=target,
        warp=getattr(properties, "warp_size", 64 if amd else 32),
        shared=getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block),
        registers=getattr(properties, "regs_per_multiprocessor", 65536),
        processors=properties.multi_processor_count,
    )


def count(program: Program, dtype: torch.dtype, config: Config, device: Device) -> Needs:
    """Count what a configuration needs: the values that live at once, and the weights that are kept.

    Registers are a lower bound: the values that live at once, in float32, and a fixed part; addresses come on
    top, of which the compiler keeps as many as fit. Shared memory is what the compiler was seen to use: the
    weights (or their tiles in flight) and the widest left operand.
    """
    loop = split(program).loop
    size = dtype.itemsize
    threads = config.warps * device.warp
    live = _live_columns(loop) * config.block_b
    registers = 24 + round(live / threads)
    parts = dots(loop)
    lefts = {left: left.padded for left, _ in parts}
    staged = max(lefts.values(), default=0) * config.block_b * size
    match config.strategy:
        case "resident":
            return Needs(registers, staged + sum(a.padded * b.padded for a, b in parts) * size)
        case "streamed":
            widest = max((sum(b.padded for a, b in parts if a == left) for left in lefts), default=0)
            tile = (widest + config.block_b) * config.block_k * size
            return Needs(registers, max(staged, tile * max(1, config.stages - 1)))
        case "stepwise":
            return Needs(min(registers, 255), 0)


def candidates(program: Program, dtype: torch.dtype, device: Device) -> list[Candidate]:
    """All configurations worth a try, the preferred one first, each with the reason why it cannot run.

    Resident before streamed before stepwise: each reads more from further away in every step than the one
    before. Where the weights are too many for one processor to stream, stepwise comes before streamed.
    """
    loop = split(program).loop
    weights = sum(a.padded * b.padded for a, b in dots(loop)) * dtype.itemsize
    order = ["resident", "streamed", "stepwise"]
    if weights > STREAMED_LIMIT:
        order = ["resident", "stepwise", "streamed"]
    found = []
    for strategy in order:
        for config in _configs(loop, strategy):
            needs = count(program, dtype, config, device)
            found.append(Candidate(config, needs, _reason(loop, config, needs, device)))
    return found


def choose(
    program: Program,
    dtype: torch.dtype,
    device: Device,
    batch: int,
    *,
    standard: bool = False,
    table: Table | None = None,
    reject: Callable[[Config], str | None] = lambda config: None,
) -> Choice:
    """What runs a recurrence.

    Args:
        standard: whether it is an RNN, LSTM or GRU that PyTorch's own kernels can run.
        table: what has been measured.
        reject: a closer look at a configuration, which says why it will not do.
    """
    winner = None if table is None else table.find(device.name, dtype, program.key, batch)
    if winner is not None:
        measured = f"measured fastest on {device.name}, {winner.time_us:.1f} us a call"
        if winner.config is not None:
            return Choice("fused", winner.config, measured)
        if standard:
            return Choice("aten", None, measured)
    if standard:
        return Choice("aten", None, "cuDNN runs the standard cells until `rnnlab tune` finds faster kernels")
    reasons: list[str] = []
    for candidate in candidates(program, dtype, device):
        reason = candidate.reason or reject(candidate.config)
        if reason is None:
            said = f"; passed over: {'; '.join(reasons)}" if reasons else ""
            return Choice("fused", candidate.config, f"the first of its strategies that fits{said}")
        reasons.append(f"{candidate.config.strategy} with {candidate.config.warps} warps {reason}")
    last = Config("stepwise", block_b=1, warps=8)
    return Choice("fused", last, f"nothing fits well, stepwise always runs: {'; '.join(reasons)}")


_forced: Strategy | None = None


@contextmanager
def force(strategy: Strategy | None) -> Iterator[None]:
    """Run everything by one strategy, in all threads: for measuring, and for looking at one alone."""
    global _forced
    before, _forced = _forced, strategy
    try:
        yield
    finally:
        _forced = before


def configure(
    program: Program, dtype: torch.dtype, device: torch.device, batch: int, precision: Precision
) -> Config:
    """The configuration for a Program on a device, found once.

    Raises ValueError where `force` asks for a strategy that cannot run.
    """
    if _forced is not None:
        return _configure_forced(program, dtype, device, precision, _forced)
    return _configure(program, dtype, device, batch, precision)


@lru_cache(maxsize=256)
def _configure_forced(
    program: Program, dtype: torch.dtype, device: torch.device, precision: Precision, strategy: Strategy
) -> Config:
    if device.type != "cuda":
        return Config(strategy, block_b=ROWS, block_k=16)
    here = describe(device)
    reasons = []
    for candidate in candidates(program, dtype, here):
        if candidate.config.strategy != strategy:
            continue
        reason = candidate.reason or _spills(program, dtype, candidate.config, here, precision)
        if reason is None:
            return candidate.config
        reasons.append(reason)
    said = (
        "; ".join(dict.fromkeys(reasons))
        or "it has no matmul in its loop, so that there is nothing to stream"
    )
    raise ValueError(f"the {strategy} strategy does not fit this Program: {said}")


@lru_cache(maxsize=256)
def _configure(
    program: Program, dtype: torch.dtype, device: torch.device, batch: int, precision: Precision
) -> Config:
    if device.type != "cuda":  # the interpreter, where any will do and small tiles are quickest
        return Config("resident", block_b=ROWS)
    here = describe(device)

    def reject(config: Config) -> str | None:
        return _spills(program, dtype, config, here, precision)

    choice = choose(program, dtype, here, batch, table=Table.load(), reject=reject)
    logger.info("Triton on %s: %s (%s)", here.name, choice.config, choice.reason)
    assert choice.config is not None
    return choice.config


@lru_cache(maxsize=256)
def beats_aten(program: Program, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a standard cell's kernels were measured faster than PyTorch's own here, at every batch tried.

    Without a measurement the answer is no.
    """
    if device.type != "cuda":
        return False
    winners = Table.load().all(torch.cuda.get_device_name(device), dtype, program.key)
    return bool(winners) and all(winner.config is not None for winner in winners)


def _spills(
    program: Program, dtype: torch.dtype, config: Config, device: Device, precision: Precision
) -> str | None:
    """Why a configuration is not good enough on this device, by the compiler's report."""
    from rnnlab_kernels.triton.aot import TARGETS, CannotCompile, compile_config

    if device.target not in TARGETS:
        return None
    try:
        made = compile_config(program, dtype, config, device.target, precision=precision, cached=True)
    except CannotCompile as error:
        return f"does not compile ({error})"
    return unfit([(r.spills, r.shared) for r in made], device.shared)


def unfit(kernels: list[tuple[int, int]], shared: int) -> str | None:
    """Why compiled kernels, given as (spills, shared memory) in bytes, will not do on a device."""
    for spilled, used in kernels:
        if used > shared:
            return f"uses {used} bytes of shared memory of {shared}"
        if spilled:
            return f"spills {spilled} bytes"
    return None


def _configs(loop: Program, strategy: str) -> list[Config]:
    if strategy == "stepwise":
        widest = max([16, *(p.padded for held in _pieces(loop).values() for p in held)])
        rows = max(1, 1024 // widest)
        return [Config("stepwise", block_b=rows, warps=warps) for warps in (4, 8)]
    if not dots(loop):  # no dot asks for 16 rows, and fewer rows keep more processors at work
        if strategy == "streamed":
            return []
        return [Config("resident", block_b=rows, warps=warps) for rows, warps in ((4, 4), (1, 4), (1, 8))]
    if strategy == "resident":
        return [Config("resident", block_b=ROWS, warps=warps) for warps in (4, 8, 16)]
    return [
        Config("streamed", block_b=ROWS, block_k=rows, warps=warps, stages=stages)
        for warps, rows, stages in ((4, 32, 3), (8, 32, 3), (8, 16, 3), (16, 16, 3), (16, 16, 2))
    ]


def _reason(loop: Program, config: Config, needs: Needs, device: Device) -> str | None:
    limit = min(255, device.registers // (config.warps * device.warp))
    if needs.shared > device.shared:
        return f"needs {needs.shared} bytes of shared memory, {device.name} has {device.shared}"
    if needs.registers > limit and config.strategy != "stepwise":
        return f"needs {needs.registers} registers a thread of {limit}"
    return None


@lru_cache(maxsize=256)
def _pieces(loop: Program) -> dict[int, tuple[Piece, ...]]:
    return pieces(loop, {value: f"v{value}" for value in loop.widths})


@lru_cache(maxsize=256)
def dots(loop: Program) -> tuple[tuple[Piece, Piece], ...]:
    """The (left, result) pieces that dots join; products with a single row or column are not dots."""
    held = _pieces(loop)
    return tuple(
        (left, result)
        for node in loop.nodes
        if node.kind == "matmul"
        for left in held[node.inputs[0]]
        for result in held[node.value]
        if left.width > 1 and result.width > 1
    )


@lru_cache(maxsize=256)
def _live_columns(loop: Program) -> int:
    """The most columns, padded, that are held at one time in a step, carried states among them."""
    held = _pieces(loop)
    last: dict[Piece, int] = {}
    end = len(loop.nodes)
    for index, node in enumerate(loop.nodes):
        for value in node.inputs:
            last |= dict.fromkeys(held.get(value, ()), index)
    for value in (*(s.next for s in loop.states), *(o.value for o in loop.outputs)):
        last |= dict.fromkeys(held.get(value, ()), end)
    live = {p for item in loop.inputs if item.per != "call" and not item.is_matrix for p in held[item.value]}
    live |= {p for state in loop.states for p in held[state.value]}
    most = sum(piece.padded for piece in live)
    for index, node in enumerate(loop.nodes):
        live |= set(held[node.value])
        most = max(most, sum(piece.padded for piece in live))
        live = {piece for piece in live if last.get(piece, -1) > index}
    return most
