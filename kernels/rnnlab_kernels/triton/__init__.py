"""Triton: kernels for a GPU, generated from Programs."""

from rnnlab_kernels.triton.backend import (
    PRECISIONS,
    Config,
    Precision,
    ToolchainError,
    available,
    contract,
    default_precision,
    refusal,
    run,
    source,
)
from rnnlab_kernels.triton.codegen import STRATEGIES, Strategy

__all__ = [
    "PRECISIONS",
    "STRATEGIES",
    "Config",
    "Precision",
    "Strategy",
    "ToolchainError",
    "available",
    "contract",
    "default_precision",
    "refusal",
    "run",
    "source",
]
