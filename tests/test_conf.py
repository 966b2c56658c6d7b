"""Every shipped configuration is bound to the signatures that it feeds, and instantiated."""

import re

import pytest
import torch
from omegaconf import OmegaConf

from rnnlab.experiments.compose import compose
from rnnlab.experiments.groups import read_groups, read_yaml, search_path, shipped_folder, summary
from rnnlab.training.settings import Settings
from rnnlab.training.targets import build, resolve
from rnnlab.training.validate import ConfigError, fits, signature

GROUPS = read_groups(search_path(None))
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def plain(group: str, option: str) -> dict:
    try:
        composed = compose([f"{group}={option}"])
    except ConfigError as error:
        if error.faults != ["data.source=null: expected text, got null"]:  # which is left to its user
            raise
        composed = compose([f"{group}={option}", "data.source=mine.csv"])
    config = OmegaConf.to_container(composed.config, resolve=True)
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_every_file_is_bound_to_the_signature_it_feeds(group: str, option: str) -> None:
    assert group in plain(group, option) or group in ("experiment", "debug")


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_every_file_says_in_one_line_what_it_is(group: str, option: str) -> None:
    assert 3 < len(summary(GROUPS[group][option])) <= 110


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_no_file_that_builds_on_another_asks_by_question_marks(group: str, option: str) -> None:
    """OmegaConf lets the value below `???` stand: the user would not be asked. `null` is told."""
    content = read_yaml(GROUPS[group][option])
    assert not content.get("defaults") or "???" not in content.values()


# Said by oneDNN, which then leaves the work to another implementation.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("option", sorted(GROUPS["cell"]))
def test_every_cell_runs_in_every_model(option: str) -> None:
    config = plain("cell", option)
    model = build(config["model"])(input_size=3)
    outputs, _ = model(torch.randn(5, 2, 3))
    assert outputs.shape == (5, 2, model.output_size)
    outputs.sum().backward()


@pytest.mark.parametrize("option", sorted(GROUPS["optim"]))
@pytest.mark.parametrize("schedule", sorted(GROUPS["schedule"]))
def test_every_optimiser_goes_with_every_schedule(option: str, schedule: str) -> None:
    optimizer = build(plain("optim", option)["optim"])([torch.nn.Parameter(torch.ones(2))])
    node = plain("schedule", schedule)["schedule"]
    takes = signature(resolve(node["_target_"]))[0]
    planned = build(node)(optimizer, **({"total_steps": 10} if "total_steps" in takes else {}))
    optimizer.step()
    planned.step()
    assert planned.get_last_lr()[0] >= 0


@pytest.mark.parametrize("option", sorted(GROUPS["data"]))
def test_every_datamodule_is_built(option: str) -> None:
    assert build(plain("data", option)["data"]).batch_size > 0


@pytest.mark.parametrize("option", sorted(set(GROUPS["trainer"]) - {"gpu", "ddp"}))
def test_every_trainer_that_this_machine_can_serve_is_built(option: str) -> None:
    node = plain("trainer", option)["trainer"]
    assert build(node | {"accelerator": "cpu"}, logger=False).max_epochs == node["max_epochs"]


@pytest.mark.parametrize("option", ["gpu", "ddp"])
def test_trainers_for_gpus_are_built_where_there_is_one(option: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    assert build(plain("trainer", option)["trainer"], logger=False) is not None


def test_the_settings_outside_the_groups_are_those_that_the_program_reads() -> None:
    written = read_yaml(shipped_folder() / "train.yaml")
    written.pop("defaults")
    assert Settings(**written) == Settings()


CHOICES = re.compile(r"^(\w+): (\S+) .*?# (?:[^|#]*: )?(\w[\w-]*(?: \| \w[\w-]*)+)\b")


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_choices_named_in_comments_are_those_of_the_signature(group: str, option: str) -> None:
    """`key: value  # a | b` names values that the annotation takes, the one that is set among them."""
    content = read_yaml(GROUPS[group][option])
    if "_target_" not in content:
        return
    hints = signature(resolve(content["_target_"]))[1]
    for line in GROUPS[group][option].read_text(encoding="utf-8").splitlines():
        if match := CHOICES.match(line):
            key, value, choices = match[1], match[2], match[3].split(" | ")
            assert value in choices, line
            assert all(fits(choice, hints[key]) for choice in choices), line
