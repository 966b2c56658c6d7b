import builtins
import json
from pathlib import Path

import pytest

from rnnlab.data.corpora import Corpus, LabelledTexts, read_corpus, text_key


def pairs(corpus: Corpus) -> dict[str, list[tuple[str, str]]]:
    return {split: list(zip(part.texts, part.labels, strict=True)) for split, part in corpus.parts.items()}


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("name", "counts", "neutral"),
    [("movie_reviews", (5242, 5326), 37), ("amazon_reviews", (2128, 1482), 98)],
)
def test_the_bundled_reviews_are_whole(name: str, counts: tuple[int, int], neutral: int) -> None:
    corpus = read_corpus(name)
    labels = corpus.parts["train"].labels
    assert (labels.count("positive"), labels.count("negative")) == counts
    assert corpus.left_out == {"neutral": neutral}
    assert corpus.label_order == ["negative", "positive"]
    assert not any("&amp;" in text or "\r" in text for text in corpus.parts["train"].texts)


def test_the_bundled_reviews_do_not_leak_between_splits() -> None:
    splits = read_corpus("movie_reviews").split(validation=0.1, test=0.1)
    seen = [{text_key(text) for text in part.texts} for part in splits.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert [len(part) for part in splits.values()] == [8529, 996, 1043]

    products = read_corpus("amazon_reviews").split(validation=0.1, test=0.1)
    reviews = [set(part.keys) for part in products.values()]
    assert not (reviews[0] & reviews[1] or reviews[0] & reviews[2] or reviews[1] & reviews[2])


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_file_by_its_columns(tmp_path: Path, name: str) -> None:
    rows = [("fine film", "good", "ann"), ("poor film", "bad", "bob")]
    content = {
        "a.tsv": "said\tmark\tby\n" + "".join("\t".join(row) + "\n" for row in rows),
        "a.csv": "said,mark,by\n" + "".join(",".join(row) + "\n" for row in rows),
        "a.jsonl": "".join(
            json.dumps(dict(zip(("said", "mark", "by"), row, strict=True))) + "\n" for row in rows
        ),
    }[name]
    write(tmp_path / name, content)
    corpus = read_corpus(str(tmp_path / name), text_column="said", label_column="mark", group_column="by")
    assert pairs(corpus) == {"train": [("fine film", "good"), ("poor film", "bad")]}
    assert corpus.parts["train"].keys == ["ann", "bob"]


def test_a_folder_of_split_files(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text,label\na,1\nb,0\n")
    write(tmp_path / "dev.jsonl", '{"text": "c", "label": 1}\n')
    write(tmp_path / "test.tsv", "text\tlabel\nd\t0\n")
    write(tmp_path / "README.md", "not data")
    corpus = read_corpus(str(tmp_path))
    assert pairs(corpus) == {
        "train": [("a", "1"), ("b", "0")],
        "validation": [("c", "1")],
        "test": [("d", "0")],
    }


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_a_class(tmp_path: Path, split: bool) -> None:
    for part in ("train", "test") if split else ("",):
        write(tmp_path / part / "pos" / "1_9.txt", f"good {part}")
        write(tmp_path / part / "neg" / "0_2.txt", f"bad {part}")
        write(tmp_path / part / "neg" / "0_3.txt", f"worse {part}")
    got = pairs(read_corpus(str(tmp_path)))
    assert list(got) == (["test", "train"] if split else ["train"])
    tail = "train" if split else ""
    assert got["train"] == [(f"bad {tail}", "neg"), (f"worse {tail}", "neg"), (f"good {tail}", "pos")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no file|there is neither"),
        ({"pos/a.txt": "x", "neg/a.csv": "x"}, "neg: no .txt file.*'neg'"),
        ({"pos/a.txt": "x", "neg/a.txt": ""}, "neg/a.txt: the file is empty"),
        ({"train.csv": "text,label\na,1\n", "train.tsv": "text\tlabel\na\t1\n"}, "are the train split"),
        ({"train.csv": "text,label\na,\n"}, "train.csv, line 2: the label is empty"),
    ],
)
def test_bad_folders_are_told(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_corpus(str(tmp_path))


def test_a_source_that_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(ValueError, match=r"'movies': no such file.*movie_reviews, amazon_reviews.*hf:NAME"):
        read_corpus("movies")


def test_own_splits_are_kept_and_lacking_ones_are_shared_out() -> None:
    train, test = LabelledTexts(), LabelledTexts()
    for number in range(200):
        train.add(f"text {number}", "ab"[number % 2])
    test.add("held out", "a")
    splits = Corpus("here", {"train": train, "test": test}).split(validation=0.2, test=0.2)
    assert splits["test"].texts == ["held out"]
    assert 20 < len(splits["validation"]) < 60
    assert len(splits["validation"]) + len(splits["train"]) == 200
    with pytest.raises(ValueError, match="here: no example falls into the validation split"):
        Corpus("here", {"train": train, "test": test}).split(validation=0.0, test=0.0)


def test_a_hub_set_in_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    for split, rows in {"train": [("a", 1), ("b", 0), ("c", -1)], "test": [("d", 1)]}.items():
        table = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "set" / f"{split}.parquet")
    corpus = read_corpus(f"hf:{tmp_path / 'set'}", hub_options={"cache_dir": str(tmp_path / "cache")})
    assert pairs(corpus) == {"train": [("a", "pos"), ("b", "neg")], "test": [("d", "pos")]}
    assert corpus.left_out == {"without text or label": 1}
    assert corpus.label_order == ["neg", "pos"]

    write(tmp_path / "own.csv", "said,mark\nx,0\ny,1\n")
    options = {"data_files": str(tmp_path / "own.csv"), "cache_dir": str(tmp_path / "cache")}
    corpus = read_corpus("hf:csv", text_column="said", label_column="mark", hub_options=options)
    assert pairs(corpus) == {"train": [("x", "0"), ("y", "1")]}
    with pytest.raises(ValueError, match="split train: no column 'text'; the columns are 'said', 'mark'"):
        read_corpus("hf:csv", hub_options=options)
    with pytest.raises(ValueError, match=r"hf:csv: `datasets` could not load it"):
        read_corpus("hf:csv", hub_options={"data_files": str(tmp_path / "absent.csv")})


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_datasets(name: str, *rest, **options):
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", no_datasets)
    with pytest.raises(ValueError, match=r"hf:imdb needs the package `datasets`: pip install 'rnnlab\[hf\]'"):
        read_corpus("hf:imdb")
