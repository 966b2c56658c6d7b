"""Running text as the wild has it: files, folders of the Penn Treebank and WikiText, documents, the hub."""

import gzip
import lzma
import sys
from types import ModuleType

import pytest

from rnnlab.data.running_text import read_running_text, read_verses


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


LINES = "".join(f"line {n} of the text\n" for n in range(200))


def test_the_bundled_bible_is_whole_and_its_books_never_part():
    text = read_running_text("kjv")
    books = {document.name: document.text for document in text.parts["train"]}
    assert len(books) == 66
    assert sum(book.count("\n") for book in books.values()) == len(read_verses()) == 31102
    assert books["Genesis"].startswith("In the beginning God created the heaven and the earth.\n")
    splits = text.split(validation=0.05, test=0.05)
    assert sum(map(len, splits.values())) == sum(map(len, books.values()))
    held_out = {"validation": ["Ezra", "Isaiah", "Lamentations", "Amos", "2 Timothy"]}
    held_out["test"] = ["Leviticus", "Ruth", "Micah", "Zechariah", "John"]
    for split, names in held_out.items():
        assert splits[split] == "".join(books[name] for name in names)


def test_one_file_is_cut_at_ends_of_lines_in_its_order(tmp_path):
    splits = read_running_text(str(write(tmp_path / "book.txt", LINES))).split(validation=0.1, test=0.2)
    assert "".join(splits.values()) == LINES
    assert all(part.endswith("\n") for part in splits.values())
    assert len(splits["test"]) == pytest.approx(0.2 * len(LINES), abs=40)
    assert len(splits["validation"]) == pytest.approx(0.1 * len(LINES), abs=40)


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz"])
def test_windows_line_ends_a_mark_of_byte_order_and_compression_leave_no_trace(tmp_path, suffix):
    raw = ("\ufeff" + LINES.replace("\n", "\r\n").rstrip()).encode()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get("." + suffix.split(".")[-1], bytes)
    path = tmp_path / f"book{suffix}"
    path.write_bytes(pack(raw))
    (document,) = read_running_text(str(path)).parts["train"]
    assert document.text == LINES


def test_the_folder_of_the_penn_treebank_has_words_and_characters_side_by_side(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path / f"ptb.{split}.txt", f" no it was n't black <unk> of {split} \n")
        write(tmp_path / f"ptb.char.{split}.txt", f" n o _ {split} \n")
    write(tmp_path / "README", "about")
    words = read_running_text(str(tmp_path)).split(validation=0.3, test=0.3)
    assert words["validation"] == " no it was n't black <unk> of valid \n"
    characters = read_running_text(str(tmp_path), characters=True).split(validation=0.3, test=0.3)
    assert characters["test"] == " n o _ test \n"


def test_the_folder_of_wikitext(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path / f"wiki.{split}.tokens", f" \n = {split} = \n \n text of @-@ {split} \n")
    assert read_running_text(str(tmp_path)).split(validation=0, test=0)["train"].count("\n") == 4


def test_a_split_that_a_folder_lacks_is_cut_from_its_training_text(tmp_path):
    write(tmp_path / "train.txt", LINES)
    write(tmp_path / "test.txt", "held out\n")
    write(tmp_path / "notes.txt", "not a split\n")
    text = read_running_text(str(tmp_path))
    splits = text.split(validation=0.1, test=0.5)
    assert splits["test"] == "held out\n"
    assert splits["train"] + splits["validation"] == LINES
    assert text.left_out == {"files that are no split": 1}


def test_a_folder_of_documents_keeps_each_whole(tmp_path):
    names = [f"document-{n}-of-the-test.txt" for n in range(40)]
    for name in names:
        write(tmp_path / name, f"{name}\nends here")
    splits = read_running_text(str(tmp_path)).split(validation=0.2, test=0.2)
    lines = [line for part in splits.values() for line in part.split("\n")]
    assert sorted(line for line in lines if line.startswith("document")) == sorted(names)
    assert all(part.endswith("ends here\n") for part in splits.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.txt", "no such file or folder"),
        (lambda folder: write(folder / "empty.txt", " \n"), "the file is empty"),
        (lambda folder: write(folder / "old.txt", "caf\u00e9\n", "latin-1"), r"old.txt, line 1: byte 0xe9"),
        (lambda folder: write(folder / "a" / "data.bin", "x").parent, "there is no file that ends in"),
        (lambda folder: [write(folder / n, "x\n") for n in ("train.txt", "b.train.txt")] and folder, "both"),
        (lambda folder: write(folder / "short.txt", "one line\n"), "no text falls into the"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        read_running_text(str(make(tmp_path))).split(validation=0.1, test=0.1)


class Table:
    """As much of `datasets.Dataset` as is read."""

    def __init__(self, **columns):
        self.columns, self.column_names = columns, list(columns)

    def __len__(self):
        return len(self.columns[self.column_names[0]])

    def __getitem__(self, name):
        return self.columns[name]


@pytest.fixture
def hub(monkeypatch):
    module = ModuleType("datasets")
    module.Dataset = Table
    module.load_dataset = lambda path, **options: {
        "train": Table(text=["", " = Title = \n", "body\n", None]),
        "validation": Table(text=["v"]),
        "test": Table(text=["t\n"]),
        "unsupervised": Table(text=["x", "y"]),
    }
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.mark.usefixtures("hub")
def test_rows_of_a_hub_data_set_are_lines():
    text = read_running_text("hf:Salesforce/wikitext", hub_options={"name": "wikitext-2-raw-v1"})
    splits = text.split(validation=0, test=0)
    assert splits == {"train": "\n = Title = \nbody\n", "validation": "v\n", "test": "t\n"}
    assert text.left_out == {"split unsupervised": 2, "rows without text": 1}
    with pytest.raises(ValueError, match="no column 'body'; the columns are 'text'"):
        read_running_text("hf:x", text_column="body")


def test_the_hub_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"rnnlab\[hf\]"):
        read_running_text("hf:Salesforce/wikitext")
