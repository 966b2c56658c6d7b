"""`rnnlab experiments`: every shipped experiment says what it is, and is composed."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.experiments.groups import read_groups, search_path
from rnnlab.experiments.listing import FIELDS, describe

FILES = read_groups(search_path(None))["experiment"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_experiment_says_its_shape_data_figure_and_time(name):
    found = describe(FILES[name])
    assert all(3 < len(found[key]) <= 110 for key in ("about", *FIELDS)), found
    words = [f"experiment={name}"]
    if "data.source=F" in FILES[name].read_text(encoding="utf-8"):  # a FOLDER or FILE of the user's
        words.append("data.source=ptb")
    config = compose(words).config
    assert config.name == name
    assert OmegaConf.to_container(config, resolve=True)


def test_the_table_has_a_row_for_each(capsys):
    assert cli.main(["experiments"]) == 0
    told = capsys.readouterr().out
    assert all(f" {name} " in told for name in FILES)


def test_one_experiment_shows_its_settings(capsys):
    assert cli.main(["experiments", "char_lm"]) == 0
    assert "override /task: language_model" in capsys.readouterr().out


def test_a_folder_of_ones_own_is_listed_too(tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# My own\n# time: an hour\nseed: 2\n"
    )
    assert cli.main(["experiments", "--config-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "My own" in told and "an hour" in told


def test_an_unknown_name_is_refused(capsys):
    assert cli.main(["experiments", "char_ml"]) == 2
    assert "there is no experiment 'char_ml'; there are " in capsys.readouterr().err


def test_listing_loads_no_torch():
    code = "import sys; from rnnlab.cli import main; main(['experiments']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
