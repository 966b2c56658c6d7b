"""The command `export`."""

import argparse
import sys

from rnnlab.experiments.commands import make_parser, split_settings

EXPORT = """\
Write a checkpoint's model for programs that have no rnnlab, and hold it to ours on batches of other sizes.

settings:
  checkpoint=PATH     a checkpoint, or the folder of a run (its best checkpoint); required
  format=onnx         onnx | torch (a program of torch.export) | safetensors (weights, and what rebuilds them)
  output=FILE         by default the checkpoint's name in the working folder: best.onnx, best.pt2, ...

examples:
  rnnlab export checkpoint=runs/sentiment/20250101-120000-x1y2
  rnnlab export checkpoint=best.ckpt format=torch output=sentiment.pt2
  rnnlab export checkpoint=best.ckpt format=safetensors
  rnnlab predict checkpoint=best.safetensors "a warm, funny, engaging film"
"""


def main(argv: list[str]) -> int:
    """`rnnlab export`."""
    parser = make_parser("export", EXPORT)
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(argv)
    own, _ = split_settings(options.settings, ("checkpoint", "format", "output"), ())
    if "checkpoint" not in own:
        raise ValueError("checkpoint=PATH is required: a checkpoint, or the folder of a run")

    from rnnlab.export.write import export

    made = export(own["checkpoint"], own.get("format", "onnx"), own.get("output"))  # type: ignore[arg-type]
    print(f"{made.file}: {made.file.stat().st_size / 2**20:.1f} MiB")
    if made.description is not None:
        print(f"{made.description}: inputs, outputs, and what their numbers mean")
    if made.difference is not None:
        print(f"agrees with rnnlab to {made.difference:.1e} of its outputs, on batches of other sizes")
    for note in made.notes:
        print(f"rnnlab: {note}", file=sys.stderr)
    return 0
