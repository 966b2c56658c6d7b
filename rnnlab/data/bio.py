"""Spans of tokens as tags: `B-x` begins one of kind x, `I-x` goes on with it, `O` is outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_TAG = re.compile(r"O|[BI]-\S+")


class Span(NamedTuple):
    """Tokens `start` to `stop - 1`, which are of one kind."""

    start: int
    stop: int
    kind: str


def is_bio(tag: str) -> bool:
    """Whether a tag is `O`, `B-x` or `I-x`."""
    return _TAG.fullmatch(tag) is not None


def starts_alone(before: str, tag: str) -> bool:
    """Whether a tag is an `I-x` that goes on with nothing, the one before being `O` or of another kind."""
    return tag[0] == "I" and (before == "O" or before[2:] != tag[2:])


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a sentence's tags.

    An `I-x` that goes on with nothing begins a span, as in the evaluation of CoNLL-2000 and -2003.
    """
    found: list[Span] = []
    before = "O"
    for place, tag in enumerate(tags):
        if tag != "O":
            if tag[0] == "B" or starts_alone(before, tag):
                found.append(Span(place, place + 1, tag[2:]))
            else:
                found[-1] = found[-1]._replace(stop=place + 1)
        before = tag
    return found
