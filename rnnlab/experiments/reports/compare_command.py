"""`rnnlab compare`: runs side by side, in the terminal and as files."""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnlab.experiments.commands import is_setting, make_parser, split_settings
from rnnlab.experiments.reports.gather import number, text

if TYPE_CHECKING:
    from rnnlab.experiments.reports.compare import Comparison

# Below so many examples the percentiles of a bootstrap are too close together.
FEW = 30

HELP = """\
Put runs side by side: what differs in their configurations and in their measures. Where both kept what they
made of each test example (callbacks=predictions), a paired bootstrap says how sure a difference is.

settings:
  resamples=5000   of the bootstrap
  output=FILE      write it as .json or .csv
  all=true         show differences of versions and machines, and all metrics, not those of the test alone

examples:
  rnnlab compare runs/sentiment/20250101-120000-x1y2 runs/sentiment/20250101-130000-z3w4
  rnnlab compare sweeps/sentiment-1a2b3c/jobs/* output=differences.csv
"""


def main(argv: list[str]) -> int:
    """`rnnlab compare`."""
    parser = make_parser("compare", HELP)
    parser.usage = "rnnlab compare [options] RUN RUN ... [key=value ...]"
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    words = parser.parse_intermixed_args(argv).words
    folders = [word for word in words if not is_setting(word)]
    own, _ = split_settings([word for word in words if is_setting(word)], ("resamples", "output", "all"), ())
    resamples = own.get("resamples", "5000")
    if not resamples.isdigit() or not 100 <= int(resamples) <= 1_000_000:
        raise ValueError(f"resamples={resamples}: expected an int from 100 to 1,000,000")
    if own.get("all", "false") not in ("true", "false"):
        raise ValueError(f"all={own['all']}: expected true or false")
    output = Path(own["output"]).expanduser() if "output" in own else None
    if output is not None and output.suffix not in (".json", ".csv"):
        raise ValueError(f"output={output}: expected a file that ends in .json or .csv")

    from rnnlab.experiments.reports.compare import compare

    found = compare(folders, resamples=int(resamples))
    _print(found, own.get("all") == "true")
    if output is not None:
        if output.suffix == ".json":
            output.write_text(json.dumps(as_json(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        else:
            _write_csv(found, output)
        print(output)
    return 0


def as_json(found: Comparison) -> dict[str, Any]:
    """A comparison in JSON's own types."""
    names = [run.name for run in found.runs]

    def rows(table: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
        return {key: dict(zip(names, values, strict=True)) for key, values in table.items()}

    return {
        "runs": {run.name: str(run.folder) for run in found.runs},
        "config": _plain(rows(found.config)),
        "environment": _plain(rows(found.environment)),
        "metrics": {
            key: {name: _finite(value) for name, value in row.items()}
            for key, row in rows(found.metrics).items()
        },
        "paired_bootstrap": {
            metric: {
                name: {key: _finite(value) for key, value in asdict(result).items()}
                for name, result in by_run.items()
            }
            for metric, by_run in found.bootstraps.items()
        },
        "not_paired": found.refusals,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """A value of YAML in JSON's own types: dates, infinities and the like as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    known = (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )
    return value if known else str(value)


def _write_csv(found: Comparison, file: Path) -> None:
    """A row a key: its value in each run, the difference from the first run, and the bootstrap."""
    names = [run.name for run in found.runs]
    more = [f"{what} {name}" for name in names[1:] for what in ("difference", "low", "high", "p")]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kind", "key", *names, *more])
        for kind, table in (("config", found.config), ("environment", found.environment)):
            for key, values in table.items():
                writer.writerow([kind, key, *map(text, values)])
        for key, numbers in found.metrics.items():
            cells: list[Any] = []
            for name, value in zip(names[1:], numbers[1:], strict=True):
                result = found.bootstraps.get(key, {}).get(name)
                cells += [value - numbers[0]]
                cells += [result.low, result.high, result.p] if result else ["", "", ""]
            writer.writerow(["metric", key, *numbers, *cells])


def _repeats(key: str, rows: dict[str, list[Any]]) -> bool:
    """Whether a key says what a shorter one of the same end says: `model.cell.bias` after `cell.bias`."""
    parts = key.split(".")
    shorter = (".".join(parts[i:]) for i in range(1, len(parts)))
    return any(rows.get(other) == rows[key] for other in shorter)


def _print(found: Comparison, everything: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from rnnlab.training.console import make_console

    console = make_console()
    names = [run.name for run in found.runs]
    tables = [("configuration", found.config)]
    if everything:
        tables.append(("versions and machines", found.environment))
    for title, rows in tables:
        if not rows:
            console.print(f"{title}: no difference")
            continue
        table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 1))
        table.add_column(no_wrap=True)
        for name in names:
            table.add_column(Text(name), overflow="fold")
        told_once = {key: values for key, values in rows.items() if not _repeats(key, rows)}
        for key, values in told_once.items():
            table.add_row(Text(key), *(Text("-" if value is None else text(value)) for value in values))
        console.print(table)
        if repeated := len(rows) - len(told_once):
            console.print(f"{repeated} more keys repeat these where they are referred to", soft_wrap=True)
    if found.environment and not everything:
        some = ", ".join(list(found.environment)[:4]) + (" ..." if len(found.environment) > 4 else "")
        console.print(f"they also differ in {some}: all=true shows it", markup=False, soft_wrap=True)
    console.print()
    tested = {key: row for key, row in found.metrics.items() if key.startswith("test/")}
    shown = found.metrics if everything or not tested else tested
    if not shown:
        console.print("measures: the runs have logged none")
        return
    table = Table(title="measures", title_justify="left", title_style="bold", padding=(0, 1))
    table.add_column(no_wrap=True)
    for name in names:
        table.add_column(Text(name), overflow="fold", justify="right")
    for name in names[1:]:
        table.add_column(Text(f"{name} - first"), justify="right")
        if any(name in by_run for by_run in found.bootstraps.values()):
            table.add_column(Text("95 % of resamples"), justify="right")
            table.add_column("p", justify="right")
    for key, values in shown.items():
        cells = [key, *("-" if math.isnan(value) else number(value) for value in values)]
        for name, value in zip(names[1:], values[1:], strict=True):
            apart = value - values[0]
            cells.append("-" if math.isnan(apart) else f"{apart:+.4g}")
            if any(name in by_run for by_run in found.bootstraps.values()):
                result = found.bootstraps.get(key, {}).get(name)
                if result is None or math.isnan(result.p):
                    cells += ["", "" if result is None else "not finite"]
                else:
                    cells += [f"{result.low:+.4g} to {result.high:+.4g}", f"{result.p:.2g}"]
        table.add_row(*map(Text, cells))
    console.print(table)
    examples = {r.examples for by_run in found.bootstraps.values() for r in by_run.values()}
    if examples:
        few = "; so few that the range is too narrow and p too small" if max(examples) < FEW else ""
        console.print(f"paired bootstrap over {max(examples):,} test examples; p is two-sided{few}")
    if all(run.predictions is None for run in found.runs):
        told = "no run kept its predictions (callbacks=predictions keeps them): no paired bootstrap"
        console.print(told, soft_wrap=True)
        return
    for refusal in dict.fromkeys(found.refusals.values()):
        console.print(refusal, markup=False, soft_wrap=True)
