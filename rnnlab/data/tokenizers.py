"""From text to tokens: words by one regular expression, or characters."""

from __future__ import annotations

import re
from collections.abc import Callable

# A contraction gives two tokens, "does" and "n't", so that the negation is shared by all verbs.
_WORD = re.compile(r"\w+(?=n't)|n't|'\w+|\w+|[^\w\s]")


def word_tokens(text: str) -> list[str]:
    """Words, parts of contractions (`does`, `n't`), and single punctuation marks."""
    return _WORD.findall(text.replace("\u2019", "'"))


def char_tokens(text: str) -> list[str]:
    """The characters of the text."""
    return list(text)


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"word": word_tokens, "char": char_tokens}


def get_tokenizer(name: str, *, lowercase: bool = True) -> Callable[[str], list[str]]:
    """Return the tokenizer of this name.

    Args:
        name: `"word"` or `"char"`.
        lowercase: fold the text to lower case first.

    Raises:
        ValueError: no tokenizer has this name.
    """
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer {name!r} is not known; choose from {', '.join(map(repr, TOKENIZERS))}")
    split = TOKENIZERS[name]
    return (lambda text: split(text.lower())) if lowercase else split
