"""Splits that depend on each example alone, never on order, on time or on the other examples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
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
