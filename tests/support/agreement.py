"""Do two computations agree, in all results and in all gradients?"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples and lists, in order; of a packed sequence its data."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors(item)]
    assert value is None
    return []


def assert_agree(
    actual: Callable[[], Any],
    expected: Callable[[], Any],
    leaves: Sequence[Tensor],
    expected_leaves: Sequence[Tensor] | None = None,
    **tolerance: float,
) -> None:
    """Results of both functions are close, and so are their gradients for the same random cotangents."""
    found, wanted = tensors(actual()), tensors(expected())
    assert [t.shape for t in found] == [t.shape for t in wanted]
    torch.testing.assert_close(found, wanted, **tolerance)
    generator = torch.Generator().manual_seed(5)
    cotangents = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in wanted]
    other_leaves = leaves if expected_leaves is None else expected_leaves
    torch.testing.assert_close(
        _gradients(found, leaves, cotangents), _gradients(wanted, other_leaves, cotangents), **tolerance
    )


def _gradients(
    results: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    # A result that depends on no leaf, such as a counter, has no gradient to give.
    pairs = [(r, c) for r, c in zip(results, cotangents, strict=True) if r.requires_grad]
    roots, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(roots, leaves, weights, materialize_grads=True)
