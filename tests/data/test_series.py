from pathlib import Path

import pytest
import torch

from rnnlab.data.series import SeriesData, read_parts, scale_of


def rows(classes: str = "ab", series: int = 10, name: str = "s") -> str:
    lines = ["series,label,x,y"]
    for label in classes:
        for number in range(series):
            lines += [f"{name}{label}{number},{label},{number},{step}" for step in range(3 + number % 3)]
    return "\n".join(lines) + "\n"


def test_the_bundled_sets_come_in_the_official_split() -> None:
    data = SeriesData("japanese_vowels")
    data.setup()
    assert data.summary()["examples"] == {"train": 216, "validation": 54, "test": 370}
    assert data.labels == list("123456789")
    assert (data.dataset("train").targets.bincount() == 24).all()
    assert int(data.dataset("test").lengths.max()) == 29
    motions = read_parts("basic_motions")
    assert [len(motions[split]) for split in ("train", "test")] == [40, 40]
    assert {tuple(series.shape) for series in motions["test"].series} == {(100, 6)}
    assert motions["train"].series[0][0, 0].item() == pytest.approx(0.079106)


def test_a_validation_split_has_each_class_and_depends_on_no_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows("ab"))
    (tmp_path / "b.csv").write_text(rows("ba"))
    held_out = []
    for name in ("a.csv", "b.csv"):
        data = SeriesData(str(tmp_path / name), validation=0.25, test=0.1)
        data.setup()
        assert data.summary()["examples"] == {"train": 14, "validation": 4, "test": 2}
        assert data.dataset("validation").targets.bincount().tolist() == [2, 2]
        found = [data.dataset("validation").row(n).tolist() for n in range(4)]
        held_out.append(sorted(found))
    assert held_out[0] == held_out[1]


def test_a_folder_has_its_own_splits_under_the_names_of_the_archive(tmp_path: Path) -> None:
    for end in ("TRAIN", "TEST"):
        head = "@univariate true\n@classLabel true a b\n@data\n"
        lines = [f"{n},1,2:{'ab'[n % 2]}" for n in range(8 if end == "TRAIN" else 3)]
        (tmp_path / f"Mine_{end}.ts").write_text(head + "\n".join(lines))
    data = SeriesData(str(tmp_path))
    data.setup()
    assert data.summary()["examples"] == {"train": 6, "validation": 2, "test": 3}
    name, series, label = data.examples("test", 1)[0]
    assert name.endswith("Mine_TEST.ts:1") and series.tolist() == [[0], [1], [2]] and label == "a"


def test_the_digits_of_scikit_learn_row_by_row_and_pixel_by_pixel() -> None:
    pytest.importorskip("sklearn")
    by_row, by_pixel = (read_parts(f"digits_{way}")["train"] for way in ("rows", "pixels"))
    assert len(by_row) == len(by_pixel) == 1797
    assert by_row.series[0].shape == (8, 8) and by_pixel.series[0].shape == (64, 1)
    assert torch.equal(by_row.series[5].flatten(), by_pixel.series[5].flatten())
    assert by_row.labels[:3] == ["0", "1", "2"]


def test_a_series_that_is_too_long_is_cut_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows() + "long,a,1,1\nlong,a,,2\n" + "long,a,3,3\n" * 4)
    data = SeriesData(str(tmp_path / "a.csv"), max_length=4)
    data.setup()
    told = data.summary()
    assert told["truncated"] == 7 and told["gaps_filled"] == 1
    assert max(int(data.dataset(split).lengths.max()) for split in ("train", "validation", "test")) == 4


def test_facts_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows("abc"))
    data = SeriesData(str(tmp_path / "a.csv"))
    data.setup()
    facts = data.facts()
    (tmp_path / "b.csv").write_text("series,z,y,x,label\n" + "".join(f"q{n},9,{n},1,b\n" for n in range(5)))
    other = SeriesData(str(tmp_path / "b.csv"))
    other.adopt(facts)
    with pytest.raises(ValueError, match="at least two classes"):
        SeriesData(str(tmp_path / "b.csv")).setup()
    other.setup()
    assert other.facts() == facts
    assert other.dataset("test").flat.shape[1] == 2
    assert set(other.dataset("test").targets.tolist()) == {1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rows("a"), "at least two classes"),
        (rows("ab", 2), "class 'a' has 2 series, too few"),
        ("series,x\na,1\nb,2\nc,3\nd,4\n", "has a series without a label"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        SeriesData(str(tmp_path / "a.csv")).setup()


def test_a_folder_must_agree_with_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file train"):
        read_parts(str(tmp_path))
    with pytest.raises(ValueError, match="no such file or folder, and not one of japanese_vowels"):
        read_parts("japanese_vowel")
    (tmp_path / "train.csv").write_text(rows())
    (tmp_path / "test.csv").write_text(rows().replace("series,label,x,y", "series,label,x,q"))
    with pytest.raises(ValueError, match=r"the test split has 2 channels \(x, q\) where the training split"):
        SeriesData(str(tmp_path)).setup()
    (tmp_path / "test.csv").write_text(rows("abc"))
    with pytest.raises(ValueError, match="the test split has label 'c', which is not among the training"):
        SeriesData(str(tmp_path)).setup()
    (tmp_path / "x_TEST.csv").write_text(rows())
    with pytest.raises(ValueError, match=r"both test.csv and x_TEST.csv are the test split"):
        read_parts(str(tmp_path))


def test_a_channel_that_never_varies_keeps_its_scale() -> None:
    mean, std = scale_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert mean == [2, 5]
    assert std == [1, 1]
