"""A task as a program of `torch.export`, whose recurrences are loops over any number of steps.

Legend: `T` time, `B` batch; `*` stands for any further dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim, ExportedProgram

from rnnlab.export.opaque import ExportError, Run, replaced, torchs_own_warnings_aside
from rnnlab.export.signature import Signature
from rnnlab.recurrence.contract import State, StepSpec, step


def capture(signature: Signature, run: Run) -> ExportedProgram:
    """The graph of a model with free dimensions, in which `run` stands for each recurrence.

    Raises:
        ExportError: PyTorch cannot capture the model; says where.
    """
    sizes = {name: Dim.DYNAMIC for dims in signature.free.values() for name in dims.values()}
    shapes = [{dim: sizes[name] for dim, name in signature.free[key].items()} for key in signature.inputs]
    inputs = tuple(signature.inputs.values())
    try:
        with torch.no_grad():
            signature.module(*inputs)  # finds out, outside the graph, what the steps of the cells look like
        with torch.no_grad(), replaced(run), torchs_own_warnings_aside():
            free = (tuple(shapes),)
            return torch.export.export(signature.module, inputs, dynamic_shapes=free, strict=False)
    except ExportError:
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ExportError(f"PyTorch cannot capture this model: {type(error).__name__}: {first}") from error


def looped(
    cell: nn.Module, spec: StepSpec, x: Tensor, state: State, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """A recurrence as PyTorch's own scan; past its length a row's state stands still, outputs are zero."""
    inputs = [x]
    if lengths is not None:
        inputs.append(torch.arange(x.shape[0], device=x.device)[:, None] < lengths[None, :])

    def one(carry: Sequence[Tensor], at: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        output, new = step(cell, spec, at[0], tuple(carry))
        # What is carried and what is put out may not be the same tensor, nor one that came in.
        kept = [part.clone() for part in new]
        if lengths is not None:
            kept = [torch.where(_over(at[1], part), part, old) for part, old in zip(new, carry, strict=True)]
            output = torch.where(_over(at[1], output), output, torch.zeros_like(output))
        return kept, [output.clone()]

    # Each state a tensor of its own: scan takes two names of the same one for the same state.
    carried = [part.clone() for part in state]
    final, (outputs,) = scan(one, carried, inputs, dim=0, reverse=reverse)
    return outputs, tuple(final)


def _over(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.dim() - 1))


def torch_program(signature: Signature) -> ExportedProgram:
    """The program that `torch.export.load` runs without rnnlab.

    Raises:
        ExportError: see `capture`.
    """
    return capture(signature, looped)


def dump_program(program: ExportedProgram, facts: dict[str, str]) -> bytes:
    """A program as the bytes of a `.pt2` file, with texts beside it (`extra_files`)."""
    stream: Any = io.BytesIO()
    with torchs_own_warnings_aside():
        torch.export.save(program, stream, extra_files=facts)
    made: bytes = stream.getvalue()
    return made
