"""Commands as a user pastes them into a shell."""

import shlex
from collections.abc import Iterable


def shell_word(text: str) -> str:
    """A text as one word of a POSIX shell, and no harder to read than it must be.

    An apostrophe is put between double quotes where nothing in the text has a meaning there: "it's", which
    `shlex.quote` alone writes 'it'"'"'s'.
    """
    if "'" in text and not set('"$`\\!') & set(text):
        return f'"{text}"'
    return shlex.quote(text)


def shell_line(words: Iterable[str]) -> str:
    """A command, each of its words quoted once."""
    return " ".join(map(shell_word, words))
