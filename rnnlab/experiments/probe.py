"""`rnnlab probe`: the inside of a trained network, on held-out data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rnnlab.experiments.commands import SPLITS, make_parser, split_settings

if TYPE_CHECKING:
    from rnnlab.probes import Findings

PROBE = """\
Look inside a trained network, on held-out data: how far back the gradient of the loss reaches, how full the
gates are, how fast small errors grow, and how long the memory is; as a table, as numbers and as pictures.

settings:
  checkpoint=PATH     a checkpoint, or the folder of a run (its best checkpoint); required
  split=validation    validation | test
  batches=1           how many batches of it, spread over all of them
  output=DIR          where the pictures go; `probes` beside the checkpoint's run by default
  device=cpu          cpu | cuda | cuda:1 | mps
  json=true           print the numbers as JSON instead of a table
  data=..., data.KEY=...   as for `rnnlab train`: other data, or longer windows of the same

examples:
  rnnlab probe checkpoint=runs/sentiment/20250101-120000-x1y2
  rnnlab probe checkpoint=best.ckpt split=test batches=4 data.eval_batch_size=64
  rnnlab probe checkpoint=runs/char_lm/20250101-120000-x1y2 data.window=500
"""

COLUMNS = (
    "gradient,\na step back",
    "memory\nto 1/e",
    "memory\nto 1 %",
    "Lyapunov exponent,\nnats a step",
    "saturated\ngates",
)


def main(argv: list[str]) -> int:
    """`rnnlab probe`."""
    parser = make_parser("probe", PROBE)
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configuration files")
    parser.add_argument("settings", nargs="*", help="key=value")
    options = parser.parse_intermixed_args(argv)
    names = ("checkpoint", "split", "batches", "output", "device", "json")
    own, rest = split_settings(options.settings, names, ("data",))
    if "checkpoint" not in own:
        raise ValueError("checkpoint=PATH is required: a checkpoint, or the folder of a run")
    split = own.get("split", "validation")
    if split not in SPLITS:
        raise ValueError(f"split={split}: expected validation or test")
    if own.get("json", "false") not in ("true", "false"):
        raise ValueError(f"json={own['json']}: expected true or false")
    batches = own.get("batches", "1")
    if not batches.isdigit() or int(batches) == 0:
        raise ValueError(f"batches={batches}: expected an int of at least 1")
    findings = probe(
        own["checkpoint"],
        rest,
        split=SPLITS[split],
        batches=int(batches),
        device=own.get("device", "cpu"),
        config_dir=options.config_dir,
    )

    from rnnlab.training.probing import write_findings

    folder = Path(own["output"]).expanduser() if "output" in own else _beside(own["checkpoint"])
    written = write_findings(findings, folder)
    if own.get("json") == "true":
        print(json.dumps(findings.records()))
    else:
        _print(findings, written)
    return 0


def probe(
    checkpoint: str,
    overrides: Sequence[str] = (),
    *,
    split: Literal["test", "validation"] = "validation",
    batches: int = 1,
    device: str = "cpu",
    config_dir: str | None = None,
) -> Findings:
    """Look inside the network of a checkpoint, on one split of its data or of others.

    Args:
        checkpoint: a file, or the folder of a run.
        overrides: words that change `data`, such as `data.window=500`.
        split: `test` or `validation`.
        batches: how many of it.
        device: where the model runs.
        config_dir: the user's own configuration folder.

    Raises:
        ConfigError, FileNotFoundError, ValueError: see `evaluate`; or there is nothing to probe in the task.
    """
    from rnnlab.experiments.evaluate import configuration
    from rnnlab.training.checkpoint import find_checkpoint, read_checkpoint, task_of
    from rnnlab.training.predict import check_device
    from rnnlab.training.probing import held_out, probe_task
    from rnnlab.training.targets import build

    check_device(device)
    content = read_checkpoint(checkpoint)
    config = configuration(content, checkpoint, overrides, config_dir)
    task = task_of(content, find_checkpoint(checkpoint)).to(device)
    datamodule = build(config["data"])
    datamodule.adopt(content["rnnlab"]["facts"])
    datamodule.prepare_data()
    datamodule.setup("test" if split == "test" else "validate")
    loader = datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()
    with _named(checkpoint):
        return probe_task(task, held_out(loader, batches))


@contextlib.contextmanager
def _named(checkpoint: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"checkpoint={checkpoint}: {error}") from error


def _beside(checkpoint: str) -> Path:
    """The folder `probes` of the run that a checkpoint belongs to."""
    from rnnlab.training.checkpoint import find_checkpoint

    folder = find_checkpoint(checkpoint).parent
    return (folder.parent if folder.name == "checkpoints" else folder) / "probes"


def _print(findings: Findings, written: Sequence[Path]) -> None:
    from rich.table import Table
    from rich.text import Text

    from rnnlab.probes.findings import E_FOLD, PERCENT
    from rnnlab.training.console import make_console

    console = make_console()
    table = Table(title="inside the network", title_justify="left", title_style="bold", padding=(0, 1))
    table.add_column("layer", overflow="fold")
    table.add_column("cell", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for layer in findings.layers:
        saturated = layer.saturated
        cells = (
            layer.name,
            layer.cell,
            f"{layer.rate:.3f}" if layer.rate == layer.rate else "-",
            str(layer.memory(E_FOLD) or "-"),
            str(layer.memory(PERCENT) or "-"),
            "-" if layer.exponent is None else str(layer.exponent),
            "-" if saturated is None else f"{100 * saturated:.0f} %",
        )
        table.add_row(*map(Text, cells))
    console.print(table)
    for layer in findings.layers:
        for what, reason in layer.reasons.items():
            console.print(f"{layer.name}: {what} not measured: {reason}", markup=False, soft_wrap=True)
    for advice in findings.advice().values():
        console.print(f"\n{advice}", markup=False, soft_wrap=True)
    console.print()
    for file in written:
        console.print(str(file), markup=False, soft_wrap=True)
