"""Configuration files from strangers, and the folder that they come in."""

from pathlib import Path

import pytest
from hostile import World

MINE = ("train", "--config-dir", "configs", "experiment=mine")
HEAD = "# @package _global_\n"


def experiment(world: World, text: str, name: str = "experiment/mine") -> None:
    file = world.folder / "configs" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((HEAD if name.startswith("experiment") else "") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cell: {_target_: os.system, _partial_: true, command: touch canary}", "cell._target_"),
        ("cell: {_target_: logging.os.system, command: touch canary}", "logging.os.system"),
        ("optim: {deep: [{_target_: rnnlab.training.folder.shutil.rmtree, path: .}]}", "shutil"),
        ("vars: {x: {_target_: builtins.eval, source: '1'}}", "vars.x._target_"),
        ("callbacks: {x: {_target_: rnnlab.cli.main, argv: [doctor]}}", "rnnlab.cli.main"),
        ("callbacks: {x: {_target_: strangers_module.Callback}}", "allow=strangers_module"),
        ("trainer: {_target_: subprocess.run, args: [touch, canary]}", "subprocess.run"),
        ("trainer: {plugins: [{_target_: pickle.loads, data: x}]}", "pickle.loads"),
        ("vars: {name: os.system}\ncell: {_target_: '${vars.name}', command: touch canary}", "os.system"),
        ("trainer: {callbacks: [{_target_: os.system}]}", "os.system"),
        ("data: {_target_: lightning.pytorch.cli.instantiate_class, init: {class_path: os.system}}", "cli"),
    ],
)
def test_a_name_leads_nowhere_else(world: World, text: str, told: str) -> None:
    (world.folder / "strangers_module.py").write_text(f"open({str(world.canary)!r}, 'w')", encoding="utf-8")
    experiment(world, text)
    world.refuses(*MINE, told=told)
    assert not (world.folder / "runs").exists()


@pytest.mark.parametrize("command", ["train", "eval"])
def test_the_command_line_names_no_more_without_allow(world: World, command: str) -> None:
    world.refuses(
        "train", "cell._target_=logging.os.system", "+cell.command=touch canary", told="allow=logging"
    )


@pytest.mark.parametrize(
    "text",
    [
        "name: ${oc.env:HOME}",
        "vars: {x: '${oc.decode:\"${oc.env:HOME}\"}'}",
        "vars: {a: oc, x: '${${.a}.env:HOME}'}",
        "data: {source: '${hydra:runtime.cwd}'}",
        "callbacks: {checkpoint: {folder: '${run_dir}/${oc.env:HOME}'}}",
    ],
)
def test_no_resolver_is_called(world: World, text: str) -> None:
    experiment(world, text)
    outcome = world.refuses(*MINE, told="calls the resolver")
    assert str(world.folder.parent / "home") not in outcome.err


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("callbacks: {checkpoint: {folder: OUTSIDE}}", "callbacks.checkpoint.folder"),
        ("callbacks: {checkpoint: {folder: '${run_dir}/../../../outside'}}", "callbacks.checkpoint.folder"),
        ("callbacks: {checkpoint: {folder: ~/x}}", "callbacks.checkpoint.folder"),
        ("callbacks: {checkpoint: {folder: elsewhere}}", "callbacks.checkpoint.folder"),
        ("callbacks: {curve: {file: OUTSIDE/x.png}}", "callbacks.curve.file"),
        ("logger: {csv: {folder: OUTSIDE}}", "logger.csv.folder"),
        (
            "logger: {x: {_target_: lightning.pytorch.loggers.CSVLogger, save_dir: OUTSIDE}}",
            "logger.x.save_dir",
        ),
        (
            "callbacks: {x: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, filename: ../../x}}",
            "callbacks.x.filename",
        ),
        (
            "trainer: {profiler: {_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: OUTSIDE}}",
            "trainer.profiler.dirpath",
        ),
        (
            "logger: {x: {_target_: lightning.pytorch.loggers.MLFlowLogger, tracking_uri: 'file:OUTSIDE'}}",
            "logger.x.tracking_uri",
        ),
        ("trainer: {default_root_dir: OUTSIDE}", "trainer.default_root_dir"),
        ("output_dir: OUTSIDE", "output_dir"),
        ("output_dir: ../outside", "output_dir"),
        ("run_dir: ~/run", "run_dir"),
    ],
)
def test_nothing_is_written_outside_the_run(world: World, text: str, key: str) -> None:
    experiment(world, text.replace("OUTSIDE", str(world.outside)))
    world.refuses(*MINE, told=key)
    assert not (world.folder / "runs").exists()


def test_a_name_makes_no_path(world: World) -> None:
    experiment(world, "name: x/../../../outside/run")
    outcome = world.run(*MINE, "debug=fast_dev_run", "--print-config")
    world.unharmed(outcome)
    world.refuses("train", "--config-dir", "configs", "experiment=../../outside/x")
    world.refuses("train", "--config-dir", "configs", "cell=../experiment/mine")


