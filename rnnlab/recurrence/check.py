"""`rnnlab check`: does a cell keep its side of the contract, and does every backend compute what it says?

Legend: `T` time, `B` batch, `I` input, `H` hidden.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from rich.table import Table
from rich.text import Text
from torch import nn

from rnnlab.recurrence.conformance import CHECKS, Failed, Skipped, Subject, contract, first_line, pure

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """One check of a cell: what was checked, how it went, and, if it failed, why and what to do."""

    name: str
    status: Status
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """What `check` found out about a cell."""

    cell: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    def __str__(self) -> str:
        lines = [f"{self.cell}: {len(self.failures)} of {len(self.results)} checks failed"]
        for result in self.results:
            lines.append(
                f"  {result.status:<8}{result.name}" + (f": {result.detail}" if result.detail else "")
            )
            if result.advice:
                lines.append(f"          {result.advice}")
        return "\n".join(lines)


def check(
    cell: str | nn.Module | Callable[..., nn.Module],
    input_size: int | None = None,
    hidden_size: int | None = None,
    *,
    done: Callable[[Result], object] = lambda result: None,
) -> Report:
    """Hold a cell to the contract, and every backend to the cell.

    What `torch.compile` has compiled in this process before is compiled anew when it is used again.

    Args:
        cell: a cell, or what makes one: a class, a factory or a name of `rnnlab.cells`.
        input_size: I; a cell's own `input_size`, or 3, where None.
        hidden_size: H, for a class or factory; 5 where None.
        done: called with each result as it comes.

    Returns:
        The report; its `ok` says whether nothing failed.

    Raises:
        TypeError: `cell` neither is nor makes an `nn.Module`.
    """
    built = build(cell, input_size, hidden_size)
    width = input_size or _size(built, "input_size") or 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subject = Subject(built, width)
        found: list[Result] = []
        for name, run, advice in CHECKS:
            result = _judge(name, partial(run, subject), advice)
            found.append(result)
            done(result)
            if result.status == "failed" and run is contract:
                break  # nothing else can be said of what is no cell
            if result.status == "failed" and run is pure:
                found.append(Result("all other checks", "skipped", "they take a step without side effects"))
                done(found[-1])
                break
    return Report(_describe(built), tuple(found))


def build(
    cell: str | nn.Module | Callable[..., nn.Module], input_size: int | None, hidden_size: int | None
) -> nn.Module:
    """The cell itself, or the one that a name, class or factory makes.

    Raises:
        TypeError: there is no `nn.Module` to be had.
    """
    if isinstance(cell, str):
        from rnnlab import cells

        cell = cells.find(cell)
    if not isinstance(cell, nn.Module):
        if not callable(cell):
            raise TypeError(f"cell must be an nn.Module, a class, a factory or a name, got {cell!r}")
        cell = cell(input_size or 3, hidden_size or 5)
    if not isinstance(cell, nn.Module):
        raise TypeError(f"the factory must make an nn.Module, got {type(cell).__name__}")
    return cell


def main(words: Sequence[str]) -> int:
    """`rnnlab check`; returns 0 if every cell passed, 1 if one failed, 2 if there was nothing to check."""
    from rich.console import Console

    from rnnlab.recurrence.locate import locate, settings

    parser = argparse.ArgumentParser(
        "rnnlab check",
        description="Hold a cell to the contract, and every backend to the cell.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cell", help="my_module:MyCell, path/to/file.py:MyCell, or a name of rnnlab.cells")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further arguments of the cell")
    parser.add_argument("--input-size", type=int, default=3, metavar="I")
    parser.add_argument("--hidden-size", type=int, default=5, metavar="H")
    options = parser.parse_args(words)
    console = Console(width=None if sys.stdout.isatty() else 130)
    try:
        factory = partial(locate(options.cell), **settings(options.settings))
        cell = build(factory, options.input_size, options.hidden_size)
    except (ValueError, TypeError) as error:
        print(f"rnnlab check: {error}", file=sys.stderr)
        return 2
    with console.status("") as status:
        report = check(
            cell, options.input_size, done=lambda result: status.update(f"{result.name}: {result.status}")
        )
    console.print(_table(report))
    if report.ok:
        console.print(f"[green]{type(cell).__name__} keeps the contract.[/]")
    return 0 if report.ok else 1


EPILOG = """\
  rnnlab check my_module:MyCell
  rnnlab check my_module:MyCell --hidden-size 8 heads=2
  rnnlab check lem

The exit status is 1 if a check fails."""


def _table(report: Report) -> Table:
    view = Table(title=report.cell, title_justify="left", show_lines=not report.ok)
    for column in ("check", "", "what was seen, and what to do"):
        view.add_column(column)
    colours = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    for result in report.results:
        said = Text(result.detail)
        if result.advice:
            said.append(f"\n{result.advice}", "italic")
        view.add_row(result.name, Text(result.status, colours[result.status]), said)
    return view


REPORT_IT = (
    "the reference passes: this is a fault of the backend, not of the cell; use backend='eager' and report "
    "it with the cell"
)


def _judge(name: str, run: Callable[[], str | None], advice: str) -> Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detail = run() or ""
    except Skipped as reason:
        return Result(name, "skipped", str(reason))
    except Failed as fault:
        return Result(name, "failed", str(fault), advice if fault.backend in (None, "eager") else REPORT_IT)
    except Exception as error:  # the cell's own fault, in whatever form
        return Result(name, "failed", first_line(error), advice)
    return Result(name, "passed", detail)


def _size(cell: nn.Module, name: str) -> int | None:
    size = getattr(cell, name, None)
    return size if isinstance(size, int) else None


def _describe(cell: nn.Module) -> str:
    text = repr(cell)
    return text if "\n" not in text else type(cell).__name__
