"""What is measured, and what is aimed at, as data. Legend: `T` time, `B` batch, `I` input, `H` hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal, NamedTuple

Mode = Literal["inference", "train"]


class Shape(NamedTuple):
    """The size of one layer's work."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


@dataclass(frozen=True)
class Case:
    """One cell, run over one sequence, with or without its backward."""

    cell: str
    mode: Mode
    shape: Shape
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.cell}/{self.mode}/{self.shape}"


@dataclass(frozen=True)
class Target:
    """The least geometric mean over the shapes of `peer`'s time over ours."""

    cells: tuple[str, ...]
    peer: str
    mode: Mode
    ratio: float


STANDARD = ("rnn", "gru", "lstm")
CUSTOM = ("peephole_lstm", "layer_norm_lstm", "gru_reset_before", "lem")
MODES: tuple[Mode, ...] = ("inference", "train")

SHAPES = (
    Shape(100, 32, 32, 32),
    Shape(100, 32, 128, 128),
    Shape(35, 20, 200, 200),
    Shape(100, 64, 256, 256),
    Shape(50, 64, 512, 512),
    Shape(784, 32, 1, 128),
    Shape(200, 1, 128, 128),
    Shape(128, 16, 300, 100),
)
QUICK_SHAPES = (Shape(12, 4, 8, 8), Shape(9, 3, 5, 20))
SCAN_SHAPES = (Shape(100, 32, 128, 128), QUICK_SHAPES[0])
"""Where `torch.compile(scan)` runs unless asked for: each cell and shape takes it some 25 s to compile."""

TARGETS = (
    Target(("rnn", "gru"), "aten", "train", 3.0),
    Target(("rnn", "gru"), "aten", "inference", 2.0),
    Target(("lstm",), "aten", "train", 1.3),
    Target(("lstm",), "aten", "inference", 1.1),
    Target(CUSTOM, "eager", "train", 8.0),
    Target(CUSTOM, "eager", "inference", 6.0),
    Target(CUSTOM, "scan", "train", 2.0),
    Target(CUSTOM, "scan", "inference", 1.5),
)
NEVER_BELOW = 0.95
"""The least ratio to `aten` on any single shape: never slower, with an allowance for noise."""
PEAK_SHARE = 0.6
"""The share of the measured peak to reach on the shapes of `PEAK_SHAPES`."""
PEAK_SHAPES = (Shape(100, 64, 256, 256), Shape(50, 64, 512, 512))


def cases(patterns: Sequence[str] = (), *, quick: bool = False) -> list[Case]:
    """The declared cases that match any of the patterns; all of them without a pattern.

    A pattern is matched against `cell/mode/TxBxIxH`, as a shell would, or as a leading part of it: `gru`,
    `lstm/train`, `*/train/100x32*`. A shape that is not declared is taken as it is: `gru/train/10x4x8x8`.

    Raises:
        ValueError: a pattern matches nothing.
    """
    shapes = QUICK_SHAPES if quick else SHAPES
    every = [Case(c, m, s) for c in (*STANDARD, *CUSTOM) for s in shapes for m in MODES]
    if not patterns:
        return every
    chosen: list[Case] = []
    for pattern in patterns:
        found = [case for case in every if _matches(str(case), pattern)] or _parse(pattern)
        if not found:
            raise ValueError(
                f"no case matches {pattern!r}: a case is cell/mode/TxBxIxH, such as {every[0]}, with cells "
                f"{', '.join((*STANDARD, *CUSTOM))} and modes {', '.join(MODES)}"
            )
        chosen += [case for case in found if case not in chosen]
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or name.startswith(pattern.rstrip("/") + "/")


def _parse(pattern: str) -> list[Case]:
    """A case of a shape, or a shipped cell, that is not declared; nothing if the pattern is no such case."""
    from rnnlab.cells import CELLS

    parts = pattern.split("/")
    sizes = parts[-1].split("x")
    if len(parts) != 3 or len(sizes) != 4 or not all(s.isdigit() and int(s) > 0 for s in sizes):
        return []
    shape = Shape(*map(int, sizes))
    return [Case(c, m, shape) for c in CELLS for m in MODES if fnmatch(c, parts[0]) and fnmatch(m, parts[1])]
