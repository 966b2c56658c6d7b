"""Splits that depend on each example alone, never on order, on time or on the other examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from hashlib import blake2b
from typing import Literal, TypeVar

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Part = TypeVar("Part", bound=Sized)
# What files, folders and hub data sets call them.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def fraction(key: str) -> float:
    """A number in [0, 1) that is fixed by the key: BLAKE2b's first 53 bits."""
    return (int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 11) / 2**53


def text_key(text: str) -> str:
    """The text's words in lower case: copies that differ in case, space or punctuation share it."""
    return " ".join(re.findall(r"\w+", text.lower())) or text


def assign_split(key: str, *, validation: float, test: float) -> Split:
    """Choose the split of an example by a hash of its key.

    The test split holds the keys whose `fraction` is below `test`, validation those below
    `test + validation`, training the rest. New examples never move old ones.
    """
    place = fraction(key)
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def check_fractions(validation: float, test: float) -> None:
    """Raise ValueError unless both fractions are at least 0 and leave something to train on."""
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(
            "the fractions of validation and test lie in [0, 1) and sum to less than 1; "
            f"got validation={validation}, test={test}"
        )


def split_indices(keys: Sequence[str], *, validation: float, test: float) -> dict[Split, list[int]]:
    """Positions of the keys by split, in the order in which they came."""
    check_fractions(validation, test)
    found: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for position, key in enumerate(keys):
        found[assign_split(key, validation=validation, test=test)].append(position)
    return found


def complete_splits(
    parts: Mapping[Split, Part],
    keys: Callable[[Part], Sequence[str]],
    take: Callable[[Part, Sequence[int]], Part],
    *,
    validation: float,
    test: float,
    origin: str,
    unit: str = "example",
    advice: str = "give more examples, a larger fraction, or folders named train, validation and test",
) -> dict[Split, Part]:
    """The three splits: a source's own, and what it lacks taken from its training examples by hash.

    Args:
        parts: the source's own splits; an empty one is lacking.
        keys: of training examples, those that a split depends on.
        take: the examples at some positions.
        validation, test: fractions of the training examples, where the source has no such split.
        origin: the source in words, for messages.
        unit: what an example is.
        advice: what would help.

    Raises:
        ValueError: a split has no example.
    """
    own = {split: part for split, part in parts.items() if len(part)}
    train = own.pop("train", None)
    rows = split_indices(
        [] if train is None else keys(train),
        validation=0.0 if "validation" in own else validation,
        test=0.0 if "test" in own else test,
    )
    found: dict[Split, Part] = {}
    for split in SPLITS:
        if split in own:
            found[split] = own[split]
        elif train is not None and rows[split]:
            found[split] = take(train, rows[split])
        else:
            raise ValueError(
                f"{origin}: no {unit} falls into the {split} split (of {len(train or ())} to share out; "
                f"validation={validation}, test={test}); {advice}"
            )
    return found
