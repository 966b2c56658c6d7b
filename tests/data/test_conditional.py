"""Texts with the label that they are generated from."""

import pytest

from rnnlab.data import ConditionalTextData
from rnnlab.data.tokenizers import join_tokens
from rnnlab.data.vocabulary import EOS


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "poems.tsv"
    rows = [f"{label}\t{label} text number {n}\n" for n in range(60) for label in ("sea", "sky")]
    path.write_text("label\ttext\n" + "".join(rows), encoding="utf-8")
    return path


def test_a_table_of_labels_and_texts(table):
    data = ConditionalTextData(str(table), validation=0.2, test=0.2, batch_size=8, max_length=40)
    data.setup()
    assert data.labels == ["sea", "sky"]
    batch = next(iter(data.train_dataloader()))
    rows = zip(batch.inputs.t().tolist(), batch.lengths.tolist(), batch.targets.tolist(), strict=True)
    for row, length, label in rows:
        tokens = data.vocabulary.decode(row[:length])
        assert tokens[-1] == EOS
        assert join_tokens("char", tokens[:-1]).startswith(f"{data.labels[label]} text number ")
    assert sum(data.summary()["examples"].values()) == 120


def test_a_text_that_is_cut_does_not_end(table):
    data = ConditionalTextData(str(table), validation=0.2, test=0.2, batch_size=8, max_length=10)
    data.setup()
    assert data.summary()["truncated"] == 120
    for batch in data.train_dataloader():
        assert batch.inputs.shape[0] == 10
        assert not (batch.inputs == data.vocabulary.encode([EOS])[0]).any()


def test_a_label_that_training_does_not_know_is_refused(table, tmp_path):
    data = ConditionalTextData(str(table), validation=0.2, test=0.2)
    data.setup()
    other = tmp_path / "other.tsv"
    other.write_text("label\ttext\n" + "".join(f"moon\ttext {n}\n" for n in range(60)), encoding="utf-8")
    again = ConditionalTextData(str(other), validation=0.2, test=0.2)
    again.adopt(data.facts())
    with pytest.raises(ValueError, match="label 'moon', which is not among the model's labels: 'sea', 'sky'"):
        again.setup()


def test_verses_know_their_books():
    data = ConditionalTextData()
    data.setup()
    assert len(data.labels) == 66 and data.labels[0] == "Genesis" and data.labels[-1] == "Revelation"
    assert sum(data.summary()["examples"].values()) == 31102
    assert data.summary()["unknown_in_test"] == 0
    assert all(label in data.labels for _, label in data.examples("test", 5))
