"""Pairs of sequences, from files as they come and from the bundled sets."""

from pathlib import Path

import pytest
import torch

from rnnlab.data import PairData
from rnnlab.data.pair_sources import read_cmudict, read_pairs, read_verse_pairs
from rnnlab.data.vocabulary import EOS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Words and their reverse; each third has a second target, one is written twice."""
    lines = ["source\ttarget"]
    for n in range(120):
        word = f"{n:03d}".translate(str.maketrans("0123456789", "abcdefghij"))
        lines.append(f"{word}\t{' '.join(reversed(word))}")
        if n % 3 == 0:
            lines.append(f"{word}\tx {' '.join(reversed(word))}")
    lines += [lines[1], "", "toolongaword\tt o o"]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make(source: Path | str, **options) -> PairData:
    data = PairData(
        str(source), **{"validation": 0.2, "test": 0.2, "batch_size": 8, "max_source": 5, **options}
    )
    data.setup()
    return data


def test_batches_are_the_pairs_of_the_file(table: Path) -> None:
    data = make(table)
    summary = data.summary()
    assert summary["left_out"] == {"repeated pairs": 1, "longer than the limit": 1}
    assert sum(summary["examples"].values()) == 120
    assert sum(summary["targets"].values()) == 160
    for split, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        seen = 0
        for batch in loader:
            assert batch.target.shape[1] == len(batch.owners) >= len(batch)
            for column, owner in enumerate(batch.owners.tolist()):
                source = data.source_vocabulary.decode(
                    batch.source[: batch.source_lengths[owner], owner].tolist()
                )
                length = int(batch.target_lengths[column])
                target = data.target_vocabulary.decode(batch.target[:length, column].tolist())
                assert target[-1] == EOS
                assert [token for token in reversed(target[:-1]) if token != "x"] == source
                assert not batch.target[length:, column].any()
            if split == "train":
                assert batch.owners.tolist() == list(range(len(batch)))
            seen += len(batch)
        expected = summary["targets" if split == "train" else "examples"][split]
        assert seen == expected


def test_all_targets_of_a_source_are_in_one_split(table: Path) -> None:
    data = make(table)
    sources = {
        split: {source for source, _ in data.examples(split, 1000)}
        for split in ("train", "validation", "test")
    }
    assert not sources["train"] & sources["test"] and not sources["train"] & sources["validation"]


def test_a_folder_has_splits_of_its_own(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    text = table.read_text(encoding="utf-8")
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    assert make(folder).summary()["examples"] == {"train": 120, "validation": 120, "test": 120}
    (folder / "valid.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"two files, one of them valid.tsv, are the validation split"):
        make(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("source\ttarget\na\tb\nc\t\n", "line 3: the target is empty; give one or delete the line"),
        ("source\ttarget\na\tb\n\tc\n", "line 3: the source is empty"),
        ("source\ttarget\na\tb\tc\n", "line 2: 3 fields where the first line has 2"),
        ("word\ttarget\na\tb\n", "line 1: no column 'source'; the columns are 'word', 'target'"),
        ("source\ttarget\n", "there is no row of data after the header"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"pairs.tsv.*{told}"):
        read_pairs(str(path))


def test_a_source_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder.*bundled are cmudict, verses_en_es"):
        read_pairs(str(tmp_path / "nothing.tsv"))
    with pytest.raises(ValueError, match="needed are files named train, validation and test"):
        read_pairs(str(tmp_path))


def test_symbols_that_a_model_does_not_know_are_counted(table: Path, tmp_path: Path) -> None:
    trained = make(table)
    other = tmp_path / "other.tsv"
    rows = [f"{'z' * (n % 4 + 1)}{'a' * (n // 4)}\tz" for n in range(20)]
    other.write_text("source\ttarget\n" + "\n".join(rows) + "\n", encoding="utf-8")
    again = PairData(str(other), validation=0.3, test=0.3, max_source=50)
    again.adopt(trained.facts())
    again.setup()
    assert again.facts() == trained.facts()
    summary = again.summary()
    assert summary["unknown_in_test"]["source"] > 0 and summary["unknown_in_test"]["target"] > 0
    # The model's limit holds, not that of the settings.
    assert summary["left_out"]["longer than the limit"] > 0


def test_the_facts_of_another_task_are_refused(table: Path) -> None:
    with pytest.raises(ValueError, match="model knows no source_vocabulary: it was trained on other data"):
        PairData(str(table)).adopt({"vocabulary": ["<pad>", "<unk>"], "labels": ["a"]})


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="max_source and max_target are at least 1"):
        PairData(max_target=0)
    with pytest.raises(ValueError, match="token_name is one word"):
        PairData(token_name="two words")
    with pytest.raises(ValueError, match="token_name and sequence_name differ"):
        PairData(token_name="word", sequence_name="word")


def test_cmudict_has_its_words_with_all_their_pronunciations() -> None:
    words = read_cmudict().parts["train"]
    assert len(words) == 126052
    assert words.targets["read"] == ["R EH D", "R IY D"]
    # `tomato` is said in two ways, and stress tells nothing apart here.
    assert words.targets["tomato"] == ["T AH M EY T OW", "T AH M AA T OW"]
    assert read_cmudict(stress=True).parts["train"].targets["read"] == ["R EH1 D", "R IY1 D"]
    assert not any("#" in target for targets in words.targets.values() for target in targets)


def test_verses_are_paired_by_their_citation() -> None:
    verses = read_verse_pairs().parts["train"]
    assert verses.targets["In the beginning God created the heaven and the earth."] == [
        "EN el principio crió Dios los cielos y la tierra."
    ]
    assert len(verses) > 30000


def test_a_batch_moves_and_keeps_its_lengths() -> None:
    data = PairData("verses_en_es", source_tokenizer="word", target_tokenizer="word", max_source=6)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    moved = batch.to(torch.device("meta"))
    assert moved.source.is_meta and moved.target.is_meta and not moved.owners.is_meta
    assert len(moved) == len(batch)
