"""From text to tokens and back: words by a regular expression or between spaces, or characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from rnnlab.data.vocabulary import EOS

# A contraction gives two tokens, "does" and "n't", so that the negation is shared by all verbs.
_WORD = re.compile(r"\w+(?=n't)|n't|'\w+|\w+|[^\w\s]")


def word_tokens(text: str) -> list[str]:
    """Words, parts of contractions (`does`, `n't`), and single punctuation marks."""
    return _WORD.findall(text.replace("\u2019", "'"))


def char_tokens(text: str) -> list[str]:
    """The characters of the text."""
    return list(text)


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "word": word_tokens,
    "char": char_tokens,
    "space": str.split,
}
# Punctuation that stands right behind a word, and that after which a word stands right behind.
_CLOSING = re.compile(r"n't|'\w+|[.,;:!?)\]}%…”]+")
_OPENING = frozenset("([{“")


def get_tokenizer(name: str, *, lowercase: bool = True) -> Callable[[str], list[str]]:
    """Return the tokenizer of this name.

    Args:
        name: `"word"`, `"char"`, or `"space"` for text that is tokenised already.
        lowercase: fold the text to lower case first.

    Raises:
        ValueError: no tokenizer has this name.
    """
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer {name!r} is not known; choose from {', '.join(map(repr, TOKENIZERS))}")
    split = TOKENIZERS[name]
    return (lambda text: split(text.lower())) if lowercase else split


class Joiner:
    """Tokens back to text, one at a time, as they are generated; `<eos>` becomes the end of a line.

    Words are spaced as in print, which need not be how the text was written; characters are exact.

    Args:
        name: of the tokenizer.
        before: the token that came before the first one, if any.
    """

    def __init__(self, name: str, before: str | None = None) -> None:
        self.name = name
        self.before = before

    def __call__(self, token: str) -> str:
        """What this token adds to the text."""
        before, self.before = self.before, token
        if token == EOS:
            return "\n"
        glued = self.name == "char" or before is None or before == EOS
        if self.name == "word" and before is not None:
            glued = glued or before in _OPENING or _CLOSING.fullmatch(token) is not None
        return token if glued else f" {token}"


def join_tokens(name: str, tokens: Iterable[str]) -> str:
    """The text of tokens of this tokenizer; see `Joiner`."""
    return "".join(map(Joiner(name), tokens))
