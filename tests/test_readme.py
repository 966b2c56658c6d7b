"""The README and the guides: their Python runs, their commands work, their output is what is printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rnnlab
from rnnlab import cli
from rnnlab.experiments.compose import compose

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/quickstart.md", "docs/configuration.md")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What makes a command of the README a matter of seconds; nothing else about it is changed.
SHORT = ["debug=fast_dev_run", "logger=none", "examples=1"]


def blocks(page: str, language: str) -> list[str]:
    return [
        code for kind, code in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if kind == language
    ]


def commands(page: str, language: str = "bash") -> list[list[str]]:
    """The words of each `rnnlab` command of a page."""
    found = []
    for block in blocks(page, language):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["rnnlab"]:
                found.append(words[1:])
    return found


def test_the_first_thing_in_the_readme_is_two_commands() -> None:
    first = blocks("README.md", "bash")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make train", "make test"]


@pytest.mark.parametrize("page", PAGES)
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(blocks(page, "python"))
    if not code:
        pytest.skip("no Python on this page")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, page, "exec"), scope)
    if page == "README.md":
        assert tuple(scope["outputs"].shape) == (50, 4, 48)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
def test_output_is_what_is_printed(
    page: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        line, _, expected = block.partition("\n")
        cli.main(shlex.split(line.removeprefix("$ "))[1:])
        assert capsys.readouterr().err == expected


TRAININGS = sorted(
    {
        tuple(words)
        for page in PAGES
        for words in commands(page)
        if words[0] == "train" and not any(word.startswith(("data=", "--", "resume=")) for word in words)
    }
)


@pytest.mark.parametrize("words", TRAININGS, ids=lambda words: " ".join(words))
def test_training_commands_train(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, *SHORT]) == 0
    assert len(list(tmp_path.glob("runs/sentiment/*/config.yaml"))) == 1


def test_a_users_file_and_the_commands_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (own,) = [words for words in commands("README.md") if "data.source=my_reviews.csv" in words]
    settings = [
        "trainer.max_epochs=1",
        "model.hidden_size=8",
        "examples=1",
        "data.test=0.4",
        "data.validation=0.2",
    ]
    rows = [
        f"a {word} film number {n},{label}"
        for n in range(40)
        for label, word in (("yes", "fine"), ("no", "dull"))
    ]
    Path("my_reviews.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    assert cli.main([*own, *settings]) == 0
    told = capsys.readouterr().out
    pasted = [line.strip() for line in told.splitlines() if line.startswith("  rnnlab ")]
    assert [line.split()[1] for line in pasted] == ["eval", "predict"]
    for line in pasted:
        assert cli.main(shlex.split(line)[1:]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_what_users_of_other_programs_are_told_is_so() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Coming from")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| `")]
    here = [span for _, right in rows for span in re.findall(r"`([^`]+)`", right)]
    scope: dict[str, object] = {"rnnlab": rnnlab, "MyCell": torch.nn.GRUCell, "compose": compose}
    scope |= {"rnn": rnnlab.DeepRNN("gru", 4, 3), "x": torch.randn(5, 2, 4), "lengths": torch.tensor([5, 2])}
    scope |= {"state": torch.zeros(1, 2, 3), "train": lambda config: config.cell}
    told = set()
    for span in here:
        words = shlex.split(span) if "(" not in span else [span]
        if span.endswith(")"):
            eval(span, scope)
            told.add("python")
        elif words[0] == "rnnlab":
            assert words[1] in {command.name for command in cli.COMMANDS}
            told.add("command")
        elif "=" in words[0]:
            compose(words)
            told.add("setting")
        elif words[0].startswith("-"):
            assert words[0] in ("-m", "--print-config")
        else:
            assert span == "Trainer"
    assert told == {"python", "command", "setting"} and len(rows) == 8


def test_every_other_command_is_accepted_by_the_program() -> None:
    for page in PAGES:
        for words in commands(page):
            assert words[0] in {command.name for command in cli.COMMANDS}, words


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "docs/index.md", *PAGES[1:]):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
            assert "://" in link or (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_make_help_lists_what_the_readme_names() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = set(re.findall(r"`?make (\w+)`?", (ROOT / "README.md").read_text(encoding="utf-8"))) - {"help"}
    assert named <= set(re.findall(r"make ([\w-]+)", done.stdout))


def test_python_of_the_tests_is_one_that_is_promised() -> None:
    assert (3, 11) <= sys.version_info[:2] < (3, 14)
