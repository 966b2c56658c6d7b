"""Music: trained, measured as published figures are, sampled as MIDI, and asked by `predict`."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from rnnlab import DeepRNN, cli
from rnnlab.data.music import Rolls
from rnnlab.data.piano_rolls import KEYS
from rnnlab.experiments.compose import compose
from rnnlab.tasks.music import Music
from rnnlab.training.run import RunResult, train


def make_task(**options) -> Music:
    settings = {
        "model": partial(DeepRNN, "gru", hidden_size=8),
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
        "frames_per_beat": 2.0,
    }
    return Music(**{**settings, **options})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A tune of three keys that goes round and round."""
    folder = tmp_path_factory.mktemp("music")
    tune = [[60], [64], [67]] * 8
    pieces = {"train": [tune[n % 3 :] for n in range(48)], "valid": [tune], "test": [tune, tune[1:]]}
    (folder / "tune.json").write_text(json.dumps(pieces))
    words = ["data=piano_rolls", f"data.source={folder / 'tune.json'}", "task=music", "task.skip=true"]
    words += ["data.window=12", "data.batch_size=8", "model.hidden_size=16", "model.bidirectional=false"]
    words += ["model.num_layers=1", "optim.lr=0.05", "task.output_dropout=0", "trainer.max_epochs=8"]
    words += ["callbacks=checkpoint", "logger=none", "trainer.accelerator=cpu", "examples=1"]
    return train(compose([*words, f"run_dir={folder / 'run'}"]).config)


def test_it_learns_a_tune(run: RunResult) -> None:
    assert run.metrics["test/nll"] < 0.5
    assert run.examples[0]["nll"] < 0.5


def test_a_frame_counts_as_the_published_figures_count_it() -> None:
    """Summed over the keys, in the mean over all frames of all pieces, the first of each left out."""
    torch.manual_seed(0)
    task = make_task().eval()
    pieces = [torch.rand(length, KEYS) < 0.05 for length in (5, 9, 1)]
    batch = Rolls(pieces)[[0, 1, 2]]
    sums, by_piece, frames = 0.0, [], 0
    for piece in pieces:
        x = torch.cat([torch.zeros(1, 1, KEYS), piece[:-1].float().unsqueeze(1)])
        p, y = torch.sigmoid(task(x))[1:, 0].double(), piece[1:].double()
        nats = -(y * p.log() + (1 - y) * (1 - p).log()).sum().item()
        sums, frames = sums + nats, frames + len(y)
        by_piece += [nats / len(y)] if len(y) else []
    losses = task.frame_losses(batch)
    means = losses[1:].sum(0)[:2] / (batch.lengths[:2] - 1)
    task.test_nll.update(means, batch.lengths[:2] - 1)
    assert task.test_nll.compute().item() == pytest.approx(sums / frames, rel=1e-5)
    assert means.tolist() == pytest.approx(by_piece, rel=1e-5)
    assert task.piece_losses(pieces)[:2] == pytest.approx(by_piece, rel=1e-5)
    assert task.piece_losses(pieces)[2] == 0


def test_step_by_step_is_the_same_as_at_once() -> None:
    task = make_task(skip=True, embedding_size=6, dense_sizes=[5]).double().eval()
    frames = (torch.rand(7, 2, KEYS) < 0.1).double()
    state, scores = None, []
    for frame in frames:
        said, state = task.step(frame, state)
        scores.append(said)
    torch.testing.assert_close(torch.stack(scores), task(frames))


def test_a_sample_repeats_by_seed_and_holds_few_keys(run: RunResult) -> None:
    def made(**options) -> torch.Tensor:
        return torch.stack(list(run.task.sample(**{"length": 12, "seed": 1, **options})))

    assert torch.equal(made(), made())
    assert not torch.equal(made(temperature=5.0), made(temperature=5.0, seed=2))
    assert made(temperature=50.0, most_keys=3).sum(1).max() == 3
    prompt = torch.zeros(4, KEYS, dtype=torch.bool)
    prompt[torch.arange(4), torch.tensor([39, 43, 46, 39])] = True
    going_on = made(prompt=prompt, temperature=0.2, length=3)
    assert going_on.nonzero().tolist() == [[0, 43], [1, 46], [2, 39]]
    with pytest.raises(ValueError, match="temperature is above 0"):
        made(temperature=0)
    with pytest.raises(ValueError, match="length and most_keys are at least 1"):
        made(most_keys=0)


def test_sample_writes_midi_and_a_picture(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mido = pytest.importorskip("mido")
    source = run.folder.parent / "tune.json"
    words = ["sample", f"checkpoint={run.folder}", f"output={tmp_path / 'song.mid'}", "length=24", "seed=1"]
    words += [f"prompt={source}:test:1", "prompt_frames=6", "temperature=0.3", "samples=2", "bpm=120"]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert "song-2.mid: 30 frames, 8 seconds, 1.0 keys at a time" in capsys.readouterr().out.replace(
        "\n", " "
    )
    for name in ("song-1", "song-2"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        notes = [m.note for m in mido.MidiFile(tmp_path / f"{name}.mid") if m.type == "note_on"]
        assert notes[:6] == [60, 64, 67, 60, 64, 67]
        assert len(notes) > 20


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("top_k=3", "top_k=3: means nothing to a model of music"),
        ("output=song.wav", "a MIDI file ends in .mid"),
        ("output=/nowhere/at/all/song.mid", "there is no folder '/nowhere/at/all'"),
        ("bpm=0", "bpm=0.0: expected at least 1, and above 0"),
        ("prompt=tune.json", "2 pieces; name one, such as prompt="),
        ("prompt=nowhere.mat", "there is no such file"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(
    run: RunResult, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    word = word.replace("tune.json", str(run.folder.parent / "tune.json"))
    assert cli.main(["sample", f"checkpoint={run.folder}", word]) == 2
    assert message in capsys.readouterr().err


def test_predict_and_eval_measure_pieces(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    source = run.folder.parent / "tune.json"
    assert cli.main(["predict", f"checkpoint={run.folder}", str(source), "json=true"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["frames"] for record in said] == [24, 23]
    assert all(math.isfinite(record["nll"]) for record in said)
    assert cli.main(["eval", f"checkpoint={run.folder}"]) == 0
    assert "nll" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["jsb", "nottingham"])
def test_each_experiment_trains_a_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pieces = [[[60, 64], [62], [64, 67]] for _ in range(3)]
    (tmp_path / "a.json").write_text(json.dumps({"train": pieces, "valid": pieces, "test": pieces}))
    words = [f"experiment={name}", "data.source=a.json", "debug=fast_dev_run", "logger=none"]
    result = train(compose([*words, "model.hidden_size=8", "examples=1"]).config)
    assert {"test/nll", "test/nll_by_piece"} <= set(result.metrics)


def test_two_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="forwards only"):
        make_task(model=partial(DeepRNN, "gru", hidden_size=4, bidirectional=True))
    with pytest.raises(ValueError, match="embedding_size is at least 0"):
        make_task(embedding_size=-1)
