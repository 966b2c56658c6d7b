"""What is sampled: the distribution's cuts, the seed, the stop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.nn.generation import Sampling, generate

SCORES = torch.log(torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.7, 0.1, 0.1, 0.1]]))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.1, 0.4, 0.3, 0.2]),
        (Sampling(temperature=0.5), [1 / 30, 16 / 30, 9 / 30, 4 / 30]),
        (Sampling(top_k=2), [0, 4 / 7, 3 / 7, 0]),
        (Sampling(top_p=0.4), [0, 1, 0, 0]),
        (Sampling(top_p=0.5), [0, 4 / 7, 3 / 7, 0]),
        (Sampling(top_p=0.71), [0, 4 / 9, 3 / 9, 2 / 9]),
        (Sampling(top_k=3, top_p=0.5), [0, 4 / 7, 3 / 7, 0]),
        (Sampling(greedy=True), [0, 1, 0, 0]),
        (Sampling(forbidden=(1,)), [1 / 6, 0, 3 / 6, 2 / 6]),
        (Sampling(greedy=True, forbidden=(1, 2)), [0, 0, 0, 1]),
    ],
    ids=str,
)
def test_the_distribution_is_cut_and_sums_to_one(sampling, expected):
    torch.testing.assert_close(sampling.probabilities(SCORES)[0], torch.tensor(expected, dtype=torch.float32))


@given(
    scores=st.lists(st.floats(-20, 20), min_size=2, max_size=12),
    k=st.integers(1, 15),
    p=st.floats(0.01, 1.0),
)
def test_never_more_than_k_and_never_nothing(scores, k, p):
    found = Sampling(top_k=k, top_p=p).probabilities(torch.tensor([scores]))[0]
    assert 1 <= int((found > 0).sum()) <= k
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    given = torch.tensor(scores)
    dropped = [*given[found == 0].tolist(), -1000.0]
    assert given[found > 0].min() >= max(dropped) - 1e-5


def test_ties_leave_no_more_than_k():
    assert (Sampling(top_k=2).probabilities(torch.zeros(1, 6)) > 0).sum() == 2


def test_samples_follow_the_distribution_and_a_seed_repeats_them():
    many = SCORES[:1].expand(20000, -1)
    drawn = Sampling().chooser(seed=1)(many)
    shares = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(shares, SCORES[0].exp(), atol=0.02, rtol=0)
    assert torch.equal(drawn, Sampling().chooser(seed=1)(many))
    assert not torch.equal(drawn, Sampling().chooser(seed=2)(many))
    assert not torch.equal(Sampling().chooser()(many), Sampling().chooser()(many))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is above 0"),
        ({"temperature": float("nan")}, "temperature is above 0"),
        ({"top_k": 0}, "top_k is at least 1"),
        ({"top_p": 0.0}, r"top_p lies in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p lies in \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def counting(symbols, state):
    """A model that is certain that the next symbol is one more, modulo 5; its state counts the steps."""
    assert not torch.is_grad_enabled()
    return torch.nn.functional.one_hot((symbols + 1) % 5, 5) * 50.0, state + 1


def run(first, **options):
    scores = torch.nn.functional.one_hot(torch.tensor(first), 5) * 50.0
    return [s.tolist() for s in generate(counting, scores, 0, Sampling(greedy=True).chooser(), **options)]


def test_symbols_are_fed_back_up_to_the_length():
    assert run([0], length=7) == [[0], [1], [2], [3], [4], [0], [1]]


def test_rows_stop_on_their_own_and_all_together():
    assert run([0, 2], length=9, stop=3) == [[0, 2], [1, 3], [2, 3], [3, 3]]


def test_gradients_stay_as_they_were_between_symbols():
    for _ in generate(counting, torch.zeros(1, 5), 0, Sampling(greedy=True).chooser(), length=3):
        assert torch.is_grad_enabled()


def test_a_length_of_zero_is_refused():
    with pytest.raises(ValueError, match="length is at least 1"):
        run([0], length=0)
