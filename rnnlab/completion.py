"""Shell completion: `rnnlab completion bash|zsh|fish` prints a script that asks `rnnlab completion -- LINE`.

Answers come from the configuration files alone, so that a key press costs no import of torch or Hydra.
"""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from rnnlab.experiments import groups

SCRIPTS = {
    "bash": """\
_rnnlab_complete() {
    COMPREPLY=()
    local line="${COMP_LINE:0:$COMP_POINT}" word reply
    word="${line##* }"
    local keep="${word%"${word##*[=:]}"}"
    while IFS= read -r reply; do
        COMPREPLY+=("${reply#"$keep"}")
    done < <(rnnlab completion -- "$line" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(compgen -f -- "${word##*=}")
        compopt -o filenames
    fi
}
complete -F _rnnlab_complete rnnlab""",
    "zsh": """\
#compdef rnnlab
_rnnlab() {
    local -a replies open closed
    replies=("${(@f)$(rnnlab completion -- "${LBUFFER}" 2>/dev/null)}")
    replies=(${replies:#})
    if (( ${#replies} == 0 )); then
        compset -P '*='
        _files
        return
    fi
    open=(${(M)replies:#*[=.]})
    closed=(${replies:#*[=.]})
    (( ${#open} )) && compadd -Q -S '' -- $open
    (( ${#closed} )) && compadd -Q -- $closed
}
if [[ $funcstack[1] == _rnnlab ]]; then _rnnlab; else compdef _rnnlab rnnlab; fi""",
    "fish": """\
function __rnnlab_complete
    rnnlab completion -- (commandline -cp) 2>/dev/null
end
complete -c rnnlab -f -a '(__rnnlab_complete)'
complete -c rnnlab -n 'string match -qr "(checkpoint|file|output|path)=" -- (commandline -ct)' -F""",
}

USAGE = """\
usage: rnnlab completion bash|zsh|fish

Print a completion script. To have it in every shell:
  bash   echo 'eval "$(rnnlab completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(rnnlab completion zsh)"' >> ~/.zshrc      (after compinit)
  fish   rnnlab completion fish > ~/.config/fish/completions/rnnlab.fish"""

SETTINGS = {
    "sweep": (
        "sweep_dir=",
        *(f"launcher={name}" for name in ("in_process", "joblib", "submitit", "ray")),
        *(f"search={name}" for name in ("grid", "random", "tpe", "gp", "cmaes", "nsga2", "qmc")),
        *(f"pruner={name}" for name in ("none", "median", "hyperband", "halving")),
        "workers=",
        "gpus_per_job=",
        "trials=",
        "search_seed=",
        "metric=",
        "mode=min",
        "mode=max",
        "retries=",
        "fail_fast=true",
        "code=same",
        "code=any",
        "submitit.cluster=slurm",
        "submitit.cluster=local",
        "ray_address=",
    ),
    "eval": ("checkpoint=", "split=test", "split=validation", "output="),
    "predict": (
        "checkpoint=",
        "file=",
        "output=",
        "json=true",
        "json=false",
        "device=cpu",
        "device=cuda",
        "batch_size=",
    ),
    "sample": (
        "checkpoint=",
        "prompt=",
        "label=",
        "temperature=",
        "top_k=",
        "top_p=",
        "greedy=true",
        "length=",
        "stop=false",
        "samples=",
        "seed=",
        "device=cpu",
        "device=cuda",
    ),
    "score": ("checkpoint=", "file=", "label=", "end=false", "json=true", "device=cpu", "device=cuda"),
}
# Groups that a command takes beside its own settings; None: all of them.
GROUPS: dict[str, tuple[str, ...] | None] = {
    "train": None,
    "sweep": None,
    "eval": ("data", "trainer"),
    "predict": (),
    "sample": (),
    "score": (),
}
OPTIONS = {
    "train": ("--config-dir", "--print-config", "--help", "--debug"),
    "sweep": ("--config-dir", "--dry-run", "--help", "--debug"),
    "eval": ("--config-dir", "--help"),
}


def main(argv: list[str]) -> int:
    """`rnnlab completion`."""
    if argv[:1] == ["--"]:
        for reply in complete(" ".join(argv[1:])):
            print(reply)
        return 0
    if len(argv) != 1 or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in SCRIPTS:
        raise ValueError(f"no completion for {argv[0]!r}; there is bash, zsh and fish")
    print(SCRIPTS[argv[0]])
    return 0


def complete(line: str) -> list[str]:
    """What the last word of a command line can become; empty where a file name is wanted."""
    words = line.split(" ")[1:] or [""]
    *before, word = words
    before = [item for item in before if item]
    if not before:
        from rnnlab.cli import COMMANDS

        return [command.name for command in COMMANDS if command.name.startswith(word)]
    command = before[0]
    if command == "completion":
        return [shell for shell in SCRIPTS if shell.startswith(word)]
    if word.startswith("-"):
        return [option for option in OPTIONS.get(command, ("--help",)) if option.startswith(word)]
    if command not in GROUPS or before[-1] == "--config-dir":
        return []
    candidates: Iterable[str] = SETTINGS.get(command, ())
    try:
        candidates = [*candidates, *_settings(command, before[1:], word)]
    except (OSError, ValueError, StopIteration):  # a folder that is not there yet: nothing to offer
        return []
    return sorted({_cut(item, word) for item in candidates if item.startswith(word) and item != word})


def _cut(candidate: str, word: str) -> str:
    """A candidate up to the next `.` or `=` behind the typed word, as a shell offers folders before files."""
    stops = [at for mark in ".=" if (at := candidate.find(mark, len(word))) != -1]
    equals = candidate.find("=")
    if not stops or (equals != -1 and equals < len(word)):
        return candidate
    return candidate[: min(stops) + 1]


def _settings(command: str, before: list[str], word: str) -> list[str]:
    """`group=option` and `key=value` of the groups that the line has chosen so far."""
    config_dir = None
    for first, second in pairwise([*before, ""]):
        if first == "--config-dir":
            config_dir = second
        elif first.startswith("--config-dir="):
            config_dir = first.partition("=")[2]
    folders = groups.search_path(config_dir)
    known = groups.read_groups(folders)
    primary = groups.primary_file(folders, "train")
    wanted = GROUPS[command]
    taken = [name for name in known if wanted is None or name in wanted]
    found = [f"{name}={option}" for name in taken for option in known[name]]
    if wanted is None:
        found += _values(groups.read_yaml(primary))
    chosen = groups.default_choices(primary)
    chosen |= {key: value for key, _, value in (item.partition("=") for item in before) if key in known}
    for name in taken:
        file = known[name].get(str(chosen.get(name)))
        if file is not None and word.startswith(name[: len(word)]):
            found += _values(_with_defaults(file, known[name]), f"{name}.")
    return found


def _with_defaults(file: Path, options: dict[str, Path]) -> dict[str, Any]:
    """The tree of an option that builds on others of its group."""
    content = groups.read_yaml(file)
    tree: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry in options and options[entry] != file:
            tree |= _with_defaults(options[entry], options)
    return tree | content


def _values(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """`key=` and the values that are known to make sense: both truths, or what stands there now."""
    found = []
    for key, value in groups.keys_with_values(tree):
        name = f"{prefix}{key}="
        found.append(name)
        if isinstance(value, bool):
            found += [f"{name}true", f"{name}false"]
        elif isinstance(value, int | float | str) and "$" not in str(value):
            found.append(f"{name}{value}")
        elif value is None:
            found.append(f"{name}null")
    return found
