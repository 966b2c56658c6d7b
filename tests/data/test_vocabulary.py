import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data.vocabulary import PAD, UNK, Vocabulary

TEXTS = st.lists(st.lists(st.sampled_from([*"abcdefgh", PAD, UNK]), max_size=12), min_size=1, max_size=8)


def test_the_most_frequent_tokens_are_kept_and_ties_are_alphabetical() -> None:
    texts = [["b", "a", "c"], ["b", "a"], ["d"]]
    assert Vocabulary.build(texts).tokens == [PAD, UNK, "a", "b", "c", "d"]
    assert Vocabulary.build(texts, max_size=4).tokens == [PAD, UNK, "a", "b"]
    assert Vocabulary.build(texts, min_count=2, specials=["<eos>"]).tokens == [PAD, UNK, "<eos>", "a", "b"]


def test_unknown_tokens_become_unk() -> None:
    vocabulary = Vocabulary.build([["a", "b"]])
    assert vocabulary.encode(["a", "z", "b"]) == [2, 1, 3]
    assert vocabulary.decode([2, 1, 3]) == ["a", UNK, "b"]


@given(TEXTS, st.integers(1, 3), st.integers(3, 8))
def test_size_count_and_serialisation_hold_for_any_text(texts: list, min_count: int, max_size: int) -> None:
    counts = Counter(token for text in texts for token in text if token not in (PAD, UNK))
    if not any(n >= min_count for n in counts.values()):
        with pytest.raises(ValueError, match="no token occurs at least"):
            Vocabulary.build(texts, max_size=max_size, min_count=min_count)
        return
    vocabulary = Vocabulary.build(texts, max_size=max_size, min_count=min_count)
    assert len(vocabulary) <= max_size
    assert all(counts[token] >= min_count for token in vocabulary.tokens[2:])
    assert Vocabulary(json.loads(json.dumps(vocabulary.to_list()))) == vocabulary
    for text in texts:
        decoded = vocabulary.decode(vocabulary.encode(text))
        assert decoded == [token if token in vocabulary else UNK for token in text]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary(["a", "b"]), "begins with '<pad>', '<unk>'"),
        (lambda: Vocabulary([PAD, UNK, "a", "a"]), "'a' occurs more often"),
        (lambda: Vocabulary.build([["a"]], max_size=2), "at least 3"),
        (lambda: Vocabulary.build([["a"]], min_count=0), "min_count is at least 1; got 0"),
        (lambda: Vocabulary.build([["a"]], min_count=2), "lower min_count"),
    ],
)
def test_bad_vocabularies_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
