"""`rnnlab bench DEVICE ...`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = {
    "cpu": (
        "the CPU kernels against torch.nn, the eager loop, torch.compile(scan) and JAX",
        "rnnlab_benchmarks.cpu",
    ),
    "gpu": (
        "the Triton kernels against cuDNN, torch.compile, the eager loop, FlashRNN and Haste",
        "rnnlab_benchmarks.gpu",
    ),
    "training": (
        "`rnnlab train` against a bare PyTorch loop over the same batches",
        "rnnlab_benchmarks.training",
    ),
    "watch": ("a step of training with and without the watch for NaN", "rnnlab_benchmarks.watch"),
    "sweeps": (
        "`rnnlab sweep` against Hydra's basic launcher on the same jobs",
        "rnnlab_benchmarks.sweeps",
    ),
}


def main(words: Sequence[str]) -> int:
    """Run the named benchmark.

    Returns:
        The exit status: 0 done, 1 something measured was wrong, 2 refused.
    """
    if not words or words[0] in ("-h", "--help"):
        print("usage: rnnlab bench DEVICE [settings]\n")
        for name, (help_, _) in BENCHMARKS.items():
            print(f"  {name:<10}{help_}")
        print("\n  rnnlab bench DEVICE --help   what a benchmark takes")
        return 0 if words else 2
    name = words[0]
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(BENCHMARKS)}"
        print(f"rnnlab bench: there is no benchmark {name!r}; {hint}", file=sys.stderr)
        return 2
    status: int = import_module(BENCHMARKS[name][1]).main(words[1:])
    return status
