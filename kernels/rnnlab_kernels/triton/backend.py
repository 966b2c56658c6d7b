"""The Triton backend: runs a Program over whole sequences, by the strategy that a configuration names.

Legend: T time, B batch, K and N widths of a matrix.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rnnlab_kernels.program import Contraction, Program
from rnnlab_kernels.program import contract as contract_in_torch
from rnnlab_kernels.triton.codegen import Strategy, generate
from rnnlab_kernels.triton.emit import TYPES
from rnnlab_kernels.triton.launch import as_bytes, interpreted, launch
from rnnlab_kernels.triton.phases import generate_stepwise
from rnnlab_kernels.triton.pieces import too_many_pieces
from rnnlab_kernels.triton.split import split
from rnnlab_kernels.triton.stepwise import run_stepwise

Precision = Literal["ieee", "tf32", "tf32x3"]
PRECISIONS: tuple[Precision, ...] = ("ieee", "tf32", "tf32x3")


@dataclass(frozen=True)
class Config:
    """How a time loop is run.

    strategy: "resident", "streamed" or "stepwise" (see `codegen` and `phases`).
    block_b: rows of the batch that a program owns; at least 16 where a loop has a dot in its kernel.
    block_k: rows of a weight that "streamed" reads at a time.
    warps: warps of a program (of 32 threads on NVIDIA, 64 on AMD).
    stages: depth of the software pipeline over weight tiles.
    """

    strategy: Strategy
    block_b: int = 16
    block_k: int = 32
    warps: int = 4
    stages: int = 1


class ToolchainError(RuntimeError):
    """Triton, or a compiler that it calls, could not make a kernel."""


def available() -> str | None:
    """Why Triton cannot be used at all on this machine, or None if it can."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton cannot be imported ({error}); install it with `pip install triton` (Linux only)"
    return None


def refusal(program: Program, dtype: torch.dtype, device: torch.device | None = None) -> str | None:
    """Why this backend cannot run a Program, as the end of a sentence, or None if it can.

    Args:
        dtype: of the inputs. float32, float16 and bfloat16 run; every value inside the loop is float32.
        device: where the tensors are; None for the current GPU, if there is one.
    """
    if dtype not in TYPES:
        able = ", ".join(str(t).removeprefix("torch.") for t in TYPES)
        return f"its Triton kernels compute in {able}, and the inputs are {str(dtype).removeprefix('torch.')}"
    if (missing := available()) is not None:
        return missing
    if device is not None and device.type != "cuda" and not interpreted(device):
        return (
            f"Triton kernels run on a GPU, and the tensors are on {device.type!r} "
            "(TRITON_INTERPRET=1 runs them on a CPU, slowly, for debugging)"
        )
    if device is None and torch.cuda.is_available():
        device = torch.device("cuda")
    if device is not None and device.type == "cuda" and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            return (
                f"its Triton kernels need compute capability 8.0, and {torch.cuda.get_device_name(device)} "
                f"has {capability[0]}.{capability[1]}"
            )
    return too_many_pieces(split(program).loop)


def default_precision() -> Precision:
    """How float32 dots are computed: as PyTorch's own matmuls, by `torch.set_float32_matmul_precision`."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def source(
    program: Program, dtype: torch.dtype, strategy: Strategy = "resident", precision: Precision | None = None
) -> str:
    """The text of the kernels that run a Program's time loop."""
    loop = split(program).loop
    if strategy == "stepwise":
        return generate_stepwise(loop, dtype).source
    return generate(loop, dtype, strategy, precision or default_precision()).source


def contract(contraction: Contraction, left: Tensor | None, right: Tensor) -> Tensor:
    """A parameter's gradient from whole sequences: a single library matmul or sum."""
    return contract_in_torch(contraction, left, right)