HUNDREDFOLD = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
REFERENCES = "vars:\n  a0: xxxxxxxxxx\n" + "".join(
    f"  a{i}: ${{vars.a{i - 1}}}${{.a{i - 1}}}\n" for i in range(1, 40)
)
BOMBS = {
    "anchors": "vars:\n  a0: &a0 [x]\n" + "".join(f"  {line}\n" for line in HUNDREDFOLD.splitlines()),
    "an anchor that holds itself": "vars: &a {x: [*a]}",
    "merged keys": "vars:\n  a0: &a0 {x: 1}\n"
    + "".join(f"  a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}\n" for i in range(1, 40)),
    "references": REFERENCES,
    "references in lists": "vars:\n  a0: [x]\n"
    + "".join(f"  a{i}: ['${{vars.a{i - 1}}}', '${{vars.a{i - 1}}}']\n" for i in range(1, 40)),
    "depth": "vars: " + "[" * 1500 + "]" * 1500,
    "python": "vars: !!python/object/apply:os.system ['touch canary']",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_stands_for_no_more_than_it_shows(world: World, kind: str) -> None:
    experiment(world, BOMBS[kind])
    world.refuses(*MINE)


@pytest.mark.parametrize(
    "word",
    [
        "model.hidden_size=1000000000000",
        f"model.hidden_size={10**30}",
        "model.hidden_size=200000",
        "task.embedding_size=100000000000",
        "model.num_layers=1000000000",
        "data.max_length=-1",
    ],
)
def test_absurd_sizes_are_told(world: World, word: str) -> None:
    rows = "".join(f"a {word} film {n}\t{word}\n" for n in range(100) for word in ("good", "bad"))
    (world.folder / "films.tsv").write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    outcome = world.refuses("train", word, "data=texts", "data.source=films.tsv")
    assert word.partition("=")[0] in outcome.err


def test_a_folder_of_a_strangers_runs_no_module_of_its_own(world: World) -> None:
    """Names of installed and of optional packages, and of Hydra's plugins, in the working folder."""
    planted = f"open({str(world.canary)!r}, 'w')\n"
    for name in ("tensorboard", "wandb", "onnx", "datasets", "yaml", "sitecustomize", "rich"):
        (world.folder / f"{name}.py").write_text(planted, encoding="utf-8")
    plugin = world.folder / "hydra_plugins" / "strangers"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(planted, encoding="utf-8")
    outcome = world.run("train", "--print-config")
    assert outcome.status == 0
    world.unharmed(outcome)


@pytest.mark.parametrize(
    "text",
    [
        "hydra: {callbacks: {x: {_target_: os.system, command: touch canary}}}",
        "hydra: {run: {dir: OUTSIDE}, job: {chdir: true}}",
        "defaults:\n  - override /hydra/launcher: basic\n",
    ],
)
def test_hydra_itself_is_not_configured(world: World, text: str) -> None:
    experiment(world, text.replace("OUTSIDE", str(world.outside)))
    outcome = world.run(*MINE, "--print-config")
    world.unharmed(outcome)
    assert outcome.status in (0, 2) and "Traceback" not in outcome.err


def test_a_run_that_goes_on_is_checked_again(world: World) -> None:
    folder = world.folder / "runs" / "strange"
    folder.mkdir(parents=True)
    lines = ["run_dir: runs/strange", "cell: {_target_: logging.os.system, command: touch canary}"]
    (folder / "config.yaml").write_text("\n".join(lines), encoding="utf-8")
    world.refuses("train", "resume=runs/strange", told="logging.os.system")
    (folder / "config.yaml").write_text("run_dir: x\nname: ${oc.env:HOME}\n", encoding="utf-8")
    world.refuses("train", "resume=runs/strange", told="calls the resolver")
    (folder / "config.yaml").write_text("run_dir: x\n" + BOMBS["anchors"], encoding="utf-8")
    world.refuses("train", "resume=runs/strange")


def test_the_user_may_name_a_module(world: World) -> None:
    (world.folder / "my_cells.py").write_text(
        "from torch import nn\nclass Cell(nn.GRUCell):\n    pass\n", encoding="utf-8"
    )
    words = ("train", "cell._target_=my_cells.Cell", "--print-config")
    world.refuses(*words, told="allow=my_cells")
    outcome = world.run(*words, "allow=my_cells")
    assert outcome.status == 0, outcome
    experiment(world, "allow: my_cells\ncell: {_target_: my_cells.Cell}")
    world.refuses(*MINE, told="allow")


def test_environment_is_read_where_the_user_says_so(world: World) -> None:
    outcome = world.run("train", "vars.x=${oc.env:HOME}", "--print-config", "allow=oc.env")
    assert outcome.status == 0 and str(Path(world.folder.parent / "home")) in outcome.out
