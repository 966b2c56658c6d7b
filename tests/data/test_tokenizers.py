import pytest

from rnnlab.data.tokenizers import get_tokenizer


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It doesn't work, alas!", ["it", "does", "n't", "work", ",", "alas", "!"]),
        ("We\u2019ve seen the film's end", ["we", "'ve", "seen", "the", "film", "'s", "end"]),
        ("Amélie 2: a na\u00efve cliché", ["amélie", "2", ":", "a", "naïve", "cliché"]),
        (" \t", []),
    ],
)
def test_words(text: str, tokens: list[str]) -> None:
    assert get_tokenizer("word")(text) == tokens


def test_characters_keep_case_when_asked() -> None:
    assert get_tokenizer("char", lowercase=False)("Ab c") == ["A", "b", " ", "c"]


def test_an_unknown_tokenizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'bpe' is not known; choose from 'word', 'char'"):
        get_tokenizer("bpe")
