"""From the words of the command line to one proven configuration.

Hydra composes the groups; single values are then set one by one, so that every fault of every word can be
told at once, by the same rules with and without `+`.
"""

import copy
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rnnlab.experiments.groups import (
    default_choices,
    exclusive,
    primary_file,
    read_groups,
    read_yaml,
    search_path,
    shipped_folder,
)
from rnnlab.training.confine import outside, strays
from rnnlab.training.plain_yaml import check_yaml
from rnnlab.training.references import unsafe_references
from rnnlab.training.shell import shell_word
from rnnlab.training.targets import forbidden
from rnnlab.training.validate import ConfigError, faults


@dataclass(frozen=True)
class Composed:
    """A configuration, the words that made it, and the option that was chosen of each group."""

    config: DictConfig
    overrides: list[str]
    choices: dict[str, Any]


def compose(
    overrides: Sequence[str] = (),
    *,
    command: str = "train",
    config_dir: str | None = None,
    memory: dict[tuple[str, ...], DictConfig] | None = None,
) -> Composed:
    """The configuration of `rnnlab COMMAND OVERRIDES`, proven before anything runs.

    Args:
        overrides: words such as `cell=gru` (a group) and `model.num_layers=3` (a value).
        command: the primary file, `train.yaml`.
        config_dir: the user's own folder; its files win over shipped ones of the same name.
        memory: what the groups came to in earlier calls with the same command and folder, by their choices.

    Raises:
        ConfigError: all faults at once, each with the key, what was received and the nearest right one.
    """
    folders = search_path(config_dir)
    groups = read_groups(folders)
    if config_dir is not None:
        for file in sorted(folders[0].rglob("*.yaml")):
            check_yaml(file)
    in_defaults = default_choices(primary_file(folders, command))
    found: list[str] = []
    choices: list[str] = []
    values: list[Override] = []
    for override in _parse(overrides, found):
        name = override.key_or_group
        if override.is_sweep_override():
            found.append(_sweep(override, groups.get(name, {})))
        elif name not in groups:
            values.append(override)
        elif _unchooses(override, in_defaults):
            choices = [line for line in choices if line.lstrip("+").partition("=")[0] != name]
        elif (line := _choice(override, groups[name], in_defaults, found)) is not None:
            choices.append(line)
    try:
        if memory is None:
            composed = _hydra(command, choices, folders)
        else:
            if tuple(choices) not in memory:
                memory[tuple(choices)] = _hydra(command, choices, folders)
            composed = copy.deepcopy(memory[tuple(choices)])
    except HydraException as error:
        raise ConfigError([*found, str(error)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([*found, " ".join(str(error).split())]) from error
    with open_dict(composed):
        chosen = OmegaConf.to_container(composed.pop("hydra").runtime.choices)
    assert isinstance(chosen, dict)
    picked = {str(key): value for key, value in chosen.items() if not str(key).startswith("hydra/")}
    allowed = {name.split("/")[0] for name in groups} | set(read_yaml(shipped_folder() / f"{command}.yaml"))
    if "name" in composed and composed.name is None:
        composed.name = picked.get("experiment") or picked.get("task") or "run"
    config = prove(composed, values, found, allowed - {"defaults"})
    if lines := strays(config, {override.key_or_group for override in values}):
        raise ConfigError(lines)
    return Composed(config, list(overrides), picked)


def prove(
    config: DictConfig,
    values: Sequence[Override] = (),
    found: Sequence[str] = (),
    top_level: Collection[str] | None = None,
) -> DictConfig:
    """Set single values, resolve every reference, and check the whole.

    Args:
        config: what the files gave; changed in place.
        values: single values to set in it.
        found: faults that were met before.
        top_level: the keys that may stand at the top; by default those that do.

    Raises:
        ConfigError: `found` and what is wrong with the result.
    """
    lines = list(found)
    known: Any = OmegaConf.to_container(config, resolve=False)
    OmegaConf.set_struct(config, False)
    for override in values:
        try:
            _set(config, override)
        except OmegaConfBaseException as error:
            lines.append(f"{override.input_line}: {str(error).splitlines()[0]}")
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    if calls := unsafe_references(unresolved):  # nothing is resolved then
        raise ConfigError([*lines, *calls])
    for key, text in list(_texts(OmegaConf.to_container(config, resolve=False))):
        if text == "???":
            lines.append(f"{key}: required, but not given")
        elif "${" in text:
            try:
                OmegaConf.select(config, key, throw_on_resolution_failure=True)
            except OmegaConfBaseException as error:
                lines.append(f"{key}={text}: {str(error).splitlines()[0]}")
                OmegaConf.update(config, key, "???")  # told once; the rest is still checked
    source: Any = OmegaConf.to_container(config, resolve=False)
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(resolved, dict)
    if top_level is not None:
        known = {key: known.get(key) for key in sorted(top_level)}
    plain = {str(key): value for key, value in resolved.items()}
    if refused := forbidden(plain):  # nothing is imported then
        raise ConfigError([*lines, *refused])
    lines += faults(plain, source, known)
    if not lines:
        lines = outside(plain)
    if lines:
        from rnnlab.training.ranges import out_of_range

        raise ConfigError(lines + out_of_range(plain, source, lines))
    return config


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree, with its full key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield path, value


def parse_values(words: Sequence[str]) -> list[Override]:
    """Words that set single values, such as `data.batch_size=8`.

    Raises:
        ConfigError: a word that is no assignment.
    """
    found: list[str] = []
    parsed = _parse(words, found)
    if found:
        raise ConfigError(found)
    return parsed


def _parse(words: Sequence[str], found: list[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException as error:
            reason = "a setting is written key=value" if "=" not in word else str(error).splitlines()[0]
            found.append(f"{word!r}: {reason}")
    return parsed


def _sweep(override: Override, options: Mapping[str, Path]) -> str:
    """The line for a word of several values, where one run is made; `options` are those of a group."""
    line = str(override.input_line)
    told = f"{line}: several values are a sweep: rnnlab sweep {shell_word(line)}"
    value = override.value()
    if not isinstance(value, ChoiceSweep) or not value.simple_form:
        return told
    names = [str(name) for name in value.list]
    if not options:
        return f"{told}; a text that has commas is quoted"
    if not set(names) <= set(options) or exclusive(names, options):
        return told
    together = f"{override.key_or_group}=[{','.join(names)}]"
    return f"{told}; all of them in one run: {shell_word(together)}"


def _unchooses(override: Override, in_defaults: Mapping[str, Any]) -> bool:
    """Whether a word leaves a group without an option, which had none by default: `debug=null`."""
    name = override.key_or_group
    return not override.is_delete() and override.value() in (None, []) and in_defaults.get(name) is None


def _choice(
    override: Override, options: dict[str, Path], in_defaults: dict[str, Any], found: list[str]
) -> str | None:
    """A word that chooses an option of a group, as Hydra wants it; None where there is no such option."""
    name, value = override.key_or_group, override.value()
    if override.is_delete():
        return str(override.input_line)
    wanted = (value or [None]) if isinstance(value, list) else [value]
    known = True
    for option in wanted:
        if str(option) not in options:
            near = difflib.get_close_matches(str(option), options, n=1)
            hint = f"did you mean {name}={near[0]}?" if near else f"there are {', '.join(sorted(options))}"
            told = "null" if option is None else option
            found.append(f"{name}={told}: there is no such option; {hint}")
            known = False
    if not known:
        return None
    names = [str(option) for option in wanted]
    if exclusive(names, options):
        each = f"{name}={','.join(names)}"
        found.append(
            f"{name}=[{','.join(names)}]: a run takes one of them; to train with each: rnnlab sweep {each}"
        )
        return None
    plain = str(override.input_line).lstrip("+")
    return plain if name in in_defaults else f"+{plain}"


class _UserFolder(SearchPathPlugin):
    """Puts the user's folder before the shipped one, so that its file of the same name wins."""

    folder: ClassVar[Path | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.prepend("--config-dir", f"file://{self.folder}", SearchPathQuery(provider="main"))


def _hydra(command: str, choices: list[str], folders: Sequence[Path]) -> DictConfig:
    Plugins.instance().register(_UserFolder)
    GlobalHydra.instance().clear()
    _UserFolder.folder = folders[0] if len(folders) > 1 else None
    try:
        with initialize_config_module("rnnlab.conf", version_base="1.3", job_name="rnnlab"):
            return hydra_compose(config_name=command, overrides=choices, return_hydra_config=True)
    finally:
        _UserFolder.folder = None


def _set(config: DictConfig, override: Override) -> None:
    key = override.key_or_group
    if override.is_delete():
        parent, _, leaf = key.rpartition(".")
        holder = OmegaConf.select(config, parent) if parent else config
        if not isinstance(holder, DictConfig) or leaf not in holder:
            raise OmegaConfBaseException(f"there is no key {key} to take away")
        del holder[leaf]
        return
    OmegaConf.update(config, key, override.value(), merge=True, force_add=True)
