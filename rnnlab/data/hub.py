"""Data sets of the Hugging Face hub as tables by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.data.readers import Column
from rnnlab.data.splits import SPLIT_NAMES, Split

HUB_PREFIX = "hf:"


def hub_tables(
    source: str, columns: Sequence[Column], options: Mapping[str, Any] | None = None
) -> tuple[dict[Split, Any], Counter[str]]:
    """Load a data set by name.

    Args:
        source: `hf:NAME`.
        columns: names of columns that each split must have.
        options: further arguments of `datasets.load_dataset`.

    Returns:
        A `datasets.Dataset` for each split that it has (all is "train" where it has none), and how many rows
        of splits of other names were left out, by reason.

    Raises:
        ValueError: `datasets` is not installed or cannot load it, or a column is missing.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{source} needs the package `datasets`: pip install 'rnnlab[hf]'") from None
    try:
        loaded = datasets.load_dataset(source.removeprefix(HUB_PREFIX), **dict(options or {}))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{source}: `datasets` could not load it ({error})") from error
    every = {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    tables: dict[Split, Any] = {}
    left_out: Counter[str] = Counter()
    for name, table in every.items():
        if name not in SPLIT_NAMES:
            left_out[f"split {name}"] += len(table)
            continue
        for column in columns:
            if column not in table.column_names:
                raise ValueError(
                    f"{source}, split {name}: no column {column!r}; the columns are "
                    f"{', '.join(map(repr, table.column_names))}"
                )
        if (split := SPLIT_NAMES[name]) in tables:
            raise ValueError(f"{source}: two of its splits ({', '.join(every)}) are the {split} split")
        tables[split] = table
    return tables, left_out
