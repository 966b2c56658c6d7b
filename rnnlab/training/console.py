"""What a run says on screen: tables that read well in a terminal and in a log file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.nn.parameter import is_lazy

LOG_WIDTH = 110


def make_console(quiet: bool = False) -> Console:
    """Standard output; as wide as the terminal, or of a fixed width in a file."""
    console = Console(quiet=quiet, highlight=False)
    return console if console.is_terminal else Console(quiet=quiet, highlight=False, width=LOG_WIDTH)


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, shared ones once; those of a layer not yet shaped are left out."""
    return sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter))


def layer_rows(module: nn.Module, depth: int = 3) -> list[tuple[str, str, int]]:
    """`(name, kind, parameters)` of the modules that hold parameters, in order, down to `depth`.

    A module with a single part that holds everything is not shown beside its part.
    """
    rows: list[tuple[str, str, int]] = []

    def visit(parent: nn.Module, prefix: str, level: int) -> None:
        for name, child in parent.named_children():
            if (count := count_parameters(child)) == 0:
                continue
            full = f"{prefix}{name}"
            inner = [part for part in child.children() if count_parameters(part)]
            rows.append((full, type(child).__name__, count))
            if level < depth and (len(inner) > 1 or (inner and count_parameters(inner[0]) < count)):
                visit(child, f"{full}.", level + 1)

    visit(module, "", 1)
    return rows


def print_layers(module: nn.Module, console: Console) -> None:
    """A table of layers with parameter counts."""
    table = Table(title="model", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("layer")
    table.add_column("kind")
    table.add_column("parameters", justify="right")
    for name, kind, count in layer_rows(module):
        level = name.count(".")
        style = "dim" if level else ""
        table.add_row("  " * level + name.rpartition(".")[2], kind, f"{count:,}", style=style)
    table.add_section()
    table.add_row("all", type(module).__name__, f"{count_parameters(module):,}", style="bold")
    console.print(table)


def print_facts(rows: Iterable[tuple[str, Any]], console: Console) -> None:
    """Two columns without a frame: what is being done, and with what."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(key, Text(str(value)))
    console.print(table)


def print_metrics(metrics: Mapping[str, float], title: str, console: Console | None = None) -> None:
    """A table of results, names without their split."""
    console = console or make_console()
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("measure")
    table.add_column("value", justify="right")
    for key, value in metrics.items():
        table.add_row(key.partition("/")[2] or key, f"{value:.4f}")
    console.print(table)


def print_records(
    records: Sequence[Mapping[str, Any]],
    title: str | None = None,
    console: Console | None = None,
    longest: int | None = None,
) -> None:
    """Records as a table, one column a key; long texts fold, mappings show their largest entries.

    What is longer than `longest` characters loses its middle.
    """
    if not records:
        return
    console = console or make_console()
    table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 1))
    keys = list(dict.fromkeys(key for record in records for key in record))
    for key in keys:
        numbers = all(isinstance(record.get(key), int | float) for record in records)
        table.add_column(key, justify="right" if numbers else "left", overflow="fold")
    for record in records:
        table.add_row(*(Text(_cut(_cell(record.get(key)), longest)) for key in keys))
    console.print(table)


def plain_text(value: Any) -> str:
    """A value of a summary in one line; mappings within mappings in brackets."""
    if isinstance(value, Mapping):
        parts = [
            f"{key} ({plain_text(item)})" if isinstance(item, Mapping) else f"{key} {plain_text(item)}"
            for key, item in value.items()
        ]
        return ", ".join(parts) if parts else "nothing"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cut(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3]} … {text[len(text) - longest // 3 :]}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        items = list(value.items())
        if value and all(isinstance(item, int | float) for item in value.values()):
            items = sorted(items, key=lambda pair: -pair[1])[:3]
        return ", ".join(f"{key} {_cell(item)}" for key, item in items)
    if isinstance(value, list | tuple):
        return " ".join(_cell(item) for item in value)
    return "" if value is None else str(value)
