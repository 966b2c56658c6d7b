"""Measuring: interleaved medians, bytes kept for backward, floating-point operations."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    budget_s: float = 1.5,
    rounds: tuple[int, int] = (5, 200),
) -> dict[str, float]:
    """The median time of each function in milliseconds, from rounds in which each runs once, in turn.

    What disturbs the machine for a while then disturbs all of them alike. Rounds go on until the budget is
    spent, at least `rounds[0]` and at most `rounds[1]` of them.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for name in order:  # allocator, thread pool and caches get warm
        functions[name]()
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(rounds[1]):
            if done >= rounds[0] and time.perf_counter() - start > budget_s:
                break
            for name in order:
                function = functions[name]
                before = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - before)
            order.append(order.pop(0))  # nobody always runs after the same neighbour
    finally:
        if enabled:
            gc.enable()
    return {name: 1e3 * statistics.median(taken) for name, taken in times.items()}


def saved_bytes(forward: Callable[[], object], own: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for backward, each storage once, without `own` (parameters, inputs)."""
    held: dict[int, Tensor] = {}  # kept alive, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    mine = {tensor.untyped_storage().data_ptr() for tensor in own}
    total = sum(t.untyped_storage().nbytes() for address, t in held.items() if address not in mine)
    del result
    return total


def matmul_flops(prepare: Callable[[int], Callable[[], Any]], length: int) -> int:
    """Floating-point operations of the matrix products in `prepare(length)()`, linear in length."""

    def count(steps: int) -> int:
        run = prepare(steps)
        run()  # a first call may look around before it computes
        with FlopCounterMode(display=False) as counter:
            run()
        return int(counter.get_total_flops())

    if length <= 3:
        return count(length)
    per_step = count(3) - count(2)  # the first step does less: nothing flows back into the initial state
    return count(3) + (length - 3) * per_step


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    found = list(values)
    return statistics.geometric_mean(found) if found else float("nan")


def host() -> dict[str, Any]:
    """What a figure depends on: processor, threads, versions."""
    import platform

    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            lines = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            model = next(lines, model)
    except OSError:
        pass
    return {
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
