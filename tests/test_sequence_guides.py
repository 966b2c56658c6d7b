"""The guides to taggers and encoder-decoders: their Python runs, their commands are composed."""

from pathlib import Path

import pytest
from guides import Guide, check_command

from rnnlab import cli
from rnnlab.experiments.compose import compose
from rnnlab.training.run import train

ENCODER_DECODER, TAGGING = Guide("encoder-decoder.md"), Guide("tagging.md")


def test_the_encoder_decoder_of_the_guide_runs() -> None:
    scope = ENCODER_DECODER.run_python()
    assert scope["scores"].shape == (9, 4, 40) and scope["weights"].shape == (9, 4, 7)
    assert scope["found"].symbols.shape[:2] == (4, 5)


def test_the_spans_of_the_guide_are_those_it_says() -> None:
    scope = TAGGING.run_python()
    assert [tuple(span) for span in scope["found"]] == [(0, 2, "person"), (3, 4, "location")]
    assert scope["text"] == "And the LORD said unto Moses, Go."


@pytest.mark.parametrize("words", [*ENCODER_DECODER.commands, *TAGGING.commands], ids=" ".join)
def test_commands_are_known(words: list[str]) -> None:
    check_command(words)


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
