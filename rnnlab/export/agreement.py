"""An exported model held to the one that it was made of, on batches of other lengths and sizes.

Legend: `T` time, `B` batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rnnlab.export.opaque import ExportError
from rnnlab.export.signature import INTEGERS, Signature

SIZES = ((1, 1), (13, 2), (4, 7))
# Of the largest output: single precision in another order of sums, over some steps.
TOLERANCE = 1e-4


def batch(signature: Signature, steps: int, rows: int, seed: int = 0) -> list[Tensor]:
    """Random inputs of a signature, integers within what the model knows."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"T": steps, "B": rows}
    made = []
    for name, example in signature.inputs.items():
        shape = [sizes.get(signature.free[name].get(dim, ""), size) for dim, size in enumerate(example.shape)]
        if name == "lengths":
            lengths = torch.randint(1, steps + 1, shape, generator=generator)
            lengths[0] = steps
            made.append(lengths)
        elif not example.is_floating_point():
            highest = 1 if name not in INTEGERS else _highest(signature, name)
            made.append(torch.randint(0, highest + 1, shape, generator=generator))
        else:
            made.append(torch.randn(shape, generator=generator))
    return made


def _highest(signature: Signature, name: str) -> int:
    """The largest number that a model knows as an input: of its labels, or of its vocabulary."""
    task = getattr(signature.module, "task", None) or getattr(signature.module, "network", None)
    if name == "labels":
        return len(getattr(task, "labels", [0])) - 1
    embeddings = [m for m in signature.module.modules() if isinstance(m, torch.nn.Embedding)]
    return min((m.num_embeddings for m in embeddings), default=2) - 1


def largest_difference(
    signature: Signature,
    exported: Callable[[list[Tensor]], Sequence[Tensor]],
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> float:
    """The largest difference of any output, as a part of the largest output.

    Raises:
        ExportError: it is more than rounding makes; the export is wrong.
    """
    worst = 0.0
    for number, (steps, rows) in enumerate(sizes):
        inputs = batch(signature, steps, rows, number)
        with torch.no_grad():
            wanted = signature.module(*inputs)
        for name, ours, theirs in zip(signature.outputs, wanted, exported(inputs), strict=True):
            if tuple(ours.shape) != tuple(theirs.shape):
                raise ExportError(f"{name} is {list(theirs.shape)} once exported, {list(ours.shape)} here")
            difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-3))
            worst = max(worst, difference)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"the exported model is wrong: {name} differs by {difference:.1e} of its size for "
                    f"T={steps}, B={rows}; this is a fault of rnnlab"
                )
    return worst
