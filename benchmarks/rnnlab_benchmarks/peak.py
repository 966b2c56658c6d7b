"""The machine's measured peak: multiply-adds on registers, in the widest vectors, on every thread at once.

It runs on the same threads as the kernels (OpenMP's, those of torch), so that it can take turns with them: a
processor's clock, and what its neighbours leave of a core, change from one second to the next.
"""

from __future__ import annotations

import ctypes
import hashlib
import time
from pathlib import Path

import torch
from rnnlab_kernels.cpu import cache, toolchain

# Independent sums, each in its own register: enough to hide a multiply-add's latency on two units.
CHAINS = 12
RUN_S = 0.005
"""How long one run takes, about."""

_SOURCE = """
#if defined(__AVX512F__)
enum {{ BYTES = 64 }};
#elif defined(__AVX__)
enum {{ BYTES = 32 }};
#else
enum {{ BYTES = 16 }};
#endif
typedef float Vector __attribute__((vector_size(BYTES)));

static float chains(long rounds, float scale) {{
  Vector a, b;
  for (int k = 0; k < BYTES / 4; ++k) a[k] = scale, b[k] = 1e-7f * scale;
  {declare}
  for (long r = 0; r < rounds; ++r) {{
    {step}
    __asm__ volatile("" ::: "memory");
  }}
  Vector sum = {total};
  return sum[0];
}}

// Runs `rounds` multiply-adds on each of {chains} vectors in every thread; returns how many they were.
extern "C" __attribute__((visibility("default")))
double rnnlab_peak(long rounds, int threads, float scale, float* out) {{
  float total = 0;
  int running = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total, running)
  {{
    total += chains(rounds, scale);
    running += 1;
  }}
  *out = total;
  return 2.0 * {chains} * (BYTES / 4) * double(rounds) * running;
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


class Peak:
    """A run of multiply-adds on all of torch's threads: `operations` of them each time that it is called."""

    def __init__(self) -> None:
        text = source()
        key = hashlib.sha256(f"{text}{toolchain.compiler()}".encode()).hexdigest()

        def make(path: Path) -> None:
            toolchain.compile_object(text, path, openmp=True)

        self._function = cache.load(f"peak-{key[:32]}", make).rnnlab_peak
        self._function.restype = ctypes.c_double
        self._function.argtypes = [
            ctypes.c_long,
            ctypes.c_int,
            ctypes.c_float,
            ctypes.POINTER(ctypes.c_float),
        ]
        self._rounds, self.operations = 20_000, 0.0
        for _ in range(4):  # the threads start, and the clock rises
            taken_s = self._timed()
            self._rounds = max(1, int(self._rounds * min(8.0, RUN_S / taken_s)))
        self()

    def _timed(self) -> float:
        start = time.perf_counter()
        self()
        return time.perf_counter() - start

    def __call__(self) -> None:
        out = ctypes.c_float()
        threads = torch.get_num_threads()
        self.operations = float(self._function(self._rounds, threads, 0.5, ctypes.byref(out)))

    def gflops(self, time_ms: float) -> float:
        """Operations a second, in 1e9, for the time of one call."""
        return self.operations / time_ms / 1e6


def find() -> Peak | None:
    """What measures the peak; None without a compiler."""
    return None if toolchain.missing() is not None else Peak()


def best(peak: Peak, seconds: float = 0.3) -> float:
    """GFLOP/s in float32 at the best moment within some seconds."""
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        least = min(least, peak._timed())
    return peak.gflops(1e3 * least)
