"""The console script: quick answers, one clear message for each mistake, exit statuses."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments import commands
from rnnlab.experiments.compose import compose

HEAVY = ("torch", "lightning", "hydra", "omegaconf", "numpy", "rich")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `rnnlab WORDS` says when it refuses them."""
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert told.out == ""
    return told.err


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["sweep", "--help"],
        ["eval", "--help"],
        ["predict", "--help"],
        ["bench"],
        ["completion", "bash"],
        ["completion", "--", "rnnlab train trainer."],
    ],
    ids=" ".join,
)
def test_quick_answers_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from rnnlab.cli import main; status = main(sys.argv[1:]); "
        f"loaded = [name for name in {HEAVY} if name in sys.modules]; "
        "sys.exit(f'{status} {loaded}' if status not in (0, 2) or loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_module_and_console_script_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("rnnlab")
    by_script = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True)
    by_module = subprocess.run(
        [sys.executable, "-m", "rnnlab", "--help"], capture_output=True, text=True, check=True
    )
    assert by_script.stdout == by_module.stdout == cli.usage() + "\n"


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_has_a_function_and_help(
    command: cli.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command.load())
    assert cli.main([command.name, "--help"]) == 0
    assert f"rnnlab {command.name}" in capsys.readouterr().out


@pytest.mark.parametrize("text", [commands.TRAIN, commands.EVAL], ids=["train", "eval"])
def test_the_examples_of_the_help_are_right(text: str) -> None:
    """Their settings of `train` compose; `eval` takes the same ones beside its own."""
    for line in text.splitlines():
        if line.startswith("  rnnlab ") and "--config-dir" not in line:
            words = shlex.split(line.strip().split("  ")[0])[2:]
            settings = [
                word
                for word in words
                if "=" in word and word.split("=")[0] not in ("checkpoint", "output", "resume", "split")
            ]
            compose(settings)


def test_a_misspelt_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean train?" in refused(capsys, "trian")


@pytest.mark.parametrize("word", ["model.hiden_size=8", "+model.hiden_size=8", "++model.hiden_size=8"])
def test_a_misspelt_key_is_refused_however_it_is_written(
    word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", word)
    assert told == (
        "rnnlab: error: model.hiden_size=8: there is no such key; did you mean model.hidden_size?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_are_told_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", "cell=gruu", "trainer.max_epoch=3", "seed=x", "epochs")
    assert told.startswith("rnnlab: 4 errors:\n")
    for part in ("did you mean cell=gru?", "did you mean trainer.max_epochs?", "seed='x'", "'epochs'"):
        assert part in told
    assert list(tmp_path.iterdir()) == []


def test_values_out_of_range_leave_no_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", "model.hidden_size=-8", "optim.lr=-1", "data.batch_size=0", "threads=0")
    for part in ("model.hidden_size=-8: ", "optim.lr=-1: Invalid", "data.batch_size=0: ", "threads=0"):
        assert part in told
    assert list(tmp_path.iterdir()) == []


def test_values_out_of_range_are_told_beside_every_other_mistake(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(
        capsys,
        "train",
        "cell.forgt_bias=1",
        "model.dropout=2",
        "model.hidden_size=0",
        "optim.lr=-1",
        "data.seed=x",
        "data.test=3",
        "threads=0",
    )
    assert [line.split("=")[0].strip() for line in told.splitlines()[1:]] == [
        "cell.forgt_bias",
        "data.seed",
        "threads",
        "model.hidden_size",
        "model.dropout",
        "data.test",
        "optim.lr",
    ]


def test_an_accelerator_that_is_not_there_is_named_by_its_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", "trainer.accelerator=tpux", "model.hidden_size=4")
    assert "trainer.accelerator='tpux': " in told
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_checkpoint_is_asked_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "checkpoint=PATH is required" in refused(capsys, command)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["predict", "chekpoint=x", "a"], "did you mean checkpoint?"),
        (["predict", "checkpoint=x", "json=yes", "a"], "json=yes: expected true or false"),
        (["predict", "checkpoint=x", "batch_size=0", "a"], "batch_size=0: expected an int of at least 1"),
        (["predict", "checkpoint=x"], "nothing to predict"),
        (["predict", "checkpoint=x", "file=missing.txt"], "error: missing.txt: no such file or directory\n"),
        (["predict", "checkpoint=x", "--", "x=a text"], "checkpoint=x: there is no such file"),
        (["eval", "checkpoint=x", "split=tets"], "split=tets: expected test, validation or all"),
        (["eval", "checkpoint=x", "model.hidden_size=3"], "there is no such setting here"),
        (["eval", "runs/mine"], "did you mean checkpoint=runs/mine?"),
        (["eval", "checkpoint=nowhere"], "checkpoint=nowhere: there is no such file or folder"),
        (["train", "--config-dir", "nowhere"], "--config-dir: 'nowhere' is not a folder"),
        (["train", "--confg-dir", "nowhere"], "unrecognized arguments"),
        (["train", "cell=rnn,gru"], "several values are a sweep"),
        (["completion", "tcsh"], "there is bash, zsh and fish"),
    ],
)
def test_refusals(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in refused(capsys, *words)


def test_an_input_that_is_not_utf8_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("plain\ncafé\n".encode("latin-1"))
    told = refused(capsys, "predict", "checkpoint=x", f"file={file}")
    assert f"{file}, line 2: not UTF-8 (byte 0xe9)" in told


def failing(words: list[str]) -> int:
    raise {"bug": RuntimeError("broken"), "stop": KeyboardInterrupt()}[words[0]]


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", (cli.Command("fail", "fail", f"{__name__}:failing"),))
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[failing.__module__])


@pytest.mark.usefixtures("failing_command")
def test_a_failure_is_one_line_and_the_trace_is_there_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fail", "bug"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("rnnlab: failed: RuntimeError: broken (test_cli.py, line ")
    assert "Traceback" not in told
    assert cli.main(["fail", "bug", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("failing_command")
def test_an_interrupt_exits_with_130() -> None:
    assert cli.main(["fail", "stop"]) == 130
