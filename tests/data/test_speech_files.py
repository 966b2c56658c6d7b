"""Folders of sounds in the forms in which they are found."""

from pathlib import Path

import pytest
from sounds import write_sound

from rnnlab.data.speech_files import Recordings, read_recordings


def said(found: Recordings) -> dict[str, dict[str, str]]:
    return {split: {u.name: u.text for u in part} for split, part in found.parts.items() if part}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("transcripts.tsv", "file\ttext\na.wav\tgo home\nsub/b\tstop\n"),
        ("transcripts.csv", 'text,file\ngo home,a\n"stop",./sub/b.flac\n'),
        ("transcripts.jsonl", '{"file": "a.wav", "text": "go home"}\n{"file": "sub/b", "text": "stop"}\n'),
        ("transcripts.txt", "a  go   home\r\n\nsub/b.flac stop\n"),
        ("transcripts.txt", "\ufeffa.wav\tgo home\nsub/b\tstop"),
    ],
)
def test_transcripts(name: str, content: str, tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", "ab")
    write_sound(tmp_path / "sub" / "b.flac", "b")
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert said(read_recordings(str(tmp_path))) == {"train": {"a": "go home", "sub/b": "stop"}}


def test_a_folder_for_each_class_also_below_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for label in ("yes", "no"):
            write_sound(tmp_path / split / label / "a.wav", "a")
    write_sound(tmp_path / "train" / "yes" / ".hidden.wav", "a")
    (tmp_path / "train" / "notes.md").write_text("not a sound")
    found = said(read_recordings(str(tmp_path)))
    assert found["train"] == {"train/no/a": "no", "train/yes/a": "yes"}
    assert set(found) == {"train", "validation", "test"}


def test_names_say_label_split_and_speaker(tmp_path: Path) -> None:
    for digit in "07":
        for speaker in ("anna", "ben"):
            for take in range(3):
                write_sound(tmp_path / f"{digit}_{speaker}_{take}.wav", digit)
    write_sound(tmp_path / "README_me.wav", "a")
    found = read_recordings(
        str(tmp_path),
        label_pattern=r"(?P<label>\d)_[a-z]+_\d+$",
        test_pattern="_0$",
        validation_pattern="_1$",
        group_pattern="_([a-z]+)_",
    )
    assert {split: len(part) for split, part in found.parts.items()} == {
        "train": 4,
        "validation": 4,
        "test": 4,
    }
    assert {(u.text, u.group) for u in found.parts["test"]} == {
        (digit, speaker) for digit in "07" for speaker in ("anna", "ben")
    }
    assert found.left_out == {"name without a label, as README_me.wav": 1}


def test_what_has_no_transcript_is_counted_and_named(tmp_path: Path) -> None:
    for name in "abc":
        write_sound(tmp_path / f"{name}.wav", name)
    (tmp_path / "transcripts.txt").write_text("a one\nb\n")
    found = read_recordings(str(tmp_path))
    assert said(found) == {"train": {"a": "one"}}
    assert found.left_out == {"without text, as b.wav": 1, "sound without a transcript, as c.wav": 1}


def test_groups_never_part(tmp_path: Path) -> None:
    for speaker in range(40):
        for take in range(2):
            write_sound(tmp_path / "x" / f"s{speaker}_{take}.wav", "a")
    found = read_recordings(str(tmp_path), group_pattern=r"s\d+")
    splits = found.split(validation=0.3, test=0.3)
    speakers = [{u.group for u in part} for part in splits.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 40
    assert sum(map(len, splits.values())) == 80


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"transcripts.txt": "a one\nd two\n"}, {}, r"transcripts.txt, line 2: there is no sound 'd' in"),
        (
            {"transcripts.txt": "a one\na.wav two\n"},
            {},
            "line 2: 'a.wav' has a transcript already, in line 1",
        ),
        ({"transcripts.tsv": "name\ttext\na\tb\n"}, {}, "line 1: no column 'file'"),
        ({"transcripts.md": "a one\n"}, {}, "transcripts end in .tsv, .csv, .jsonl or .txt"),
        ({"transcripts.txt": "a b", "transcripts.tsv": "x"}, {}, "both transcripts.tsv and transcripts.txt"),
        ({}, {}, "nothing says what its 1 sounds are; a folder of sounds has a file transcripts.tsv"),
        ({}, {"label_pattern": "(?P<label>[0-9])"}, "no sound with a transcript; left out: .*name without"),
        ({}, {"label_pattern": "[a-z]"}, "names no group `label`"),
        ({}, {"test_pattern": "(["}, r"test_pattern=\(\[: not a regular expression"),
    ],
)
def test_mistakes_are_one_clear_message(
    files: dict[str, str], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    write_sound(tmp_path / "a.wav", "a")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_recordings(str(tmp_path), **options)


def test_no_folder_and_no_sound(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        read_recordings(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="no sound in it"):
        read_recordings(str(tmp_path))
    write_sound(tmp_path / "yes" / "a.wav", "a")
    with pytest.raises(ValueError, match="no utterance falls into the validation split"):
        read_recordings(str(tmp_path)).split(validation=0.0, test=0.9)
