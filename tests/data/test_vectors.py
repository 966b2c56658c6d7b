import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.vectors import VectorSequences


@given(st.lists(st.integers(1, 7), min_size=1, max_size=9), st.integers(1, 3), st.data())
def test_a_batch_holds_its_rows_and_zeros(lengths: list[int], features: int, data: st.DataObject) -> None:
    sequences = [torch.randn(length, features) for length in lengths]
    dataset = VectorSequences(sequences, torch.arange(len(lengths)))
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=5))
    batch = dataset[rows]
    assert batch.inputs.is_contiguous() and batch.inputs.shape == (max(batch.lengths), len(rows), features)
    assert batch.targets.tolist() == rows
    for column, row in enumerate(rows):
        assert torch.equal(batch.inputs[: lengths[row], column], sequences[row])
        assert not batch.inputs[lengths[row] :, column].any()
        assert torch.equal(dataset.row(row), sequences[row])


def test_a_batch_does_not_write_into_the_data() -> None:
    dataset = VectorSequences([torch.ones(1, 2), torch.ones(3, 2)])
    assert dataset[[0, 1]].inputs.sum() == 8
    assert dataset.flat.sum() == 8


def test_what_is_no_set_of_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no sequence"):
        VectorSequences([])
    with pytest.raises(ValueError, match="without steps"):
        VectorSequences([torch.ones(0, 2)])
    with pytest.raises(ValueError, match="got 2 for 1"):
        VectorSequences([torch.ones(1, 2)], torch.zeros(2))
