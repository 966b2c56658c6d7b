"""The data of language models: what is counted, what is unknown, what comes back as text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data import LanguageData, Vocabulary
from rnnlab.data.language import encode_text, text_tokens
from rnnlab.data.tokenizers import join_tokens
from rnnlab.data.vocabulary import EOS

TEXT = "The cat sat.\n\nIt didn't move; the dog's bark (loud) did.\n" * 30


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def vocabulary(text, tokenizer):
    tokens = text_tokens(text, tokenizer)
    return Vocabulary.build([tokens, ["\u20ac"]], specials=(EOS,))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(text=texts, name=st.sampled_from(["char", "word", "space"]))
def test_a_long_text_is_numbered_as_its_tokens_are(text, name):
    known = vocabulary(text[: len(text) // 2], name)
    assert encode_text(text, known, name).tolist() == known.encode(text_tokens(text, name))


@given(text=texts)
def test_characters_come_back_exactly(text):
    assert join_tokens("char", text_tokens(text, "char")) == text


def test_words_come_back_as_in_print():
    line = "It didn't move; the dog's bark (loud) did."
    assert join_tokens("word", text_tokens(f"{line}\n{line}", "word")) == f"{line}\n{line}"
    assert join_tokens("space", text_tokens(" no it was n't <unk> \n", "space")) == "no it was n't <unk>\n"


def test_every_line_end_is_a_token_and_every_character_is_counted_once(book):
    data = LanguageData(str(book), batch_size=4, eval_batch_size=3, window=16)
    data.setup()
    assert sum(data.summary()["tokens"].values()) == len(TEXT)
    seen = sum(int((batch.targets >= 0).sum()) for batch in data.test_dataloader())
    assert seen == data.summary()["tokens"]["test"]
    eos = data.vocabulary.encode([EOS])[0]
    read = torch.cat([batch.targets for batch in data.train_dataloader()]).t().flatten()
    assert int((read == eos).sum()) == pytest.approx(TEXT.count("\n") * 0.9, abs=3)
    text = join_tokens("char", data.vocabulary.decode(read.tolist()))
    assert TEXT.startswith(text)


def test_rare_words_are_unknown_and_counted(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a b a b\n" * 50 + "a rare b\n" + "a b a b\n" * 8, encoding="utf-8")
    data = LanguageData(str(path), tokenizer="space", min_count=2, batch_size=2, validation=0.2, test=0.2)
    data.setup()
    assert data.vocabulary.to_list() == ["<pad>", "<unk>", "<eos>", "a", "b"]
    assert data.summary()["unknown"]["test"] > 0
    assert data.summary()["unknown"]["train"] == 0


def test_the_written_unk_of_a_prepared_corpus_is_the_vocabularys_own(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text(" the <unk> fell \n" * 9, encoding="utf-8")
    data = LanguageData(str(tmp_path), tokenizer="space", batch_size=1, window=4)
    data.setup()
    assert data.vocabulary.to_list() == ["<pad>", "<unk>", "<eos>", "fell", "the"]
    batch = next(iter(data.train_dataloader()))
    assert batch.targets[:, 0].tolist() == data.vocabulary.encode(["the", "<unk>", "fell", "<eos>"])
    assert batch.inputs[:, 0].tolist() == data.vocabulary.encode(["<eos>", "the", "<unk>", "fell"])


def test_a_trained_models_vocabulary_is_adopted_and_the_rest_is_told(book, tmp_path):
    first = LanguageData(str(book), batch_size=2, window=8)
    first.setup()
    other = tmp_path / "other.txt"
    other.write_text("\u03b1\u03b2\u03b3 cat\n" * 100, encoding="utf-8")
    data = LanguageData(str(other), tokenizer="word", batch_size=2, window=8)
    data.adopt(first.facts())
    data.setup()
    assert data.facts()["vocabulary"] == first.facts()["vocabulary"]
    assert data.facts()["tokenizer"] == "char"
    assert data.summary()["unknown"]["test"] == pytest.approx(3 / 8, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": "subword"}, "tokenizer 'subword' is not known"),
        ({"window": 0}, "a window has at least 1 steps; got 0"),
        ({"window": 5, "vary_window": True}, "at least 10 steps, where its length varies"),
        ({"validation": 0.6, "test": 0.4}, "sum to less than 1"),
        ({"batch_size": 0}, "batch_size and eval_batch_size are at least 1"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        LanguageData(**settings)


def test_a_text_shorter_than_the_batch_is_refused(book):
    data = LanguageData(str(book), batch_size=5000)
    data.setup()
    with pytest.raises(ValueError, match="5000 streams need at least as many tokens"):
        data.train_dataloader()


def test_the_facts_of_another_task_are_refused() -> None:
    data = LanguageData()
    data.adopt({"labels": ["a"], "vocabulary": ["<pad>", "<unk>"]})
    with pytest.raises(ValueError, match=r"read by a model's tokenizer, and the checkpoint's model has none"):
        data.setup()
