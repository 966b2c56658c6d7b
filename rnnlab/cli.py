"""The one console script: `rnnlab COMMAND ...`.

A command is one line of `COMMANDS`; its function is imported when it is called, takes the words that follow
its name and returns an exit status. Nothing here imports torch, Lightning or Hydra.

Exit status: 0 done, 1 failed, 2 refused (the user's input), 130 interrupted.
"""

import contextlib
import difflib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from rnnlab.training.importing import quick_imports


@dataclass(frozen=True)
class Command:
    """A subcommand: its name, its line in the help, and the function `module:name` behind it."""

    name: str
    help: str
    function: str
    names_modules: bool = False  # its words name modules of the user's own

    def load(self) -> Callable[[list[str]], int]:
        module, _, name = self.function.partition(":")
        with quick_imports():
            function: Callable[[list[str]], int] = getattr(import_module(module), name)
        return function


# What a disk says that takes nothing more: full, over quota, read-only, larger than a file may be.
FULL_OR_LOCKED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

COMMANDS = (
    Command("train", "train a model and test it", "rnnlab.experiments.commands:train"),
    Command(
        "sweep", "train at many points, and go on where it stopped", "rnnlab.experiments.sweeps.command:main"
    ),
    Command("eval", "measure a checkpoint on held-out or new data", "rnnlab.experiments.commands:evaluate"),
    Command("predict", "what a checkpoint says of new inputs", "rnnlab.experiments.commands:predict"),
    Command(
        "compare",
        "how runs differ, and if by chance",
        "rnnlab.experiments.reports.compare_command:main",
    ),
    Command("report", "what came of a sweep: tables and a page", "rnnlab.experiments.reports.command:main"),
    Command("probe", "why it learns or not: gradients, gates, memory", "rnnlab.experiments.probe:main"),
    Command("explain", "how a cell is run, and why so", "rnnlab.recurrence.explain:main", True),
    Command("check", "hold a cell of yours to the contract", "rnnlab.recurrence.check:main", True),
    Command("doctor", "what this machine has, and what to install", "rnnlab.recurrence.doctor:main"),
    Command("sample", "write text with a language model", "rnnlab.experiments.text_commands:sample"),
    Command("score", "how probable a language model finds texts", "rnnlab.experiments.text_commands:score"),
    Command("export", "a model for programs without rnnlab", "rnnlab.export.command:main"),
    Command("experiments", "what can be trained by name", "rnnlab.experiments.listing:experiments"),
    Command(
        "kernels", "what the GPU kernels need, found without a GPU", "rnnlab_benchmarks.kernels:main", True
    ),
    Command("tune", "find the fastest kernels on this GPU", "rnnlab_benchmarks.tune:main", True),
    Command("bench", "measure speed on this machine", "rnnlab_benchmarks.cli:main", True),
    Command("completion", "print a completion script for bash, zsh or fish", "rnnlab.completion:main"),
)

USAGE = """\
usage: rnnlab COMMAND [settings]

{commands}

  rnnlab COMMAND --help   what a command takes, with examples
  rnnlab --version        the version

Start with `rnnlab train`: a deep LSTM on movie reviews, two minutes on two CPU cores."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rnnlab`; the words default to the process's own.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        from rnnlab import __version__

        print(f"rnnlab {__version__}")
        return 0
    name, rest = words[0], words[1:]
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        near = difflib.get_close_matches(name, [command.name for command in COMMANDS], n=1)
        hint = f"did you mean {near[0]}?" if near else "`rnnlab --help` lists the commands"
        return _refuse(f"there is no command {name!r}; {hint}")
    debug = bool(os.environ.get("RNNLAB_DEBUG"))
    if "--debug" in (rest[: rest.index("--")] if "--" in rest else rest):
        rest.remove("--debug")
        debug = True
    try:
        rest, trusted = _trusted(rest)
        if trusted or command.names_modules:
            _find_modules_here()
        with _allowing(trusted):
            return command.load()(rest)
    except SystemExit as stop:  # argparse: the message is already printed
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("\nrnnlab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        if is_users(error):
            told = str(error) or type(error).__name__
            if isinstance(error, OSError) and error.filename is not None:
                told = f"{error.filename}: {(error.strerror or told).lower()}"
            return _refuse(told, getattr(error, "faults", ()))
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"({os.path.basename(where.filename)}, line {where.lineno})"
        again = "" if debug else "; add --debug for the full trace"
        print(f"rnnlab: failed: {type(error).__name__}: {error} {place}{again}", file=sys.stderr)
        return 1


def _trusted(words: list[str]) -> tuple[list[str], list[str]]:
    """The words without `allow=MODULE`, and the modules."""
    end = words.index("--") if "--" in words else len(words)
    given = [word for word in words[:end] if word.startswith("allow=")]
    modules = [name for word in given for name in word.removeprefix("allow=").split(",")]
    return [word for word in words[:end] if word not in given] + words[end:], modules


def _allowing(modules: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Configurations and checkpoints may name these modules meanwhile."""
    if not modules:
        return contextlib.nullcontext()
    from rnnlab.training.trust import allowing

    return allowing(*modules)


def _find_modules_here() -> None:
    """Let modules of the working folder be found, after all others."""
    with contextlib.suppress(FileNotFoundError):  # the working folder may be gone
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())


def usage() -> str:
    """The text of `rnnlab --help`."""
    return USAGE.format(commands="\n".join(f"  {command.name:<12}{command.help}" for command in COMMANDS))


def is_users(error: BaseException) -> bool:
    """Whether an exception is about what the user gave, and not a fault of the program.

    Ours are a `ValueError` or `TypeError` raised by rnnlab itself, a file that cannot be read, and
    Lightning's word for a setting that this machine cannot serve.
    """
    if type(error).__name__ == "MisconfigurationException":
        return True
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return True
    if isinstance(error, OSError) and error.errno in FULL_OR_LOCKED and error.filename is not None:
        return True
    if not isinstance(error, ValueError | TypeError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] == "rnnlab"


def _refuse(message: str, faults: Sequence[str] = ()) -> int:
    if len(faults) > 1:
        print(
            f"rnnlab: {len(faults)} errors:", *(f"  {fault}" for fault in faults), sep="\n", file=sys.stderr
        )
    else:
        print(f"rnnlab: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
