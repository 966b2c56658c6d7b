import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.splits import assign_split, check_fractions, fraction, split_indices, text_key


def test_the_split_of_a_text_never_changes() -> None:
    """The values that the published results rest on."""
    assert [round(fraction(key), 6) for key in ("", "a", "a warm funny film")] == [
        0.893168,
        0.253794,
        0.782597,
    ]
    assert assign_split("a", validation=0.1, test=0.1) == "train"


@given(st.lists(st.text(max_size=8), max_size=30), st.randoms())
def test_a_split_depends_on_the_text_alone(keys: list[str], random) -> None:
    def by_key(order: list[str]) -> dict[str, set[str]]:
        found = split_indices(order, validation=0.3, test=0.3)
        assert sorted(row for rows in found.values() for row in rows) == list(range(len(order)))
        return {split: {order[row] for row in rows} for split, rows in found.items()}

    shuffled = random.sample(keys, len(keys))
    assert by_key(keys) == by_key(shuffled)
    sets = list(by_key(keys).values())
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_the_fractions_are_met_on_many_keys() -> None:
    found = split_indices([str(n) for n in range(20000)], validation=0.1, test=0.2)
    # Three standard deviations of a binomial count.
    assert abs(len(found["test"]) - 4000) < 170
    assert abs(len(found["validation"]) - 2000) < 130


def test_copies_that_differ_in_case_space_or_punctuation_share_a_key() -> None:
    assert text_key("A  warm, funny film!") == text_key("a warm funny film")
    assert text_key("...") == "..."


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0)])
def test_impossible_fractions_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match=f"got validation={validation}, test={test}"):
        check_fractions(validation, test)
