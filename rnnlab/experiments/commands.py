"""The commands `train`, `eval` and `predict`: words in, an exit status out.

Help is answered from the configuration files; torch is imported when there is work to do.
"""

import argparse
import contextlib
import difflib
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from rnnlab.experiments import groups
from rnnlab.training.importing import quick_imports

TRAIN = """\
Train a model, keep its best checkpoint, test it, and show what it says of held-out examples.

Settings are words `key=value`: a group chooses a file, a dotted key sets one value.

{groups}

examples:
  rnnlab train                                          a two-layer LSTM on movie reviews
  rnnlab train cell=gru model.num_layers=3 model.bidirectional=true
  rnnlab train model.hidden_size='[32,16]' optim.lr=0.003 seed=2
  rnnlab train data=texts data.source=reviews.csv       your own texts
  rnnlab train debug=fast_dev_run                       one batch of everything
  rnnlab train resume=runs/sentiment/20250101-120000-x1y2   go on, exactly where the run was stopped
  rnnlab train resume=latest trainer.max_epochs=8       the last run, to a later end
  rnnlab train run_dir=runs/mine resume=auto            go on if the run is there, else begin it
  rnnlab train --config-dir my_configs experiment=mine  your own files win over shipped ones
  rnnlab train cell=gru --print-config                  show the configuration and stop
"""

EVAL = """\
Measure a checkpoint on the held-out data that it was trained beside, or on other data.

settings:
  checkpoint=PATH     a checkpoint, or the folder of a run (its best checkpoint); required
  split=test          test | validation | all; by default all of a single file that data.source names
  output=FILE         write the measures as JSON
  data=..., data.KEY=..., trainer=..., trainer.KEY=...   as for `rnnlab train`

examples:
  rnnlab eval checkpoint=runs/sentiment/20250101-120000-x1y2
  rnnlab eval checkpoint=best.ckpt data=texts data.source=mine.csv output=measures.json
"""

PREDICT = """\
Say what a checkpoint makes of new inputs, given as words, in a file, or on standard input.

settings:
  checkpoint=PATH     a checkpoint, or the folder of a run (its best checkpoint); required
  file=PATH           one input a line; `-` reads standard input
  output=PATH         write JSON lines there instead of a table here
  json=true           print JSON lines instead of a table
  device=cpu          cpu | cuda | cuda:1 | mps
  batch_size=256      inputs at a time
  picture=FILE.png    draw where the model looked at the first input, for a model with attention

examples:
  rnnlab predict checkpoint=runs/sentiment/20250101-120000-x1y2 "a warm, funny, engaging film"
  rnnlab predict checkpoint=best.ckpt file=reviews.txt output=predictions.jsonl
  cat reviews.txt | rnnlab predict checkpoint=best.ckpt file=- json=true
  rnnlab predict checkpoint=best.ckpt -- "x=y is a text too, after two dashes"
"""