@torch.no_grad()
def run(
    program: Program,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    config: Config | None = None,
    precision: Precision | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a Program, with the meaning of `rnnlab_kernels.program.interpret`.

    Args:
        program, inputs, states, lengths, resets, reverse: as for `interpret`. States may have another
            dtype than the inputs: they are carried in float32 and returned in their own.
        config: the strategy and its sizes; by default what `choice.configure` picks.
        precision: of float32 matmuls in the loop; by default `default_precision()`.

    Returns:
        The outputs [T, B, width] in the dtype of the inputs, and the final states [B, width].

    Raises:
        ValueError: this backend cannot run the Program here, with the reason.
        ToolchainError: a kernel could not be compiled for this GPU, or does not fit on it.
    """
    first = next(t for t, item in zip(inputs, program.inputs, strict=True) if item.per == "step")
    device, dtype = first.device, first.dtype
    reason = refusal(program, dtype, device) or _elsewhere(inputs, states, lengths, resets, device)
    if reason is not None:
        raise ValueError(f"the Triton backend cannot run this: {reason}")
    size = (first.shape[0], first.shape[1])
    precision = precision or default_precision()
    # Triton launches on the current device, whichever the tensors are on.
    with torch.cuda.device_of(first), _compiler_errors():
        return _run(program, first, inputs, states, size, lengths, resets, reverse, config, precision)


@contextmanager
def _compiler_errors() -> Iterator[None]:
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    try:
        yield
    except (CompilationError, OutOfResources, PTXASError) as error:
        raise ToolchainError(f"{type(error).__name__}: {str(error).strip()[:400]}") from error


def _run(
    program: Program,
    first: Tensor,
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    size: tuple[int, int],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    config: Config | None,
    precision: Precision,
) -> tuple[list[Tensor], list[Tensor]]:
    device, dtype = first.device, first.dtype
    parts = split(program)
    if config is None:
        from rnnlab_kernels.triton.choice import configure

        config = configure(program, dtype, device, size[1], precision)
    values = parts.prepare([tensor.to(dtype) for tensor in inputs])
    loop_inputs = [_shaped(values[item.value], item.per, size, item.width) for item in parts.loop.inputs]
    initial = [state.expand(size[1], -1).to(torch.float32).contiguous() for state in states]
    if not parts.loop.states and not parts.loop.outputs:
        stored, finals = list[Tensor](), list[Tensor]()
    elif config.strategy == "stepwise":
        stored, finals = run_stepwise(
            parts.loop,
            loop_inputs,
            initial,
            first,
            size,
            lengths=lengths,
            resets=resets,
            reverse=reverse,
            block_b=config.block_b,
            warps=config.warps,
            interpret=interpreted(device),
        )
    else:
        stored, finals = _run_loop(
            parts.loop,
            loop_inputs,
            initial,
            first,
            size,
            lengths,
            resets,
            reverse,
            config,
            precision,
        )
    outputs = parts.finish(values, stored, size, lengths)
    return outputs, [final.to(state.dtype) for final, state in zip(finals, states, strict=True)]


def _elsewhere(
    inputs: Sequence[Tensor],
    states: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    device: torch.device,
) -> str | None:
    """Why tensors on several devices cannot be used together."""
    given = [*inputs, *states, *(t for t in (lengths, resets) if t is not None)]
    others = sorted({str(t.device) for t in given} - {str(device)})
    return (
        f"its tensors are on {device} and on {', '.join(others)}; move them to one device" if others else None
    )


def _shaped(tensor: Tensor, per: str, size: tuple[int, int], width: int) -> Tensor:
    """What the loop reads, in full and contiguous."""
    if per == "step":
        tensor = tensor.expand(*size, width)
    elif per == "sequence":
        tensor = tensor.expand(size[1], width)
    return tensor.contiguous()


def _run_loop(
    loop: Program,
    inputs: list[Tensor],
    initial: list[Tensor],
    like: Tensor,
    size: tuple[int, int],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    config: Config,
    precision: Precision,
) -> tuple[list[Tensor], list[Tensor]]:
    """The resident or the streamed strategy: one launch for all steps."""
    length, batch = size
    interpret = interpreted(like.device)
    dtype = like.dtype
    made = generate(loop, dtype, config.strategy, precision, upcast=interpret and dtype == torch.bfloat16)
    # Steps past a row's length are never visited, so their zeros must be there before.
    fill = torch.empty if lengths is None else torch.zeros
    outputs = [fill(length, batch, o.width, dtype=dtype, device=like.device) for o in loop.outputs]
    finals = [torch.empty_like(state) for state in initial]
    scratch = torch.empty(batch * made.scratch, dtype=dtype, device=like.device) if made.scratch else None
    one_each = {
        "T": length,
        "B": batch,
        "lengths": None if lengths is None else lengths.to(torch.int32).contiguous(),
        "resets": as_bytes(resets),
        "scratch": scratch,
    }
    several = {"input": inputs, "initial": initial, "final": finals, "output": outputs}
    arguments = [
        several[p.role][p.index] if p.role in several else one_each[p.role] for p in made.kernel.parameters
    ]
    constants = loop_constants(config, backwards=reverse != loop.adjoint)
    if not interpret:
        constants |= {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    launch(made.source, made.kernel, arguments, -(-batch // config.block_b), constants, interpret)
    return outputs, finals


def loop_constants(config: Config, backwards: bool) -> dict[str, int | bool]:
    """The compile-time constants of a time loop's kernel."""
    return {"BLOCK_B": config.block_b, "BLOCK_K": config.block_k, "BACKWARDS": backwards}
