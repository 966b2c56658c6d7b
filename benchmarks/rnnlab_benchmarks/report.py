"""What a run of the benchmark leaves: a table, JSON rows and a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnnlab_benchmarks.cases import MODES, NEVER_BELOW, PEAK_SHAPES, PEAK_SHARE, TARGETS, Mode
from rnnlab_benchmarks.measure import geometric_mean
from rnnlab_benchmarks.runner import OURS, Measured


@dataclass(frozen=True)
class Verdict:
    """One target, and what was measured of it."""

    what: str
    target: str
    measured: str
    met: bool


def table(results: Sequence[Measured]) -> Table:
    """Times and ratios of every case; a peer that is faster than ours is marked."""
    peers = [p for p in _peers(results) if p != OURS]
    view = Table(title="Milliseconds (median), and how many times as long a peer takes", title_justify="left")
    view.add_column("cell, mode, T x B x I x H", no_wrap=True)
    view.add_column(OURS, justify="right")
    view.add_column("% of peak", justify="right")
    for peer in peers:
        view.add_column(peer, justify="right", no_wrap=True)
    for m in results:
        ours = m.times_ms.get(OURS)
        view.add_row(
            str(m.case).replace("/", " "),
            Text("WRONG" if OURS in m.wrong else "-", "bold red") if ours is None else f"{ours:.3f}",
            _percent(m.share_of_peak),
            *(_peer_cell(m, peer) for peer in peers),
            end_section=m is results[-1] or results[results.index(m) + 1].case.cell != m.case.cell,
        )
    return view


def _peer_cell(m: Measured, peer: str) -> Text:
    time_ms = m.times_ms.get(peer)
    if time_ms is None:
        return Text("wrong" if peer in m.wrong else "-", "red" if peer in m.wrong else "dim")
    ratio = m.ratios.get(peer)
    if ratio is None:
        return Text(f"{time_ms:.3f}")
    loss = ratio < 1
    return Text(f"{time_ms:.3f}  {ratio:6.2f}x{' LOSS' if loss else ''}", "bold red" if loss else "")


def verdicts(results: Sequence[Measured]) -> list[Verdict]:
    """Every target of `cases.py` of which something was measured."""
    found: list[Verdict] = []
    for target in TARGETS:
        for cell in target.cells:
            ratios = _ratios(results, cell, target.mode, target.peer)
            if ratios:
                mean = geometric_mean(ratios)
                what = f"{cell} {target.mode} against {target.peer}, geometric mean of {len(ratios)}"
                found.append(Verdict(what, f">= {target.ratio:.1f}", f"{mean:.2f}", mean >= target.ratio))
    for mode in MODES:
        against = [(m.ratios["aten"], m) for m in results if m.case.mode == mode and "aten" in m.ratios]
        if against:
            ratio, m = min(against, key=lambda pair: pair[0])
            what = f"any cell {mode} against aten, on any single shape"
            measured = f"{ratio:.2f} ({m.case})"
            found.append(Verdict(what, f">= {NEVER_BELOW}", measured, ratio >= NEVER_BELOW))
    shares = [(m.share_of_peak, m) for m in results if m.case.shape in PEAK_SHAPES]
    known = [(share, m) for share, m in shares if share is not None]
    if known:
        share, m = min(known, key=lambda pair: pair[0])
        what = f"share of peak at {PEAK_SHAPES[0]} and above"
        found.append(Verdict(what, f">= {PEAK_SHARE:.0%}", f"{share:.0%} ({m.case})", share >= PEAK_SHARE))
    kept = [
        (m.saved_bytes[OURS] / m.saved_bytes["aten"], m)
        for m in results
        if OURS in m.saved_bytes and m.saved_bytes.get("aten")
    ]
    if kept:
        ratio, m = max(kept, key=lambda pair: pair[0])
        what = "bytes kept for backward over those of aten, at worst"
        found.append(Verdict(what, "<= 1.00", f"{ratio:.2f} ({m.case})", ratio <= 1))
    return found


def verdict_table(found: Sequence[Verdict]) -> Table:
    """The targets, one a line."""
    view = Table(title="Targets", title_justify="left")
    for column in ("what", "target", "measured", ""):
        view.add_column(column)
    for v in found:
        view.add_row(
            v.what, v.target, v.measured, Text("met", "green") if v.met else Text("MISSED", "bold red")
        )
    return view


def saved_table(results: Sequence[Measured]) -> Table:
    """Bytes kept for backward, by saved-tensor hooks, parameters and inputs not counted."""
    peers = _peers([m for m in results if m.saved_bytes])
    view = Table(title="Megabytes kept for backward", title_justify="left")
    view.add_column("cell, T x B x I x H", no_wrap=True)
    for peer in peers:
        view.add_column(peer, justify="right")
    for m in results:
        if m.saved_bytes:
            values = [m.saved_bytes.get(peer) for peer in peers]
            shown = ["-" if v is None else f"{v / 1e6:.3g}" for v in values]
            view.add_row(f"{m.case.cell} {m.case.shape}", *shown)
    return view


def write_json(path: Path, results: Sequence[Measured], summary: dict[str, Any]) -> Path:
    """Write the rows to `path`, and what belongs to no single row beside it, as `*.summary.json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join("  " + json.dumps(m.row()) for m in results)
    path.write_text(f"[\n{rows}\n]\n")
    beside = path.with_suffix(".summary.json")
    beside.write_text(json.dumps(summary, indent=2) + "\n")
    return beside


def write_png(path: Path, results: Sequence[Measured], title: str) -> None:
    """Draw the ratios of every case, inference on the left, training on the right."""
    from matplotlib.figure import Figure

    peers = [p for p in _peers(results) if p != OURS and any(p in m.ratios for m in results)]
    names = list(dict.fromkeys(f"{m.case.cell}  {m.case.shape}" for m in results))
    figure = Figure(figsize=(13, 1.6 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
    for axis, mode in zip(axes, MODES, strict=True):
        rows = {f"{m.case.cell}  {m.case.shape}": m for m in results if m.case.mode == mode}
        for number, peer in enumerate(peers):
            points = [
                (rows[n].ratios[peer], y) for y, n in enumerate(names) if n in rows and peer in rows[n].ratios
            ]
            if points:
                x, y = zip(*points, strict=True)
                marker, colour = "osD^v"[number % 5], f"C{number}"
                axis.plot(x, y, marker, color=colour, label=f"{peer} / {OURS}", markersize=6, alpha=0.85)
        axis.axvline(1, color="black", linewidth=1)
        axis.axvspan(1e-3, 1, color="red", alpha=0.06)
        axis.set_xscale("log")
        every = [r for m in rows.values() for r in m.ratios.values()] or [1.0]
        low, high = min([0.8, *every]) * 0.85, max([2.0, *every]) * 1.2
        axis.set_xlim(low, high)
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200) if low <= t <= high]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.grid(axis="both", alpha=0.25)
        axis.set_title("inference" if mode == "inference" else "training step")
        axis.set_xlabel("times as fast as the peer (log); shaded: slower")
    axes[0].set_yticks(range(len(names)), names, family="monospace", fontsize=8)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def show(console: Console, results: Sequence[Measured]) -> None:
    """Print what was measured, and which targets are met."""
    console.print(table(results))
    if any(m.saved_bytes for m in results):
        console.print(saved_table(results))
    for name, reason in {(k, v) for m in results for k, v in m.refused.items()}:
        console.print(f"{name} was left out: {reason}", style="dim", markup=False)
    for m in results:
        for name, reason in m.wrong.items():
            console.print(f"{m.case}: {name} is wrong: {reason}", style="bold red", markup=False)


def _peers(results: Sequence[Measured]) -> list[str]:
    order = [OURS, "aten", "eager", "scan", "jax"]
    found = {name for m in results for name in (*m.times_ms, *m.wrong)}
    return [name for name in order if name in found]


def _ratios(results: Sequence[Measured], cell: str, mode: Mode, peer: str) -> list[float]:
    return [
        m.ratios[peer] for m in results if (m.case.cell, m.case.mode) == (cell, mode) and peer in m.ratios
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
