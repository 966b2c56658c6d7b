"""Both speech tasks learn melodies, and say what they hear in files."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sounds import write_sound

from rnnlab import DeepRNN, cli
from rnnlab.data.batching import SequenceBatch
from rnnlab.data.speech import Transcripts
from rnnlab.experiments.compose import compose
from rnnlab.tasks import SpeechClassification, SpeechRecognition
from rnnlab.training.run import train

HEARD: dict[str, Any] = {"sample_rate": 8000, "features": {"mels": 6, "stack": 2}}
QUICK = ["trainer.accelerator=cpu", "threads=1", "logger=none", "callbacks=checkpoint", "examples=2"]


def recogniser(**options: Any) -> SpeechRecognition:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "alphabet": ["<blank>", "a", "b"],
        "lowercase": True,
        "model": partial(DeepRNN, "gru", hidden_size=8, bidirectional=True),
        "optimizer": partial(torch.optim.AdamW, lr=0.02),
        **HEARD,
    }
    return SpeechRecognition(**{**settings, **options})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words of notes by two speakers, in the names and the split of the spoken digits."""
    folder = tmp_path_factory.mktemp("digits")
    for digit in "357":
        for speaker in ("anna", "ben"):
            for take in range(10):
                write_sound(folder / f"{digit}_{speaker}_{take}.wav", digit)
    return folder


