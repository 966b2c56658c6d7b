"""`rnnlab bench cpu`: our CPU kernels against torch.nn, the eager loop, torch.compile(scan) and JAX."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
A case is cell/mode/TxBxIxH. Patterns match as in a shell, or as a leading part:

  rnnlab bench cpu                                  everything, some five minutes
  rnnlab bench cpu --cases gru 'lstm/train/*'       all of GRU, and LSTM's training steps
  rnnlab bench cpu --cases 'mgu/*/100x32x64x64'     any shipped cell, any shape
  rnnlab bench cpu --peers fused eager scan --cases lem

Results are checked against float64 before anything is timed; what fails the check gets no figure, and the
exit status is 1.
"""


def main(words: Sequence[str]) -> int:
    """Run the benchmark; returns 0, 1 if a result of ours was wrong, or 2 for a refused argument."""
    parser = argparse.ArgumentParser(
        "rnnlab bench cpu",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cases", nargs="+", default=[], metavar="PATTERN", help="which cases; all without it"
    )
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="who: fused aten eager scan jax; all without it"
    )
    parser.add_argument("--scan", action="store_true", help="torch.compile(scan) on every shape: 25 s each")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds, no latencies")
    parser.add_argument("--threads", type=int, metavar="N", help="threads; as many as torch takes without it")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds of timing for each case (1.2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, and FILE's *.summary.json")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the ratios")
    options = parser.parse_args(words)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    return _run(parser, options)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    import torch
    from rich.console import Console

    from rnnlab_benchmarks import latency, measure, peak, report
    from rnnlab_benchmarks.cases import STANDARD, Shape, cases
    from rnnlab_benchmarks.runner import OURS, Measured, lengths_ratio, run
    from rnnlab_benchmarks.subjects import subjects

    console = Console(width=None if sys.stdout.isatty() else 130)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        chosen = cases(options.cases, quick=options.quick)
        who = subjects(options.peers)
    except ValueError as error:
        parser.error(str(error))
    machine = measure.host()
    title = f"{machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}"
    console.print(title)
    if os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1) + machine["threads"]:
        console.print(f"The machine is busy (load {os.getloadavg()[0]:.1f}): trust ratios before times.")
    highest = peak.find()
    peak_gflops = None if highest is None else peak.best(highest, 0.05 if options.quick else 0.5)
    if peak_gflops is not None:
        console.print(f"measured peak: {peak_gflops:.0f} GFLOP/s in float32 at its best moment")
    budget_s = options.budget or (0.05 if options.quick else 1.2)
    results: list[Measured] = []
    with console.status("") as status:
        for measured in run(
            chosen,
            who,
            budget_s=budget_s,
            scan_everywhere=options.scan,
            peak=highest,
            started=lambda case: status.update(f"{case}  ({len(results) + 1} of {len(chosen)})"),
        ):
            results.append(measured)
            if not console.is_terminal:  # a log shows how far it came
                shown = ", ".join(f"{name} {time_ms:.3f}" for name, time_ms in measured.times_ms.items())
                console.print(f"{measured.case}: {shown}", markup=False, highlight=False)
    report.show(console, results)
    summary: dict[str, Any] = {"machine": machine, "peak_gflops": peak_gflops}
    found = report.verdicts(results)
    whole = not options.cases and OURS in who and who[OURS].refusal(chosen[0]) is None
    if whole:
        with console.status("sequences of different lengths"):
            shape = Shape(12, 4, 8, 8) if options.quick else Shape(100, 64, 256, 256)
            summary["lengths"] = {cell: lengths_ratio(cell, shape, budget_s=budget_s) for cell in STANDARD}
        found += [
            report.Verdict(
                f"{cell} {mode}, lengths uniform over padded", "<= 0.60", f"{r[mode]:.2f}", r[mode] <= 0.6
            )
            for cell, r in summary["lengths"].items()
            for mode in ("inference", "train")
        ]
    if whole and not options.quick:
        with console.status("first calls in new processes"):
            summary["latency"] = latency.measure("lem", Shape(100, 32, 128, 128))
        found += latency.verdicts(summary["latency"])
    if found:
        console.print(report.verdict_table(found))
    summary["targets"] = [vars(v) for v in found]
    summary["cases"] = [
        {
            "case": str(m.case),
            "flops": m.flops,
            "peak_gflops": m.peak_gflops,
            "share_of_peak": m.share_of_peak,
            "saved_bytes": m.saved_bytes,
            "prepare_s": m.prepare_s,
            "wrong": m.wrong,
            "refused": m.refused,
        }
        for m in results
    ]
    if options.json:
        console.print(f"wrote {options.json} and {report.write_json(options.json, results, summary)}")
    if options.png:
        report.write_png(options.png, results, title)
        console.print(f"wrote {options.png}")
    return 1 if any(OURS in m.wrong for m in results) else 0
