"""The configuration folders read as plain YAML: groups, their options and keys, without Hydra or torch.

Help and shell completion answer from here, in milliseconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from rnnlab.training.plain_yaml import check_yaml


def shipped_folder() -> Path:
    """The folder that is installed as `rnnlab.conf`."""
    spec = find_spec("rnnlab.conf")
    if spec is None or spec.origin is None:
        raise ValueError("rnnlab's configuration is not installed: run `pip install .` or `pip install -e .`")
    return Path(spec.origin).parent


def search_path(config_dir: str | None) -> list[Path]:
    """Folders in the order in which a file of the same name wins: the user's own, then the shipped one.

    Raises:
        ValueError: `config_dir` is not a folder.
    """
    if config_dir is None:
        return [shipped_folder()]
    folder = Path(config_dir).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--config-dir: {config_dir!r} is not a folder")
    return [folder.resolve(), shipped_folder()]


def read_groups(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """`{group: {option: file}}` over all folders; the first folder that has an option wins."""
    groups: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            relative = file.relative_to(folder)
            if len(relative.parts) > 1 and not any(part.startswith((".", "_")) for part in relative.parts):
                options = groups.setdefault(relative.parent.as_posix(), {})
                options.setdefault(relative.stem, file)
    return groups


def primary_file(folders: Sequence[Path], command: str) -> Path:
    """The file that a command composes from, such as `train.yaml`."""
    return next(folder / f"{command}.yaml" for folder in folders if (folder / f"{command}.yaml").is_file())


def default_choices(file: Path) -> dict[str, str | None]:
    """The defaults list of a primary file, `{group: option}`."""
    choices: dict[str, str | None] = {}
    for entry in read_yaml(file).get("defaults", []):
        if isinstance(entry, dict):
            for group, option in entry.items():
                choices[group.removeprefix("optional ").removeprefix("override ").strip("/")] = option
    return choices


def exclusive(chosen: Sequence[str], options: Mapping[str, Path]) -> bool:
    """Whether options of one group leave no room for each other: two are an object each, or choose the same.

    Callbacks, loggers and debug settings lie beside each other; of two cells or experiments one would win.
    """
    seen: set[str] = set()
    distinct = list(dict.fromkeys(chosen))
    for name in distinct if len(distinct) > 1 else ():
        decided = _decided(name, options)
        if decided & seen:
            return True
        seen |= decided
    return False


def _decided(name: str, options: Mapping[str, Path]) -> set[str]:
    """What an option decides alone: `_target_`, its own or an inherited one, and the groups it overrides."""
    try:
        content = read_yaml(options[name])
    except yaml.YAMLError:  # told where it is composed
        return set()
    decided = {"_target_"} & set(content)
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            decided |= {str(key) for key in entry if str(key).startswith("override ")}
        elif entry in options and entry != name:
            decided |= _decided(entry, options)
    return decided


def read_yaml(file: Path) -> dict[str, Any]:
    """One configuration file as a dictionary; an empty one is empty."""
    check_yaml(file)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def summary(file: Path) -> str:
    """The first comment of a configuration file: its one-line description."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def keys_with_values(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a configuration tree that a user may set, with its value."""
    for key, value in tree.items():
        if str(key).startswith("_") or (prefix == "" and key == "defaults"):
            continue
        if isinstance(value, dict) and value:
            yield from keys_with_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
