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

__all__ = [
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
