"""Decoding, held to the sum over every path."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.nn.ctc import beam_search, best_path, collapse


def brute_force(log_probabilities: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], float]:
    """The probability of each labelling: the sum over all its paths, one by one."""
    steps, symbols = log_probabilities.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(symbols), repeat=steps):
        probability = math.exp(sum(float(log_probabilities[t, symbol]) for t, symbol in enumerate(path)))
        merged = [symbol for symbol, _ in itertools.groupby(path)]
        labelling = tuple(symbol for symbol in merged if symbol != blank)
        found[labelling] = found.get(labelling, 0.0) + probability
    return found


@given(
    steps=st.integers(1, 5),
    symbols=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    blank=st.integers(0, 2),
)
def test_a_wide_beam_is_exact(steps: int, symbols: int, seed: int, spread: float, blank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(steps, symbols, generator=generator, dtype=torch.float64)
    blank = min(blank, symbols - 1)
    log_probabilities = scores.log_softmax(1)
    expected = brute_force(log_probabilities, blank)
    found = beam_search(log_probabilities, width=10**6, blank=blank)
    assert {tuple(labelling) for labelling, _ in found} >= set(expected)
    for labelling, score in found:
        assert math.exp(score) == pytest.approx(expected.get(tuple(labelling), 0.0), abs=1e-12)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert sum(math.exp(score) for _, score in found) == pytest.approx(1.0)


def test_its_probabilities_are_those_of_the_loss() -> None:
    torch.manual_seed(1)
    log_probabilities = torch.randn(7, 4, dtype=torch.float64).log_softmax(1)
    for labelling, score in beam_search(log_probabilities, width=10**6)[:50]:
        loss = F.ctc_loss(
            log_probabilities.unsqueeze(1),
            torch.tensor([labelling], dtype=torch.int64),
            torch.tensor([7]),
            torch.tensor([len(labelling)]),
            reduction="sum",
        )
        assert -score == pytest.approx(float(loss))


def test_the_most_probable_labelling_need_not_have_the_most_probable_path() -> None:
    """Two steps, blank 0.6 and `a` 0.4: the path of blanks has 0.36, but `a` has three paths with 0.64."""
    log_probabilities = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert best_path(log_probabilities) == []
    (best, score), *_ = beam_search(log_probabilities, width=2)
    assert best == [1]
    assert math.exp(score) == pytest.approx(0.64)


def test_the_probability_of_nothing_else_than_zero_is_no_fault() -> None:
    certain = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).log()
    assert beam_search(certain, width=1) == [([1, 1], 0.0)]


def test_repetitions_are_merged_before_blanks_are_removed() -> None:
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]
    assert collapse([]) == []
    with pytest.raises(ValueError, match="width of a beam is at least 1; got 0"):
        beam_search(torch.zeros(1, 2), width=0)
