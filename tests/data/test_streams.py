"""Streams and windows: every token once, in order, and in the same order after an interruption."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.batching import SequenceLoader
from rnnlab.data.streams import NO_TARGET, TokenStreams, WindowSampler

OPENING = 2


def windows(streams, length):
    return [streams[window] for window in WindowSampler(len(streams), length)]


@given(count=st.integers(1, 200), streams=st.integers(1, 8), length=st.integers(1, 40), whole=st.booleans())
def test_windows_side_by_side_are_the_text(count, streams, length, whole):
    tokens = torch.arange(3, 3 + count, dtype=torch.int32)
    if count < streams:
        with pytest.raises(ValueError, match="at least as many tokens"):
            TokenStreams(tokens, streams, opening=OPENING, whole=whole)
        return
    batches = windows(TokenStreams(tokens, streams, opening=OPENING, whole=whole), length)
    assert [batch.first for batch in batches] == [True] + [False] * (len(batches) - 1)
    inputs = torch.cat([batch.inputs for batch in batches]).t().flatten()
    targets = torch.cat([batch.targets for batch in batches]).t().flatten()
    kept = targets[targets != NO_TARGET]
    expected = tokens.long() if whole else tokens[: count - count % streams].long()
    assert torch.equal(kept, expected)
    assert inputs[0] == OPENING
    assert torch.equal(inputs[1 : len(expected)], expected[:-1])


def test_replicas_share_the_streams():
    tokens = torch.arange(3, 103, dtype=torch.int32)
    whole = TokenStreams(tokens, 4, opening=OPENING)[0, 25]
    parts = [TokenStreams(tokens, 4, opening=OPENING, num_replicas=2, rank=rank)[0, 25] for rank in (0, 1)]
    assert torch.equal(torch.cat([part.inputs for part in parts], dim=1), whole.inputs)
    with pytest.raises(ValueError, match="shared evenly by 3"):
        TokenStreams(tokens, 4, opening=OPENING, num_replicas=3)


@given(steps=st.integers(1, 5000), length=st.integers(10, 200), seed=st.integers(0, 9))
def test_varied_windows_tile_the_stream_in_each_epoch(steps, length, seed):
    sampler = WindowSampler(steps, length, vary=True, seed=seed)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        assert [start for start, _ in drawn] == [0, *(stop for _, stop in drawn[:-1])]
        assert drawn[-1][1] == steps
        assert all(stop > start for start, stop in drawn)
        assert drawn == list(sampler)


def test_varied_windows_are_around_their_length_and_differ_between_epochs():
    sampler = WindowSampler(70 * 1000, 70, vary=True, seed=1)
    first = list(sampler)
    lengths = torch.tensor([stop - start for start, stop in first], dtype=torch.float)
    assert lengths.mean() == pytest.approx(0.975 * 70, rel=0.01)
    assert 0.03 < (lengths < 50).float().mean() < 0.07
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize("vary", [False, True])
def test_a_pass_goes_on_with_the_next_window_after_an_interruption(vary):
    streams = TokenStreams(torch.arange(1000, dtype=torch.int32), 4, opening=OPENING)

    def loader():
        return SequenceLoader(streams, WindowSampler(len(streams), 20, vary=vary, seed=3))

    before = loader()
    before._sampler.set_epoch(5)
    batches = []
    for position, batch in enumerate(before):
        batches.append(batch)
        if position == 3:
            state = before.state_dict()
    after = loader()
    after.load_state_dict(state)
    rest = list(after)
    assert len(rest) == len(batches) - 4
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(rest, batches[4:], strict=True))
    assert not any(batch.first for batch in rest)


@pytest.mark.parametrize(("length", "vary"), [(0, False), (9, True)])
def test_a_window_needs_steps(length, vary):
    with pytest.raises(ValueError, match="a window has at least"):
        WindowSampler(100, length, vary=vary)
