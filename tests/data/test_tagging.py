"""Tagged sentences, from files as the wild has them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlab.data import TaggingData
from rnnlab.data.bio import Span, spans, starts_alone
from rnnlab.data.streams import NO_TARGET
from rnnlab.data.tag_sources import marked_tokens, read_tagged, restored
from rnnlab.data.tagging import shortened

WILD = """-DOCSTART- -X- O

EU NNP B-ORG
rejects VBZ O
# NN O
German JJ B-MISC
\t
call NN I-LOC
. . O



Peter NNP B-PER
Blackburn NNP I-PER
"""
CONLLU = """# sent_id = 1
# text = Don't go.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
3.1\tthere\tthere\tADV\tRB\t_\t_\t_\t_\t_
4\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

"""


def written(folder: Path, text: str, name: str = "train.conll") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_conll_columns_as_they_come(tmp_path: Path) -> None:
    corpus = read_tagged(written(tmp_path, WILD), scheme="bio")
    sentences = corpus.parts["train"]
    assert sentences.tokens == [["EU", "rejects", "#", "German"], ["call", "."], ["Peter", "Blackburn"]]
    assert sentences.tags[0] == ["B-ORG", "O", "O", "B-MISC"]
    # The sentence that begins with I-LOC is counted, and read as the beginning of a span.
    assert corpus.left_out == {"-DOCSTART- lines": 1, "I- tags read as B-": 1}
    assert read_tagged(written(tmp_path, WILD), tag_column=1).parts["train"].tags[2] == ["NNP", "NNP"]


def test_conllu_gives_the_syntactic_words(tmp_path: Path) -> None:
    path = written(tmp_path, CONLLU * 2, "a.conllu")
    corpus = read_tagged(path, token_column="form", tag_column="upos")
    assert corpus.parts["train"].tokens == [["Do", "n't", "go", "."]] * 2
    assert corpus.parts["train"].tags[0] == ["AUX", "PART", "VERB", "PUNCT"]
    assert corpus.left_out == {"multiword tokens and empty nodes": 4}
    assert read_tagged(path, token_column="form", tag_column="xpos").parts["train"].tags[0][0] == "VB"


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("a\tO\nb\n", {}, "line 2: 1 columns where there were 2 before"),
        ("a\tO\n\nb c\tO\tO\n", {}, "line 3: 3 columns where there were 2 before"),
        ("a\tO\n\tO\n", {}, "line 2: the token is empty"),
        ("a\tO\nb\t\n", {}, "line 2: the tag is empty"),
        ("a\tB-x\nb\tC-x\n", {"scheme": "bio"}, "line 2: tag 'C-x' is not of the scheme BIO"),
        ("a\tO\n", {"tag_column": 2}, "there is no column number 2; its lines have 2"),
        ("a\tO\n", {"tag_column": 0}, "token_column=0 and tag_column=0 are the same"),
        ("a\tO\n", {"tag_column": "upos"}, "column 'upos' is not known"),
        ("a\n", {}, "are the same of 1 columns"),
        ("\n\n", {}, "the file is empty"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(
    tmp_path: Path, text: str, options: dict, told: str
) -> None:
    with pytest.raises(ValueError, match=f"train.conll.*{told}"):
        read_tagged(written(tmp_path, text), **options)


def test_files_of_a_folder_are_found_by_their_names_or_named(tmp_path: Path) -> None:
    for name in ("x.train.conll", "x.dev.conll", "x-test.conll"):
        written(tmp_path, WILD, name)
    assert set(read_tagged(str(tmp_path)).parts) == {"train", "validation", "test"}
    written(tmp_path, WILD, "x.test.bio")
    with pytest.raises(ValueError, match=r"both x-test.conll and x.test.bio are the test split"):
        read_tagged(str(tmp_path))
    named = {"train": "x.train.conll", "test": "x.test.bio"}
    assert set(read_tagged(str(tmp_path), files=named).parts) == {"train", "test"}
    with pytest.raises(ValueError, match=r"y\.conll: no such file"):
        read_tagged(str(tmp_path), files={"train": "y.conll"})
    with pytest.raises(ValueError, match=r"Name the folder that holds the data: data\.source=FOLDER"):
        read_tagged(str(tmp_path / "nothing"))


def test_batches_hold_words_spellings_and_tags(tmp_path: Path) -> None:
    path = written(tmp_path, "The DT\ncat NN\nsits VB\n\nThe DT\nunbelievable JJ\nCat NN\n\n" * 40)
    data = TaggingData(path, validation=0.4, test=0.3, max_characters=6, max_length=2, batch_size=4)
    # Copies of a sentence never part: two distinct ones cannot fill three splits.
    with pytest.raises(ValueError, match="no sentence falls into the"):
        data.setup()
    for name in ("train", "valid", "test"):
        written(tmp_path, Path(path).read_text(encoding="utf-8"), f"{name}.conll")
    data = TaggingData(str(tmp_path), max_characters=6, max_length=2, batch_size=4)
    data.setup()
    assert data.summary()["left_out"] == {"sentences cut into pieces": 240}
    assert data.summary()["tokens"]["train"] == 240
    for batch in data.train_dataloader():
        assert batch.words.shape == batch.spelled.shape == batch.targets.shape
        assert not batch.spellings[0].any()
        for row, length in enumerate(batch.lengths.tolist()):
            assert (batch.targets[length:, row] == NO_TARGET).all()
            assert not batch.spelled[length:, row].any()
            for word, place in zip(batch.words[:length, row], batch.spelled[:length, row], strict=True):
                spelt = "".join(data.characters.decode(batch.spellings[place][batch.spellings[place] > 0]))
                token = data.vocabulary.tokens[word]
                assert spelt.lower() == shortened(token, 6)
    assert shortened("unbelievable", 6) == "unbble"


def test_a_tag_that_training_does_not_know_is_refused(tmp_path: Path) -> None:
    for name, tag in (("train", "NN"), ("valid", "NN"), ("test", "XX")):
        written(tmp_path, f"a\t{tag}\nb\tVB\n", f"{name}.conll")
    with pytest.raises(ValueError, match="the test split has tag 'XX', which is not among the training"):
        TaggingData(str(tmp_path), min_count=1).setup()
    with pytest.raises(ValueError, match="the checkpoint's model knows no characters: it was trained"):
        TaggingData(str(tmp_path)).adopt({"vocabulary": [], "labels": []})


TAGS = st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y"]), max_size=12)


@given(tags=TAGS)
def test_spans_cover_what_is_not_outside_and_write_the_tags_again(tags: list[str]) -> None:
    found = spans(tags)
    covered = [place for span in found for place in range(span.start, span.stop)]
    assert covered == [place for place, tag in enumerate(tags) if tag != "O"]
    again = ["O"] * len(tags)
    for span in found:
        again[span.start : span.stop] = [f"B-{span.kind}"] + [f"I-{span.kind}"] * (span.stop - span.start - 1)
    alone = [starts_alone(b, t) for b, t in zip(["O", *tags], tags, strict=False)]
    mended = [f"B{tag[1:]}" if one else tag for tag, one in zip(tags, alone, strict=True)]
    assert again == mended
    assert spans(again) == found


def test_spans_of_the_scheme() -> None:
    assert spans(["B-x", "I-x", "B-x", "O", "I-y", "I-x"]) == [
        Span(0, 2, "x"),
        Span(2, 3, "x"),
        Span(4, 5, "y"),
        Span(5, 6, "x"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "And the LORD said unto Moses, I AM THAT I AM: and he said, Thus shalt thou say.",
        "What is man, that thou art mindful of him? and the LORD's house!",
        "He maketh my feet like hinds' feet: and setteth me upon my high places.",
    ],
)
def test_tags_of_marks_give_the_text_back(text: str) -> None:
    tokens, tags = marked_tokens(text)
    assert all(token == token.lower() for token in tokens)
    assert restored(tokens, tags) == text


def test_bundled_verses_and_unknown_words() -> None:
    data = TaggingData()
    data.setup()
    assert sum(data.summary()["sentences"].values()) == 31102
    assert data.summary()["unknown_in_test"] < 0.02
    assert "AA," in data.labels and "a" in data.labels


def test_shared_task_folders_are_read_whole(local_data: Path) -> None:
    names = {
        "train_file": "wnut17train.conll",
        "validation_file": "emerging.dev.conll",
        "test_file": "emerging.test.annotated",
    }
    data = TaggingData(str(local_data / "wnut17"), scheme="bio", **names)
    data.setup()
    assert data.summary()["sentences"] == {"train": 3394, "validation": 1009, "test": 1287}
    assert len(data.labels) == 13
    treebank = TaggingData(str(local_data / "ud_ewt"), token_column="form", tag_column="upos", max_length=300)
    treebank.setup()
    assert treebank.summary()["sentences"] == {"train": 12544, "validation": 2001, "test": 2077}
    assert len(treebank.labels) == 17
    assert torch.is_tensor(next(iter(treebank.test_dataloader())).words)
