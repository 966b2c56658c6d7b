"""The most probable sequence, looked for on several paths at once.

Legend: `B` rows, `K` hypotheses of a row, `T` symbols, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Hypotheses(NamedTuple):
    """What a search found, best first.

    Attributes:
        symbols: `[B, K, T]`, filled with the stop symbol past each length.
        lengths: `[B, K]`, the stop symbol counted in.
        log_probabilities: `[B, K]`, in nats; minus infinity where there are fewer than K sequences.
        scores: `[B, K]`, the log-probabilities normalised by length.
    """

    symbols: Tensor
    lengths: Tensor
    log_probabilities: Tensor
    scores: Tensor


def beam_search(
    step: Callable[[Tensor, Any], tuple[Tensor, Any]],
    state: Any,
    choose_rows: Callable[[Any, Tensor], Any],
    *,
    rows: int,
    start: int,
    stop: int,
    beam: int,
    length: int,
    penalty: float = 1.0,
    forbidden: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Hypotheses:
    """Search from left to right, keeping the K most probable beginnings of each row.

        score = log p(y_1 .. y_n) / n ** penalty

    What has ended stays in the beam as it is. A row is searched until nothing that is still open can beat its
    best finished sequence, so that stopping early never changes the first result. A beam of 1 is the greedy
    choice; one of all sequences finds the best.

    Args:
        step: symbols `[B*K]` and a state to scores `[B*K, V]` (before the softmax) and the new state.
        state: before the first symbol, with `B*K` rows, the K of a row side by side.
        choose_rows: the rows `[B*K]` of a state, in that order.
        rows: B.
        start: the symbol that is fed first.
        stop: the symbol that ends a sequence.
        beam: K.
        length: most symbols, `stop` counted in; sequences that have not ended by then come last.
        penalty: of length: 0 favours short sequences, 1 is the mean log-probability of a symbol.
        forbidden: symbols that are never chosen.
        device: of the states.

    Raises:
        ValueError: a beam or length below 1, or a negative penalty.

    Source of the normalisation: Cho et al. 2014, "On the Properties of Neural Machine Translation".
    """
    if beam < 1 or length < 1:
        raise ValueError(f"beam and length are at least 1; got {beam} and {length}")
    if penalty < 0:
        raise ValueError(f"the length penalty is at least 0; got {penalty}")
    first = torch.arange(rows, device=device).unsqueeze(1) * beam
    # The K beginnings are one and the same at first: only one of them may go on.
    total = torch.full((rows, beam), -torch.inf, device=device)
    total[:, 0] = 0.0
    symbols = torch.empty(rows, beam, 0, dtype=torch.long, device=device)
    lengths = torch.zeros(rows, beam, dtype=torch.long, device=device)
    ended = torch.zeros(rows, beam, dtype=torch.bool, device=device)
    last = torch.full((rows * beam,), start, dtype=torch.long, device=device)
    for n in range(1, length + 1):
        scores, state = step(last, state)
        scores = scores.float()
        if forbidden:
            scores = scores.index_fill(1, torch.tensor(list(forbidden), device=device), -torch.inf)
        each = scores.log_softmax(1).view(rows, beam, -1)
        size = each.shape[2]
        halt = torch.full((size,), -torch.inf, device=device)
        halt[stop] = 0.0
        each = torch.where(ended.unsqueeze(2), halt, each)
        total, place = (total.unsqueeze(2) + each).flatten(1).topk(beam, dim=1)
        parent, symbol = place // size, place % size
        open_before = ~ended.gather(1, parent)
        symbols = symbols.gather(1, parent.unsqueeze(2).expand(-1, -1, n - 1))
        symbols = torch.cat([symbols, symbol.unsqueeze(2)], dim=2)
        lengths = lengths.gather(1, parent) + open_before
        ended = ~open_before | (symbol == stop)
        if n == length or _settled(total, lengths, ended, length, penalty):
            break
        state = choose_rows(state, (first + parent).flatten())
        last = symbol.flatten()
    normalised = total / lengths.to(total.dtype) ** penalty
    order = torch.where(ended, normalised, -torch.inf).sort(dim=1, descending=True, stable=True)[1]
    if not ended.all():
        # Among those that have not ended the better comes first as well.
        by_score = normalised.sort(dim=1, descending=True, stable=True)[1]
        order = by_score.gather(1, (~ended).gather(1, by_score).long().sort(dim=1, stable=True)[1])
    return Hypotheses(
        symbols.gather(1, order.unsqueeze(2).expand_as(symbols)),
        lengths.gather(1, order),
        total.gather(1, order),
        normalised.gather(1, order),
    )


def _settled(total: Tensor, lengths: Tensor, ended: Tensor, length: int, penalty: float) -> bool:
    """Whether in every row the best finished sequence beats whatever an open one can still become."""
    finished = (total / lengths.to(total.dtype) ** penalty).masked_fill(~ended, -torch.inf).amax(1)
    # A log-probability only falls, and is divided by no more than the longest length.
    hoped = (total / length**penalty).masked_fill(ended, -torch.inf).amax(1)
    return bool((finished >= hoped).all())
