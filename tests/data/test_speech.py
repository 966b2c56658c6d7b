"""Speech as batches: what is left out, what is drawn, and what a transcript needs."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sounds import RATE, tones, write_sound

from rnnlab.data import SpeechData
from rnnlab.data.audio import Augmentation, LogMel
from rnnlab.data.speech import Joining, Transcripts, hear, steps_needed
from rnnlab.nn.ctc import collapse

SPLITS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two words, six sounds of each in every split."""
    for split in SPLITS:
        lines = []
        for number in range(6):
            for word in ("cab", "dad"):
                write_sound(tmp_path / split / f"{word}{number}.wav", word)
                lines.append(f"{word}{number} {word}")
        (tmp_path / split / "transcripts.txt").write_text("\n".join(lines))
    return tmp_path


def test_labels_and_features(folder: Path) -> None:
    data = SpeechData(str(folder), features=LogMel(mels=8), batch_size=4)
    data.setup()
    assert data.facts()["labels"] == ["cab", "dad"]
    assert data.facts()["sample_rate"] == RATE
    assert LogMel(**data.facts()["features"]) == LogMel(mels=8)
    assert data.summary()["utterances"] == {"train": 12, "validation": 12, "test": 12}
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert all(batch.inputs.shape == (34, len(batch), 8) for batch in batches)
    assert sorted(torch.cat([batch.targets for batch in batches]).tolist()) == [0] * 6 + [1] * 6
    (file, text), *_ = data.examples("test", 3)
    assert (Path(file).name, text) == ("cab0.wav", "cab")


def test_characters(folder: Path) -> None:
    data = SpeechData(str(folder), target="characters", eval_batch_size=12)
    data.setup()
    assert data.facts()["alphabet"] == ["<blank>", "a", "b", "c", "d"]
    (batch,) = data.test_dataloader()
    said: Transcripts = batch.targets
    assert said.lengths.tolist() == [3] * 12
    spelt = [data.names[number] for number in said.symbols.tolist()]
    assert "".join(spelt) == "".join(said.texts)
    moved = batch.to("cpu")
    assert torch.equal(moved.targets.symbols, said.symbols)


def test_what_cannot_be_used_is_left_out_and_counted(folder: Path) -> None:
    train = folder / "train"
    raw = (train / "cab0.wav").read_bytes()
    (train / "cab0.wav").write_bytes(raw[:-100])
    (train / "cab1.wav").write_bytes(raw[:-200])
    write_sound(train / "dad0.wav", "d" * 300)
    write_sound(train / "extra.wav", "a")
    write_sound(train / "dad1.wav", "d", channels=2)
    data = SpeechData(str(folder), target="characters", max_s=20.0, features=LogMel(stack=8))
    data.setup()
    summary = data.summary()
    assert summary["left_out"] == {
        "sound without a transcript, as extra.wav": 1,
        "truncated file, as train/cab0": 2,
        "longer than 20 s, as train/dad0": 1,
        "training utterance with fewer steps than its transcript needs, as train/dad1": 1,
    }
    assert summary["mixed_to_one_channel"] == 1
    assert summary["utterances"]["train"] == 8


def test_a_file_that_is_no_sound_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "test" / "cab3.wav").write_bytes(b"RIFFgarbage")
    with pytest.raises(ValueError, match=r"test/cab3.wav: not a sound that can be read"):
        SpeechData(str(folder)).setup()


def test_unequal_sampling_rates_need_a_word(folder: Path) -> None:
    write_sound(folder / "train" / "cab2.wav", "cab", rate=16000)
    with pytest.raises(ValueError, match=r"cab2.wav: 16000 Hz, but .*wav has 8000 Hz; data.sample_rate=8000"):
        SpeechData(str(folder)).setup()
    data = SpeechData(str(folder), sample_rate=8000)
    data.setup()
    assert data.summary()["resampled"] == 1
    assert set(data.dataset("train").lengths.tolist()) == {34}


def test_characters_that_training_lacks_are_counted_and_still_asked_for(folder: Path) -> None:
    text = (folder / "test" / "transcripts.txt").read_text().replace("cab0 cab", "cab0 c\u00e9b")
    (folder / "test" / "transcripts.txt").write_text(text, encoding="utf-8")
    data = SpeechData(str(folder), target="characters", eval_batch_size=12)
    data.setup()
    assert data.summary()["characters_not_in_training"] == 1
    (batch,) = data.test_dataloader()
    assert "c\u00e9b" in batch.targets.texts
    assert int(batch.targets.lengths.sum()) == 35


def test_a_label_that_training_lacks_names_its_file(folder: Path) -> None:
    text = (folder / "test" / "transcripts.txt").read_text().replace("cab5 cab", "cab5 fig")
    (folder / "test" / "transcripts.txt").write_text(text)
    with pytest.raises(ValueError, match=r"cab5.wav: the test split has label 'fig', which is not among"):
        SpeechData(str(folder)).setup()


def test_a_models_facts_are_adopted(folder: Path) -> None:
    first = SpeechData(str(folder), target="characters", features=LogMel(mels=8, stack=2))
    first.setup()
    (folder / "train" / "transcripts.txt").write_text("".join(f"dad{n} DAD\n" for n in range(6)))
    facts = {**first.facts(), "lowercase": True}
    # The target too is the model's, whatever the settings say.
    other = SpeechData(str(folder / "train"), validation=0.3, test=0.3, sample_rate=99)
    other.adopt(facts)
    other.setup()
    assert other.facts() == facts
    strings = SpeechData(str(folder), target="characters", joining=Joining())
    strings.adopt({"labels": ["cab", "dad"], "sample_rate": RATE, "features": first.features.facts()})
    with pytest.raises(ValueError, match="the model tells labels, and joining makes strings"):
        strings.setup()


