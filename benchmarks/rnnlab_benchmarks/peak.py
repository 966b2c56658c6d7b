"""The machine's measured peak: multiply-adds on registers, in the widest vectors, on every thread at once."""

from __future__ import annotations

import ctypes
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rnnlab_kernels.cpu import cache, toolchain

# Independent sums, each in its own register: enough to hide a multiply-add's latency on two units.
CHAINS = 12

_SOURCE = """
#if defined(__AVX512F__)
enum {{ BYTES = 64 }};
#elif defined(__AVX__)
enum {{ BYTES = 32 }};
#else
enum {{ BYTES = 16 }};
#endif
typedef float Vector __attribute__((vector_size(BYTES)));

// Runs `rounds` multiply-adds on each of {chains} vectors; returns how many operations that were.
extern "C" __attribute__((visibility("default"))) double rnnlab_peak(long rounds, float scale, float* out) {{
  Vector a, b;
  for (int k = 0; k < BYTES / 4; ++k) a[k] = scale, b[k] = 1e-7f * scale;
  {declare}
  for (long r = 0; r < rounds; ++r) {{
    {step}
    __asm__ volatile("" ::: "memory");
  }}
  Vector sum = {total};
  *out = sum[0];
  return 2.0 * {chains} * (BYTES / 4) * double(rounds);
}}
"""


def source() -> str:
    """The C++ that is measured."""
    names = [f"s{k}" for k in range(CHAINS)]
    return _SOURCE.format(
        chains=CHAINS,
        declare=" ".join(f"Vector {n} = a + {k};" for k, n in enumerate(names)),
        step=" ".join(f"{n} = {n} * a + b;" for n in names),
        total=" + ".join(names),
    )


def measure(seconds: float = 0.3) -> float | None:
    """GFLOP/s in float32 on all of torch's threads, the best of several runs; None without a compiler."""
    if toolchain.missing() is not None:
        return None
    text = source()
    compiler = toolchain.compiler()
    key = hashlib.sha256(f"{text}{compiler}".encode()).hexdigest()

    def make(path: Path) -> None:
        toolchain.compile_object(text, path, openmp=False)

    function = cache.load(f"peak-{key[:32]}", make).rnnlab_peak
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.POINTER(ctypes.c_float)]
    threads = torch.get_num_threads()
    rounds = 200_000

    def once(_: int) -> float:
        return float(function(rounds, 0.5, ctypes.byref(ctypes.c_float())))

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets the threads run side by side
        list(pool.map(once, range(threads)))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            operations = sum(pool.map(once, range(threads)))
            taken_s = time.perf_counter() - start
            best = max(best, operations / taken_s / 1e9)
            rounds = int(
                rounds * min(4.0, max(0.5, 0.03 / taken_s))
            )  # long enough to forget the start of threads
    return best