@pytest.fixture(scope="module")
def strings(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The experiment on strings, short and small, until it reads them."""
    words = ["experiment=spoken_digits_ctc", f"data.source={digits}", "model.hidden_size=24", *QUICK]
    words += ["data.joining.strings=64", "data.joining.eval_strings=20", "data.batch_size=8"]
    words += ["model.num_layers=1", "optim.lr=0.02", "trainer.max_epochs=16", "data.joining.most=4"]
    # A mask would hide a note whole, where it hides a part of a voice.
    words += ["data.augmentation.frequency_masks=0", "data.augmentation.time_masks=0"]
    words += [f"run_dir={tmp_path_factory.mktemp('strings') / 'run'}"]
    return train(compose(words).config)


def test_strings_of_words_are_read(strings: Any) -> None:
    assert {"test/cer", "test/wer", "test/cer_beam", "test/wer_beam", "test/loss", "val/cer"} <= set(
        strings.metrics
    )
    assert strings.metrics["test/cer"] < 0.1
    assert strings.metrics["test/cer_beam"] < 0.1
    # With one word a transcript, a word is wrong where any of its characters is.
    assert strings.metrics["test/wer"] >= strings.metrics["test/cer"]
    assert [set(record) for record in strings.examples] == [{"file", "truth", "transcript"}] * 2


def test_predict_prints_the_transcript(
    strings: Any, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(digits / f"{name}.wav") for name in ("3_anna_0", "7_ben_1", "5_ben_0")]
    words = ["predict", f"checkpoint={strings.folder}", "json=true", "+".join(files), files[1]]
    assert cli.main(words) == 0
    joined, single = map(json.loads, capsys.readouterr().out.splitlines())
    assert (joined["transcript"], joined["greedy"]) == ("375", "375")
    assert (single["transcript"], single["input"]) == ("7", files[1])
    assert 0.0 < single["probability"] <= 1.0


def test_predict_names_the_file_that_it_cannot_hear(
    strings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    for word, told in [("absent.wav", "absent.wav: there is no such file"), ("text.wav", "not a sound")]:
        assert cli.main(["predict", f"checkpoint={strings.folder}", str(tmp_path / word)]) == 2
        assert told in capsys.readouterr().err


def test_what_is_heard_when_is_drawn(strings: Any, tmp_path: Path) -> None:
    strings.task.draw_pictures(strings.datamodule, tmp_path)
    from matplotlib.image import imread

    assert min(imread(tmp_path / "transcripts.png").shape[:2]) > 500


def test_eval_gives_the_same_rates_again(strings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", f"checkpoint={strings.folder}"]) == 0
    assert f"{strings.metrics['test/cer']:.4f}" in capsys.readouterr().out


def test_digits_are_told_apart(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=spoken_digits", f"data.source={digits}", "model.hidden_size=12", *QUICK]
    words += ["optim.lr=0.02", "trainer.max_epochs=8", "data.batch_size=4", f"run_dir={tmp_path / 'run'}"]
    result = train(compose(words).config)
    assert result.metrics["test/accuracy"] > 0.9
    assert [record["predicted"] for record in result.examples] == ["3", "5"]
    file = digits / "7_anna_2.wav"
    assert cli.main(["predict", f"checkpoint={result.folder}", "json=true", str(file)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["input"], record["label"]) == (str(file), "7")
    assert sum(record["probabilities"].values()) == pytest.approx(1)


def test_own_transcripts_with_several_words(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        lines = [f"{n} {text}" for n, text in enumerate(["A big cab", "a cab", "big big cab"])]
        for n, text in enumerate(["a big cab", "a cab", "big big cab"]):
            write_sound(tmp_path / split / f"{n}.wav", text)
        (tmp_path / split / "transcripts.txt").write_text("\n".join(lines))
    words = ["data=transcribed_speech", f"data.source={tmp_path}", "task=speech_recognition", *QUICK]
    words += ["model.hidden_size=8", "trainer.fast_dev_run=true", "callbacks=none"]
    words += [f"run_dir={tmp_path / 'run'}"]
    result = train(compose(words).config)
    assert result.task.alphabet == ["<blank>", " ", *"abcgi"]
    assert {record["truth"] for record in result.examples} <= {"a big cab", "a cab", "big big cab"}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_neither_scores_nor_loss(bidirectional: bool) -> None:
    task = recogniser(model=partial(DeepRNN, "lstm", hidden_size=8, bidirectional=bidirectional)).eval()
    inputs = torch.randn(9, 2, 12)
    inputs[5:, 1] = 0.0
    lengths = torch.tensor([9, 5])
    together = task(inputs, lengths)
    torch.testing.assert_close(together[:5, 1], task(inputs[:5, 1:], torch.tensor([5]))[:, 0])
    said = Transcripts(["abb", "b"], torch.tensor([1, 2, 2, 2]), torch.tensor([3, 1]))
    loss = task._loss(together, SequenceBatch(inputs, lengths, said))
    alone = [
        F.ctc_loss(
            together[:steps, row : row + 1], target, torch.tensor([steps]), torch.tensor([len(target)])
        )
        for row, (steps, target) in enumerate([(9, torch.tensor([1, 2, 2])), (5, torch.tensor([2]))])
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())


def test_a_transcript_that_does_not_fit_gives_no_gradient_and_counts_as_errors() -> None:
    """Two steps cannot spell `aa`: a blank must stand between."""
    task = recogniser()
    said = Transcripts(["aa", "b"], torch.tensor([1, 1, 2]), torch.tensor([2, 1]))
    batch = SequenceBatch(torch.randn(2, 2, 12), torch.tensor([2, 2]), said)
    scores = task(batch.inputs, batch.lengths).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(task._loss(scores, batch), scores)
    assert gradient[:, 0].abs().sum() == 0
    assert gradient[:, 1].isfinite().all()
    assert gradient[:, 1].abs().sum() > 0


def test_records_do_not_depend_on_the_mode(tmp_path: Path) -> None:
    file = str(write_sound(tmp_path / "a.wav", "ab"))
    task = recogniser(input_dropout=0.5, dropout=0.5).train()
    assert task.predict_records([file]) == task.predict_records([file])
    assert task.training
    assert task.predict_records([]) == []
    labels = SpeechClassification(
        labels=["x", "y"],
        model=partial(DeepRNN, "gru", hidden_size=8),
        optimizer=partial(torch.optim.AdamW),
        **HEARD,
    )
    assert labels.predict_records([]) == []
    (record,) = labels.predict_records([file])
    assert record == labels.predict_records([file, file])[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_width": 0}, "beam_width is at least 1; got 0"),
        ({"alphabet": ["a", "b"]}, "an alphabet begins with '<blank>'"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"features": {"mels": 0}}, "mels and stack are at least 1"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recogniser(**options)
