"""What is shown to be pasted comes out of a shell as it went in."""

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.training.shell import shell_line, shell_word


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_words_come_out_as_they_went_in(words: list[str]) -> None:
    assert shlex.split(shell_line(words)) == words


def test_a_shell_reads_them_so_too() -> None:
    words = ["'kay", "it's a $5 `film`", 'he said "no"', "back\\slash's", "wow! it's", "", "a=b c", "~", "*"]
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {shell_line(words)}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == words


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("'kay", '"\'kay"'),
        ("a fine film", "'a fine film'"),
        ("runs/a/b-1", "runs/a/b-1"),
        ("checkpoint=my runs/a", "'checkpoint=my runs/a'"),
        ("don't go!", "'don'\"'\"'t go!'"),  # between double quotes an interactive bash would take the mark
    ],
)
def test_they_are_quoted_once_and_only_where_they_must_be(text: str, word: str) -> None:
    assert shell_word(text) == word
