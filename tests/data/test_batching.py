import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.batching import (
    LengthBucketSampler,
    SequenceBatch,
    SequenceLoader,
    TokenSequences,
    mixed_seed,
)

SEQUENCES = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9), min_size=1, max_size=40)


def rows_of(sampler: LengthBucketSampler) -> list[int]:
    return [row for batch in sampler for row in batch]


def random_lengths(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 60, (n,), generator=torch.Generator().manual_seed(seed))


@given(SEQUENCES, st.data())
def test_a_batch_holds_its_rows_and_zeros_after_them(sequences: list[list[int]], data) -> None:
    targets = torch.arange(len(sequences))
    rows = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=6))
    batch = TokenSequences(sequences, targets)[rows]
    assert batch.inputs.dtype == batch.lengths.dtype == torch.int64
    assert batch.inputs.shape == (max(len(sequences[row]) for row in rows), len(rows))
    assert batch.targets.tolist() == rows
    for place, row in enumerate(rows):
        length = len(sequences[row])
        assert batch.lengths[place] == length
        assert batch.inputs[:length, place].tolist() == sequences[row]
        assert not batch.inputs[length:, place].any()


def test_sequences_that_cannot_be_batched_are_refused() -> None:
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        TokenSequences([[1], []])
    with pytest.raises(ValueError, match="got 1 for 2 sequences"):
        TokenSequences([[1], [2]], torch.tensor([0]))


def test_lengths_stay_on_the_cpu_wherever_the_batch_goes() -> None:
    batch = SequenceBatch(torch.ones(3, 2), torch.tensor([3, 2]), torch.tensor([0, 1])).to("meta")
    assert batch.inputs.device.type == batch.targets.device.type == "meta"
    assert batch.lengths.device.type == "cpu"
    assert len(batch) == 2


@given(
    n=st.integers(1, 120),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    pool=st.integers(1, 5),
    replicas=st.integers(1, 4),
)
def test_each_row_comes_once_and_replicas_take_equal_shares(
    n: int, batch_size: int, shuffle: bool, pool: int, replicas: int
) -> None:
    lengths = random_lengths(n)
    samplers = [
        LengthBucketSampler(
            lengths, batch_size, shuffle=shuffle, pool_batches=pool, num_replicas=replicas, rank=rank
        )
        for rank in range(replicas)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert {len(mine) for mine in batches} == {len(samplers[0])}
    for together in zip(*batches, strict=True):
        assert len({len(batch) for batch in together}) == 1
        assert 0 < len(together[0]) <= batch_size
    rows = [row for mine in batches for batch in mine for row in batch]
    assert set(rows) == set(range(n))
    assert len(rows) - n < replicas


def test_drop_last_gives_whole_batches_alone() -> None:
    sampler = LengthBucketSampler(random_lengths(50), 8, drop_last=True)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    assert {len(batch) for batch in batches} == {8}
    assert len(set(rows_of(sampler))) == 48
    with pytest.raises(ValueError, match="drop_last leaves no batch: 5 rows"):
        LengthBucketSampler(random_lengths(5), 8, drop_last=True)


def test_seed_and_epoch_decide_the_order() -> None:
    lengths = random_lengths(200)
    first, second = (LengthBucketSampler(lengths, 8, seed=3) for _ in range(2))
    assert list(first) == list(second)
    assert list(first) == list(first)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert sorted(rows_of(first)) == sorted(rows_of(second))
    assert list(first) != list(LengthBucketSampler(lengths, 8, seed=4))
    # The sum of seed and epoch would repeat a run's second epoch as the next seed's first.
    assert mixed_seed(3, 1) != mixed_seed(4, 0)


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = random_lengths(2000)
    padded = sum(len(b) * int(lengths[b].max()) for b in LengthBucketSampler(lengths, 16))
    unsorted = sum(16 * int(chunk.max()) for chunk in lengths.split(16))
    assert padded < 1.1 * int(lengths.sum()) < unsorted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "at least 1; got 0"),
        ({"batch_size": 2, "rank": 1}, "rank lies in 0 to 0; got 1"),
        ({"batch_size": 2, "lengths": torch.zeros(0)}, "no rows"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LengthBucketSampler(**{"lengths": random_lengths(4), **options})


def make_loader(workers: int = 0) -> SequenceLoader:
    sequences = [[n + 1] * int(length) for n, length in enumerate(random_lengths(90))]
    rows = TokenSequences(sequences, torch.arange(90))
    return SequenceLoader(rows, LengthBucketSampler(rows.lengths, 8, seed=1), num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_continues_with_the_very_next_batch(workers: int) -> None:
    whole = make_loader()
    whole.sampler.set_epoch(2)
    expected = [batch.targets.tolist() for batch in whole]
    assert len(expected) == len(whole) == 12

    interrupted = make_loader(workers)
    interrupted.sampler.set_epoch(2)
    batches = iter(interrupted)
    given = [next(batches).targets.tolist() for _ in range(5)]
    state = interrupted.state_dict()
    assert state == {"epoch": 2, "position": 5}

    resumed = make_loader(workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.sampler.set_epoch(2)
    assert given + [batch.targets.tolist() for batch in resumed] == expected
    assert [batch.targets.tolist() for batch in resumed] == expected


def test_an_epoch_that_ended_is_not_skipped_in_the_next() -> None:
    loader = make_loader()
    loader.load_state_dict({"epoch": 0, "position": 12})
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 12


def test_a_pass_that_was_broken_off_starts_anew() -> None:
    loader = make_loader()
    next(iter(loader))
    assert len(list(loader)) == 12