def test_strings_are_of_one_speaker_and_of_their_own_split(tmp_path: Path) -> None:
    for speaker in "xy":
        for digit in "123":
            for take in range(4):
                write_sound(tmp_path / f"{digit}_{speaker}_{take}.wav", digit)
    data = SpeechData(
        str(tmp_path),
        target="characters",
        label_pattern=r"(?P<label>\d)_",
        test_pattern="_0$",
        validation_pattern="_1$",
        group_pattern="_([xy])_",
        joining=Joining(least=2, most=4, strings=30, eval_strings=20, gap_ms=50.0),
        batch_size=10,
        seed=3,
    )
    data.setup()
    assert data.summary()["strings"] == {"train": 30, "validation": 20, "test": 20}
    for split, takes in (("train", "23"), ("validation", "1"), ("test", "0")):
        for files, text in data.examples(split, 20):
            names = [Path(file).stem for file in files.split("+")]
            assert 2 <= len(names) <= 4
            assert "".join(name[0] for name in names) == text
            assert len({name[2] for name in names}) == 1
            assert {name[4] for name in names} <= set(takes)
    batch = next(iter(data.test_dataloader()))
    assert [len(text) for text in batch.targets.texts] == batch.targets.lengths.tolist()
    # What is measured on is the same for every seed and in every epoch, what is learned from is not.
    other = SpeechData(**{**_arguments(data, tmp_path), "seed": 4})
    other.setup()
    assert other.examples("test", 20) == data.examples("test", 20)
    assert other.examples("train", 20) != data.examples("train", 20)
    train, test = data.dataset("train"), data.dataset("test")
    assert train[1, [0, 1]].targets.texts != train[2, [0, 1]].targets.texts
    assert test[1, [0, 1]].targets.texts == test[2, [0, 1]].targets.texts


def _arguments(data: SpeechData, source: Path) -> dict:
    return {"source": str(source), "target": data.target, **data.reading, "joining": data.joining}


def test_what_is_drawn_depends_on_seed_epoch_and_row_alone(folder: Path) -> None:
    def make(seed: int) -> SpeechData:
        augmentation = Augmentation(speeds=[0.9, 1.0, 1.1], frequency_masks=2, time_masks=2)
        data = SpeechData(str(folder), augmentation=augmentation, batch_size=4, seed=seed)
        data.setup()
        return data

    first, again, other = (make(seed).dataset("train") for seed in (1, 1, 2))
    assert torch.equal(first[3, [0, 5]].inputs, again[3, [0, 5]].inputs)
    row = first[3, [5]]
    torch.testing.assert_close(first[3, [0, 5]].inputs[: row.lengths[0], 1:], row.inputs)
    kept = [dataset[epoch, [5]].inputs for dataset in (first, other) for epoch in (3, 4)]
    assert len({(tuple(inputs.shape), float(inputs.abs().sum())) for inputs in kept}) == 4
    test = make(1).dataset("test")
    assert torch.equal(test[1, [0]].inputs, test[2, [0]].inputs)


def test_an_interrupted_epoch_goes_on_with_the_same_draws(folder: Path) -> None:
    data = SpeechData(str(folder), augmentation=Augmentation(speeds=[0.8, 1.0, 1.2]), batch_size=4)
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    whole = [batch.inputs for batch in loader]
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    assert state == {"epoch": 2, "position": 1}
    fresh = data.train_dataloader()
    fresh.load_state_dict(state)
    for expected, batch in zip(whole[1:], fresh, strict=True):
        assert torch.equal(expected, batch.inputs)


@given(st.lists(st.integers(1, 2), max_size=4))
def test_steps_needed_is_the_length_of_the_shortest_path(symbols: list[int]) -> None:
    from itertools import product

    for steps in range(10):
        spelt = any(collapse(path) == symbols for path in product(range(3), repeat=min(steps, 8)))
        if spelt:
            break
    assert steps_needed(symbols) == steps


def test_files_joined_by_plus_are_heard_as_one(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", "a")
    write_sound(tmp_path / "b+c.wav", "b", rate=16000)
    whole = hear(f"{tmp_path / 'a.wav'}+{tmp_path / 'a.wav'}", RATE)
    torch.testing.assert_close(whole, tones("aa"), atol=1e-4, rtol=0)
    assert len(hear(str(tmp_path / "b+c.wav"), RATE)) == 960


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "words"}, "target is 'label' or 'characters'; got 'words'"),
        ({"joining": Joining()}, "goes with target='characters'"),
        ({"sample_rate": 0}, "sample_rate is at least 1 Hz"),
        ({"max_s": 0.0}, "max_s is a number of seconds above 0"),
        ({"test": 1.5}, "fractions of validation and test"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeechData("folder", **options)


def test_bad_strings_are_refused() -> None:
    with pytest.raises(ValueError, match="not above most; got 5 and 3"):
        Joining(least=5, most=3)
    with pytest.raises(ValueError, match="gap_ms at least 0"):
        Joining(gap_ms=-1.0)


def test_spoken_digits_have_their_official_split(local_data: Path) -> None:
    from rnnlab.experiments.compose import compose
    from rnnlab.training.targets import build

    config = compose([f"data.source={local_data / 'spoken_digits'}", "experiment=spoken_digits"]).config
    data = build(config.data)
    data.setup()
    assert data.summary()["utterances"] == {"train": 240, "validation": 60, "test": 300}
    assert {utterance.name[-1] for utterance in data.dataset("test").utterances} == set("01234")
    assert not data.summary()["left_out"]
