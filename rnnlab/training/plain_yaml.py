"""Configuration files that are data and nothing else, and no larger than they look."""

from pathlib import Path
from typing import Any

import yaml

# Of a configuration file, and of what its anchors stand for.
LARGEST_BYTES = 16 * 2**20
MOST_VALUES = 1_000_000


def check_yaml(file: Path) -> None:
    """Refuse a file whose anchors would fill the memory, or that is nested too deeply to be read.

    Raises:
        ValueError: the file's name and the reason.
    """
    if file.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{file}: larger than a configuration can be ({LARGEST_BYTES >> 20} MiB)")
    try:
        text = file.read_text(encoding="utf-8")
        # Without an alias a file holds no more than it shows; its nesting shows when it is read.
        if "*" not in text and _depth(text) < 100:
            return
        values = _count(yaml.compose(text, Loader=yaml.SafeLoader), {})
    except RecursionError:
        raise ValueError(f"{file}: nested too deeply, or an anchor holds itself") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        return  # told, with its line, where the file is read
    if values > MOST_VALUES:
        raise ValueError(f"{file}: its anchors stand for more than {MOST_VALUES:,} values")


def _count(node: Any, known: dict[int, int]) -> int:
    """Values of a tree in which every alias is a copy."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise RecursionError
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(item, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(key, known) + _count(value, known) for key, value in node.value)
    known[id(node)] = total
    return total


def _depth(text: str) -> int:
    """An upper bound of the nesting: brackets that are open at once, and the widest indent."""
    widest = max((len(line) - len(line.lstrip(" ")) for line in text.splitlines()), default=0)
    return max(text.count("["), text.count("{"), widest // 2)
