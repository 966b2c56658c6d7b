import json
from pathlib import Path

import pytest

from rnnlab.data import TextClassificationData, Vocabulary


def write_reviews(folder: Path, n: int = 120) -> Path:
    path = folder / "own.tsv"
    words = ("poor", "fine")
    path.write_text(
        "text\tlabel\n" + "".join(f"a {words[i % 2]} film {i}\t{'np'[i % 2]}\n" for i in range(n))
    )
    return path


def ready(source: object, **options) -> TextClassificationData:
    data = TextClassificationData(str(source), **options)
    data.setup("fit")
    return data


def test_facts_are_plain_and_tell_all_that_encoding_needs(tmp_path: Path) -> None:
    data = ready(write_reviews(tmp_path), max_length=3)
    facts = data.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["labels"] == ["n", "p"]
    assert (facts["tokenizer"], facts["lowercase"], facts["max_length"]) == ("word", True, 3)
    vocabulary = Vocabulary(facts["vocabulary"])
    assert {"a", "poor", "fine"} <= set(vocabulary.tokens)
    assert "film" in vocabulary
    batch = next(iter(data.val_dataloader()))
    decoded = {tuple(vocabulary.decode(column)) for column in batch.inputs.T.tolist()}
    assert decoded == {("a", "fine", "film"), ("a", "poor", "film")}


def test_the_vocabulary_is_counted_on_the_training_split(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nalpha,0\nbeta,1\n")
    (tmp_path / "validation.csv").write_text("text,label\ngamma,0\n")
    (tmp_path / "test.csv").write_text("text,label\ngamma,1\n")
    data = ready(tmp_path, min_count=1)
    assert data.facts()["vocabulary"] == ["<pad>", "<unk>", "alpha", "beta"]
    assert next(iter(data.test_dataloader())).inputs.tolist() == [[1]]
    assert data.summary()["unknown_in_test"] == 1.0


def test_batches_agree_with_the_texts(tmp_path: Path) -> None:
    data = ready(write_reviews(tmp_path), batch_size=8)
    vocabulary = Vocabulary(data.facts()["vocabulary"])
    seen = 0
    for batch in data.train_dataloader():
        assert batch.lengths.device.type == "cpu"
        for column, label in zip(batch.inputs.T.tolist(), batch.targets.tolist(), strict=True):
            assert ("fine" in vocabulary.decode(column)) == (label == 1)
            seen += 1
    assert seen == sum(data.summary()["examples"]["train"].values())


def test_training_order_changes_by_epoch_and_is_fixed_by_the_seed(tmp_path: Path) -> None:
    path = write_reviews(tmp_path)

    def order(seed: int, epoch: int) -> list[list[int]]:
        loader = ready(path, batch_size=8, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch.targets.tolist() for batch in loader]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_adopted_facts_replace_the_data_s_own(tmp_path: Path) -> None:
    trained = ready("movie_reviews", tokenizer="char", max_length=20)
    other = TextClassificationData("amazon_reviews")
    other.adopt(trained.facts())
    other.setup("test")
    assert other.facts() == trained.facts()
    assert max(int(batch.lengths.max()) for batch in other.test_dataloader()) == 20

    stranger = TextClassificationData(str(write_reviews(tmp_path)))
    stranger.adopt(trained.facts())
    with pytest.raises(ValueError, match="label 'n', which is not among the model's labels: 'negative'"):
        stranger.setup("test")


def test_labels_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'abc'[i % 3]}\n" for i in range(150)))
    data = ready(path, labels=["c", "a"])
    assert data.facts()["labels"] == ["c", "a"]
    assert data.summary()["left_out"] == {"another label": 50}
    with pytest.raises(ValueError, match="no example of 'z'"):
        ready(path, labels=["a", "c", "z"])


def test_the_summary_counts_what_was_done() -> None:
    summary = ready("amazon_reviews", max_length=30).summary()
    assert summary["left_out"] == {"neutral": 98}
    assert summary["without_tokens"] == 0
    assert 0 < summary["truncated"] < 600
    assert sum(sum(counts.values()) for counts in summary["examples"].values()) == 3610
    assert json.loads(json.dumps(summary)) == summary


def test_examples_are_spread_and_fixed() -> None:
    data = ready("movie_reviews")
    examples = data.examples("test", 4)
    assert examples == data.examples("test", 4)
    assert len(set(examples)) == 4
    assert {label for _, label in data.examples("test", 10**6)} == {"negative", "positive"}


def test_a_text_without_a_token_is_one_unknown_word(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("text,label\n" + "".join(f"word {i},{i % 2}\n" for i in range(80)) + ' ,0\n"",1\n')
    data = ready(path)
    assert data.summary()["without_tokens"] == 2
    shortest = min(
        int(b.lengths.min()) for s in ("train", "val", "test") for b in getattr(data, f"{s}_dataloader")()
    )
    assert shortest == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n" + "same old film,1\n" * 3, "no example falls into"),
        ("text,label\n" + "".join(f"film {i},1\n" for i in range(99)), "two classes are needed.*only '1'"),
        (
            "text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(99)) + "something else,odd\n",
            "label 'odd'|no example of 'odd'",
        ),
    ],
)
def test_data_that_teach_nothing_are_told(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        ready(path, validation=0.4, test=0.4 if "odd" in content else 0.1)


def test_texts_that_are_all_empty_are_told(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text('text,label\n" ",0\n" ",1\n')
    with pytest.raises(ValueError, match="none of the 2 training texts has a token; is text_column='text'"):
        ready(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "bpe"}, "tokenizer 'bpe'"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers is at least 0"),
        ({"max_length": 0}, "max_length is at least 1; got 0"),
        ({"test": 0.95}, "sum to less than 1"),
    ],
)
def test_bad_settings_are_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextClassificationData(**options)


def test_asking_before_setup_is_told() -> None:
    with pytest.raises(RuntimeError, match="call it first"):
        TextClassificationData().facts()