SPLITS: dict[str, Literal["test", "validation"]] = {"test": "test", "validation": "validation"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see `{self.prog} --help`")


def make_parser(command: str, text: str) -> argparse.ArgumentParser:
    """The parser of a command: its help, and errors that are ours."""
    parser = _Parser(
        prog=f"rnnlab {command}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.usage = f"rnnlab {command} [options] [key=value ...]"
    parser.add_argument("--debug", action="store_true", help="full trace of an error (or RNNLAB_DEBUG=1)")
    return parser


def train(argv: list[str]) -> int:
    """`rnnlab train`; with `-m`, `rnnlab sweep`."""
    if many := {"-m", "--multirun"}.intersection(argv):
        from rnnlab.experiments.sweeps.command import main as sweep

        return sweep([word for word in argv if word not in many])
    wants_help = any(word in ("-h", "--help") for word in argv)
    parser = make_parser("train", "")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configuration files")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    if wants_help:
        known, _ = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
        parser.description = TRAIN.format(groups=_groups_table("train", known.config_dir))
        parser.print_help()
        return 0
    options = parser.parse_intermixed_args(argv)
    resume, words = _take(options.settings, "resume")

    from rnnlab.experiments.compose import compose

    if resume is None or resume == "auto":
        config = compose(words, config_dir=options.config_dir).config
    else:
        config = _config_of_run(resume, words)
    if options.print_config:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    with quick_imports():
        from rnnlab.training.run import train as run

    with _plain_warnings():
        return run(config, resume=resume, overrides=words, console=True).exit_status


def _take(words: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of the setting `name`, and the other words."""
    values = [word.partition("=")[2] for word in words if word.partition("=")[0] == name]
    if "" in values:
        raise ValueError(f"{name}=: expected the folder of a run, latest, or auto")
    return (values[-1] if values else None), [word for word in words if word.partition("=")[0] != name]


def _config_of_run(resume: str, words: Sequence[str]) -> Any:
    """The configuration of a run that goes on, with single values set anew."""
    from omegaconf import OmegaConf

    from rnnlab.experiments.compose import parse_values, prove
    from rnnlab.training.continuation import find_run, stored_config

    values = parse_values(words)
    output_dir = [str(value.value()) for value in values if value.key_or_group == "output_dir"]
    folder = find_run(resume, *output_dir[-1:])
    return prove(OmegaConf.create(stored_config(folder)), values)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Say of a damaged checkpoint what there is to say, without a line of code."""
    from rnnlab.training.storage import DamagedCheckpointWarning

    with warnings.catch_warnings():
        show = warnings.showwarning

        def plain(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, DamagedCheckpointWarning):
                print(f"rnnlab: warning: {message}", file=sys.stderr)
            else:
                show(message, category, *rest, **more)

        warnings.showwarning = plain
        yield


def evaluate(argv: list[str]) -> int:
    """`rnnlab eval`."""
    parser = make_parser("eval", EVAL)
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configuration files")
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(argv)
    own, rest = split_settings(options.settings, ("checkpoint", "split", "output"), ("data", "trainer"))
    if "checkpoint" not in own:
        raise ValueError("checkpoint=PATH is required: a checkpoint, or the folder of a run")
    split = own.get("split")
    if split is not None and split != "all" and split not in SPLITS:
        raise ValueError(f"split={split}: expected test, validation or all")

    with quick_imports():
        from rnnlab.experiments.evaluate import evaluate as run
        from rnnlab.training.console import print_metrics

    chosen: Literal["test", "validation", "all"] | None = "all" if split == "all" else SPLITS.get(split or "")
    metrics = run(own["checkpoint"], rest, split=chosen, config_dir=options.config_dir)
    print_metrics(metrics, title=split or "test")
    if "output" in own:
        Path(own["output"]).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return 0


def predict(argv: list[str]) -> int:
    """`rnnlab predict`."""
    parser = make_parser("predict", PREDICT)
    parser.add_argument("inputs", nargs="*", help=argparse.SUPPRESS)
    end = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_intermixed_args(argv[:end])
    names = ("checkpoint", "file", "output", "json", "device", "batch_size", "picture")
    words = [word for word in options.inputs if not is_setting(word)] + argv[end + 1 :]
    own, _ = split_settings([word for word in options.inputs if is_setting(word)], names, ())
    if "checkpoint" not in own:
        raise ValueError("checkpoint=PATH is required: a checkpoint, or the folder of a run")
    if own.get("json", "false") not in ("true", "false"):
        raise ValueError(f"json={own['json']}: expected true or false")
    batch_size = own.get("batch_size", "256")
    if not batch_size.isdigit() or int(batch_size) == 0:
        raise ValueError(f"batch_size={batch_size}: expected an int of at least 1")
    inputs = words + (read_lines(own["file"]) if "file" in own else [])
    if not inputs:
        raise ValueError('nothing to predict: give inputs as words ("a fine film") or as file=PATH')

    with quick_imports():
        from rnnlab.training.console import print_records
        from rnnlab.training.predict import predict_records

    records = predict_records(
        own["checkpoint"],
        inputs,
        device=own.get("device", "cpu"),
        batch_size=int(batch_size),
        picture=own.get("picture"),
    )
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    if "output" in own:
        Path(own["output"]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{len(lines)} predictions in {own['output']}")
    elif own.get("json") == "true":
        print("\n".join(lines))
    else:
        print_records(records)
    return 0


def is_setting(word: str) -> bool:
    """Whether a word of `predict` is `key=value`; a text is taken for one only if it starts like one."""
    key, equals, _ = word.partition("=")
    return bool(equals) and key.replace("_", "a").replace(".", "a").isalnum() and key.isascii()


def split_settings(
    words: Sequence[str], own: Sequence[str], groups_taken: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The settings of the command itself, and those that are passed on; every unknown one is told."""
    from rnnlab.training.shell import shell_word
    from rnnlab.training.validate import ConfigError

    found: list[str] = []
    settings: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        head = key.lstrip("+~").split(".")[0].split("@")[0]
        if equals and key in own:
            settings[key] = value
        elif equals and head in groups_taken:
            rest.append(word)
        else:
            near = difflib.get_close_matches(key, [*own, *groups_taken], n=1)
            hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join([*own, *groups_taken])
            if not equals and "checkpoint" in own and "checkpoint" not in settings:
                hint = f"did you mean {shell_word(f'checkpoint={word}')}?"
            found.append(f"{word}: there is no such setting here; {hint}")
    if found:
        raise ConfigError(found)
    return settings, rest


def read_lines(path: str) -> list[str]:
    """The lines of a text file, without empty ones; `-` is standard input."""
    raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 (byte {raw[error.start]:#04x}); convert it first"
        ) from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"file={path}: no inputs in it; expected one a line")
    return lines


def _groups_table(command: str, config_dir: str | None) -> str:
    """Groups, their options (the default first) and the settings outside any group."""
    folders = groups.search_path(config_dir)
    primary = groups.primary_file(folders, command)
    chosen = groups.default_choices(primary)
    lines = ["groups (the first is the default):"]
    known = groups.read_groups(folders)
    for name in sorted(known, key=lambda name: _order(name, chosen)):
        default = chosen.get(name)
        rest = sorted(option for option in known[name] if option != default)
        first = [default] if default else ["(none)"]
        lines += _wrapped(f"  {name}=", first + rest)
    lines.append("\nother settings:")
    plain: dict[str, Any] = {k: v for k, v in groups.read_yaml(primary).items() if k != "defaults"}
    lines += [f"  {key}={'null' if value is None else json.dumps(value)}" for key, value in plain.items()]
    lines.append("\nEvery key of the files can be set; `--print-config` shows them all.")
    return "\n".join(lines)


def _order(name: str, chosen: dict[str, Any]) -> int:
    return list(chosen).index(name) if name in chosen else len(chosen)


def _wrapped(head: str, options: Sequence[str], width: int = 100) -> list[str]:
    lines, line = [], f"{head:<15}"
    for index, option in enumerate(options):
        piece = option + (" | " if index + 1 < len(options) else "")
        if len(line) + len(piece) > width:
            lines.append(line.rstrip())
            line = " " * 15
        line += piece
    return [*lines, line]
