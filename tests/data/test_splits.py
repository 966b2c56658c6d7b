import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.splits import (
    Split,
    assign_split,
    check_fractions,
    complete_splits,
    fraction,
    split_indices,
    text_key,
)


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


def complete(parts: dict[Split, list[str]], validation: float = 0.1, test: float = 0.2):
    return complete_splits(
        parts,
        lambda train: train,
        lambda train, rows: [train[row] for row in rows],
        validation=validation,
        test=test,
        origin="here",
    )


def test_the_splits_of_a_source_never_change() -> None:
    """Rows that the published results rest on."""
    rows = split_indices([f"file {n}" for n in range(40)], validation=0.1, test=0.2)
    assert rows["test"] == [9, 11, 17, 22, 24, 29, 39]
    assert rows["validation"] == [2, 15, 37]
    assert sorted([*rows["test"], *rows["validation"], *rows["train"]]) == list(range(40))
    names = [f"file {n}" for n in range(40)]
    assert complete({"train": names, "test": []}) == {
        split: [names[row] for row in chosen] for split, chosen in rows.items()
    }


def test_a_split_that_the_source_has_is_left_alone_and_the_others_are_taken_from_training() -> None:
    names = [f"file {n}" for n in range(40)]
    rows = split_indices(names, validation=0.1, test=0.0)
    found = complete({"train": names, "test": ["own"]})
    assert found["test"] == ["own"]
    assert found["validation"] == [names[row] for row in rows["validation"]]
    assert found["train"] == [names[row] for row in rows["train"]]
    whole: dict[Split, list[str]] = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    assert complete(whole) == whole


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"test": ["a"]}, "here: no example falls into the train split .of 0 to share out; "),
        ({"train": [""]}, "no example falls into the validation split .of 1 to share out; validation=0.1"),
    ],
)
def test_a_split_without_examples_is_refused(parts: dict[Split, list[str]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        complete(parts)


def test_copies_that_differ_in_case_space_or_punctuation_share_a_key() -> None:
    assert text_key("A  warm, funny film!") == text_key("a warm funny film")
    assert text_key("...") == "..."


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.1), (0.1, 1.0)])
def test_impossible_fractions_are_refused(validation: float, test: float) -> None:
    with pytest.raises(ValueError, match=f"got validation={validation}, test={test}"):
        check_fractions(validation, test)
