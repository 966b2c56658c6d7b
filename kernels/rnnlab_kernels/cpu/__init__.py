"""C++ generated from a Program, compiled by the machine's own compiler."""

from rnnlab_kernels.cpu.contract import contract, contract_all
from rnnlab_kernels.cpu.launch import (
    Kernel,
    build_many,
    prepare,
    refusal,
    run,
    source,
)
from rnnlab_kernels.cpu.toolchain import ToolchainError

TOTALS = True
"""A Program may have totals."""

__all__ = [
    "TOTALS",
    "Kernel",
    "ToolchainError",
    "build_many",
    "contract",
    "contract_all",
    "prepare",
    "refusal",
    "run",
    "source",
]
