"""Decoding of connectionist temporal classification: from probabilities a step to a labelling.

A path gives each step a symbol or the blank; its labelling is what is left when repetitions are merged and
blanks removed. A labelling's probability is the sum over its paths. Source: Graves et al. 2006,
"Connectionist Temporal Classification".

Legend: `T` steps, `V` symbols with the blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

_NEVER = -math.inf


def collapse(path: Sequence[int], blank: int = 0) -> list[int]:
    """The labelling of a path: repetitions merged, then blanks removed."""
    kept = [symbol for step, symbol in enumerate(path) if step == 0 or symbol != path[step - 1]]
    return [symbol for symbol in kept if symbol != blank]


def best_path(log_probabilities: Tensor, blank: int = 0) -> list[int]:
    """The labelling of the most probable path, which need not be the most probable labelling.

    Args:
        log_probabilities: `[T, V]`.
        blank: number of the blank.
    """
    return collapse(log_probabilities.argmax(1).tolist(), blank)


def beam_search(log_probabilities: Tensor, width: int = 8, blank: int = 0) -> list[tuple[list[int], float]]:
    """The most probable labellings, found among those that begin most probably at every step.

    Each beginning `l` carries the probability of its paths that end in a blank, `b`, and of those that end in
    its last symbol `e`, `n`. With `y` the probabilities of the next step:

        b'(l)   = (b(l) + n(l)) y(blank)
        n'(l)   = n(l) y(e)                                          and, where `l` was `k` extended by `e`,
        n'(ke) += (b(k) + [e is not the last of k] n(k)) y(e)

    Only the `width` most probable beginnings go on. With `width` at least as large as their number the result
    is exact.

    Args:
        log_probabilities: `[T, V]`.
        width: beginnings that are kept.
        blank: number of the blank.

    Returns:
        Labellings with the logarithm of their probability, the most probable first.

    Raises:
        ValueError: a width below 1.

    Source: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using
    Bi-Directional Recurrent DNNs", algorithm 1, without a language model.
    """
    if width < 1:
        raise ValueError(f"the width of a beam is at least 1; got {width}")
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NEVER)}
    for step in log_probabilities.tolist():
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for labelling, (ends_blank, ends_symbol) in beam.items():
            whole = _sum(ends_blank, ends_symbol)
            _add(found, labelling, whole + step[blank], _NEVER)
            if labelling:
                _add(found, labelling, _NEVER, ends_symbol + step[labelling[-1]])
            for symbol, value in enumerate(step):
                if symbol != blank:
                    before = ends_blank if labelling and labelling[-1] == symbol else whole
                    _add(found, (*labelling, symbol), _NEVER, before + value)
        # Ties fall in the order of the labellings, so that the result does not depend on insertion.
        kept = sorted(found.items(), key=lambda item: (-_sum(*item[1]), item[0]))[:width]
        beam = dict(kept)
    return [(list(labelling), _sum(*ends)) for labelling, ends in beam.items()]


def _add(
    found: dict[tuple[int, ...], tuple[float, float]],
    labelling: tuple[int, ...],
    ends_blank: float,
    ends_symbol: float,
) -> None:
    before = found.get(labelling, (_NEVER, _NEVER))
    found[labelling] = (_sum(before[0], ends_blank), _sum(before[1], ends_symbol))


def _sum(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
