"""Beam search, against the greedy choice and against all sequences."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rnnlab.nn.beam_search import Hypotheses, beam_search

SYMBOLS, STOP = 3, 0


def tables(seed: int, rows: int, length: int) -> Tensor:
    """Scores `[rows, length, last symbol, next symbol]` of made-up models, one a row."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, length, SYMBOLS, SYMBOLS, generator=generator, dtype=torch.float64)


def search(table: Tensor, beam: int, penalty: float, length: int | None = None) -> Hypotheses:
    """The state holds each path's model and the step that it stands at."""
    rows, longest = table.shape[:2]

    def step(symbols: Tensor, state: tuple[Tensor, int]) -> tuple[Tensor, tuple[Tensor, int]]:
        model, n = state
        return table[model, n, symbols], (model, n + 1)

    return beam_search(
        step,
        (torch.arange(rows).repeat_interleave(beam), 0),
        lambda state, order: (state[0][order], state[1]),
        rows=rows,
        start=STOP,
        stop=STOP,
        beam=beam,
        length=length or longest,
        penalty=penalty,
    )


def log_probability(table: Tensor, sequence: tuple[int, ...]) -> float:
    last, total = STOP, 0.0
    for n, symbol in enumerate(sequence):
        total += table[n, last].log_softmax(0)[symbol].item()
        last = symbol
    return total


def all_sequences(length: int) -> list[tuple[int, ...]]:
    """Every sequence that ends by STOP within the length, and those that never end."""
    every = [(*body, STOP) for n in range(length) for body in product(range(1, SYMBOLS), repeat=n)]
    return every + list(product(range(1, SYMBOLS), repeat=length))


@given(seed=st.integers(0, 500), rows=st.integers(1, 3), length=st.integers(1, 5))
def test_a_beam_of_one_is_the_greedy_choice(seed: int, rows: int, length: int) -> None:
    table = tables(seed, rows, length)
    found = search(table, 1, 1.0)
    for row in range(rows):
        last, said = STOP, []
        for n in range(length):
            last = int(table[row, n, last].argmax())
            said.append(last)
            if last == STOP:
                break
        assert found.symbols[row, 0, : found.lengths[row, 0]].tolist() == said


@given(seed=st.integers(0, 500), length=st.integers(1, 4), penalty=st.sampled_from([0.0, 0.7, 1.0]))
def test_a_beam_of_all_sequences_finds_the_best(seed: int, length: int, penalty: float) -> None:
    table = tables(seed, 2, length)
    found = search(table, SYMBOLS**length, penalty)
    for row in range(2):
        ended = [s for s in all_sequences(length) if s[-1] == STOP]
        best = max(ended, key=lambda s: log_probability(table[row], s) / len(s) ** penalty)
        first = tuple(found.symbols[row, 0, : found.lengths[row, 0]].tolist())
        # Two sequences may be equally good as far as float32 tells.
        value = log_probability(table[row], best) / len(best) ** penalty
        assert first[-1] == STOP
        assert found.scores[row, 0].item() == pytest.approx(value, abs=1e-5)


@given(seed=st.integers(0, 500), rows=st.integers(1, 3), beam=st.integers(1, 5), length=st.integers(1, 5))
def test_what_is_said_of_a_hypothesis_is_true(seed: int, rows: int, beam: int, length: int) -> None:
    table = tables(seed, rows, length)
    found = search(table, beam, 0.5)
    for row, k in product(range(rows), range(beam)):
        total = found.log_probabilities[row, k].item()
        if total == float("-inf"):
            continue
        said = tuple(found.symbols[row, k, : found.lengths[row, k]].tolist())
        assert STOP not in said[:-1]
        assert (found.symbols[row, k, found.lengths[row, k] :] == STOP).all()
        assert total == pytest.approx(log_probability(table[row], said), abs=1e-4)
        assert found.scores[row, k].item() == pytest.approx(total / len(said) ** 0.5, abs=1e-4)


def test_rows_do_not_depend_on_each_other() -> None:
    table = tables(3, 4, 5)
    together = search(table, 3, 1.0)
    for row in range(4):
        alone = search(table[row : row + 1], 3, 1.0)
        length = int(alone.lengths[0, 0])
        assert together.lengths[row, 0] == length
        assert together.symbols[row, 0, :length].tolist() == alone.symbols[0, 0, :length].tolist()


def test_what_has_not_ended_comes_last() -> None:
    # The stop symbol is improbable, but not impossible: a path that ends is preferred to one that is cut.
    table = torch.zeros(1, 3, SYMBOLS, SYMBOLS)
    table[..., STOP] = -3.0
    found = search(table, 20, 0.0)
    ended = [found.symbols[0, k, found.lengths[0, k] - 1].item() == STOP for k in range(20)]
    real = found.log_probabilities[0] > -torch.inf
    assert ended[0]
    assert sorted(ended[: int(real.sum())], reverse=True) == ended[: int(real.sum())]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="beam and length are at least 1; got 0 and 2"):
        search(tables(0, 1, 2), 0, 1.0)
    with pytest.raises(ValueError, match="the length penalty is at least 0"):
        search(tables(0, 1, 2), 1, -1.0)
