"""The guides to taggers and encoder-decoders: their Python runs, their commands are composed."""

import re
import shlex
from pathlib import Path

import pytest

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("encoder-decoder.md", "tagging.md")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {page: FENCE.findall((DOCS / page).read_text(encoding="utf-8")) for page in PAGES}
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for page in PAGES
    for kind, block in BLOCKS[page]
    if kind == "bash"
    for line in block.splitlines()
]


def run_python(page: str) -> dict:
    scope: dict = {"__name__": "__main__"}
    exec(compile("\n".join(code for kind, code in BLOCKS[page] if kind == "python"), page, "exec"), scope)
    return scope


def test_the_encoder_decoder_of_the_guide_runs() -> None:
    scope = run_python("encoder-decoder.md")
    assert scope["scores"].shape == (9, 4, 40) and scope["weights"].shape == (9, 4, 7)
    assert scope["found"].symbols.shape[:2] == (4, 5)


def test_the_spans_of_the_guide_are_those_it_says() -> None:
    scope = run_python("tagging.md")
    assert [tuple(span) for span in scope["found"]] == [(0, 2, "person"), (3, 4, "location")]
    assert scope["text"] == "And the LORD said unto Moses, Go."


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    assert words[0] in {command.name for command in cli.COMMANDS}
    if words[0] == "train":
        compose(words[1:])


TINY = ["model.hidden_size=16", "task.embedding_size=8", "debug=fast_dev_run", "logger=none", "examples=1"]


@pytest.mark.parametrize("name", ["g2p", "verses_en_es", "restore"])
def test_each_bundled_experiment_trains_a_step(name: str, tmp_path: Path) -> None:
    words = [f"experiment={name}", *TINY, f"output_dir={tmp_path}", "data.batch_size=4"]
    result = train(compose([*words, "data.eval_batch_size=4"]).config)
    assert result.task.headline in result.metrics
    assert len(result.examples) == 1


@pytest.mark.parametrize(("name", "folder"), [("pos_ewt", "ud_ewt"), ("ner_wnut17", "wnut17")])
def test_each_experiment_on_a_folder_trains_a_step(
    name: str, folder: str, local_data: Path, tmp_path: Path
) -> None:
    words = [f"experiment={name}", *TINY, f"output_dir={tmp_path}", f"data.source={local_data / folder}"]
    result = train(compose(words).config)
    assert result.task.headline in result.metrics


@pytest.mark.parametrize("name", ["pos_ewt", "ner_wnut17"])
def test_a_folder_that_is_not_given_is_asked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", f"experiment={name}"]) == 2
    assert "data.source=null: expected text, got null" in capsys.readouterr().err
