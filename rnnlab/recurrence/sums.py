"""Sums over rows, taken apart so that one need not wait for another."""

from __future__ import annotations

from functools import partial, reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnlab.recurrence.simplify import Builder


def split(build: Builder, x: int) -> int | None:
    """The sum of a row whose terms are scaled by numbers made of other sums, as sums that need not wait.

    So the gradient of a layer normalisation takes one pass over the row less. Deviations from a mean sum
    up to zero, which is multiplied all the same: by a NaN it is one.
    """
    node = build.defined.get(x)
    pieces = node.inputs if node is not None and node.op == "cat" else (x,)
    terms = [_terms(build, piece) for piece in pieces]
    scales = [[scale for scale, _ in found if scale is not None] for found in terms]
    if not scales[0] or any(found != scales[0] for found in scales):
        return None
    plain = [[v for scale, v in found if scale is None] for found in terms]
    if len({bool(found) for found in plain}) > 1:
        return None
    total = build.const(0)
    if plain[0]:
        total = build.sum(build.cat([reduce(partial(build.binary, "add"), found) for found in plain]))
    for number, scale in enumerate(scales[0]):
        row = build.cat([[v for s, v in found if s is not None][number] for found in terms])
        total = build.binary("add", total, build.binary("mul", scale, scaled(build, row, scale)))
    return total


def scaled(build: Builder, x: int, scale: int) -> int:
    """The sum of a row that a number multiplies: none for deviations of which that number was made.

    Another's number would be no NaN where the row has one.
    """
    known = _made_of_sum(build, scale) and _deviates(build, x) and _depends(build, scale, x)
    return build.const(0) if known else build.sum(x)


def _terms(build: Builder, x: int) -> list[tuple[int | None, int]]:
    """A row as a sum of rows, each with the number made of a sum that it is multiplied by, or None."""
    node = build.defined.get(x)
    if node is not None and node.op == "add" and all(build.widths[v] == node.width > 1 for v in node.inputs):
        return [term for v in node.inputs for term in _terms(build, v)]
    if node is not None and node.op == "mul" and node.width > 1:
        for scale, other in (node.inputs, node.inputs[::-1]):
            if build.widths[scale] == 1 and _made_of_sum(build, scale):
                return [(scale, other)]
    return [(None, x)]


def _made_of_sum(build: Builder, x: int) -> bool:
    """Whether a number was computed from the sum of a row."""
    seen: set[int] = set()
    stack = [x]
    while stack:
        value = stack.pop()
        node = build.defined.get(value)
        if node is None or value in seen or node.width > 1:
            continue
        if node.op == "sum":
            return True
        seen.add(value)
        stack += node.inputs
    return False


def _depends(build: Builder, x: int, on: int) -> bool:
    """Whether a value was computed from another."""
    seen: set[int] = set()
    stack = [x]
    while stack:
        value = stack.pop()
        if value == on:
            return True
        if value not in seen and value in build.defined:
            seen.add(value)
            stack += build.defined[value].inputs
    return False


def _deviates(build: Builder, x: int) -> bool:
    """Whether a row is what another's columns are above its mean."""
    node = build.defined.get(x)
    mean = build.defined.get(node.inputs[1]) if node is not None and node.op == "sub" else None
    if node is None or mean is None or mean.op not in ("mul", "div"):
        return False
    factor = next((n for n in map(build.number, mean.inputs) if n is not None), None)
    totals = [build.defined[v] for v in mean.inputs if v in build.defined]
    return factor == (1 / node.width if mean.op == "mul" else node.width) and any(
        total.op == "sum" and total.inputs == node.inputs[:1] for total in totals
    )
