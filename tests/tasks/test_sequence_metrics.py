"""Error rates against the closest of several references."""

import pytest
import torch

from rnnlab.data.streams import NO_TARGET
from rnnlab.tasks.sequence_metrics import closest, sequence_metrics
from rnnlab.tasks.span_metrics import SpanF1


def test_the_closest_reference_has_the_fewest_edits() -> None:
    assert closest("a b c", ["x y z", "a b d", "a b c d e"]) == "a b d"
    assert closest("a b", ["a b c", "a b"]) == "a b"
    assert closest("", ["a b", "a"]) == "a"
    assert closest("q", ["a", "b"]) == "a"


def test_error_rates_of_phonemes_and_words() -> None:
    metrics = sequence_metrics("phoneme", "word", "test/")
    metrics.update(["R EH D", "K AE T"], [["R IY D", "R EH D"], ["D AO G", "K AE T S"]])
    metrics.update(["AA"], [["B AA B"]])
    measured = {key: value.item() for key, value in metrics.compute().items()}
    # One edit of each of the last two; the closest references have 3, 4 and 3 phonemes.
    assert measured == {
        "test/phoneme_error_rate": pytest.approx(3 / 10),
        "test/word_error_rate": pytest.approx(2 / 3),
    }
    metrics.reset()
    metrics.update(["A"], [["A"]])
    assert metrics.compute()["test/word_error_rate"] == 0


def test_words_have_bleu() -> None:
    metrics = sequence_metrics("word", "sentence", "")
    metrics.update(["the cat sat on the mat"], [["the cat sat on the mat", "a cat"]])
    assert metrics.compute()["bleu"] == pytest.approx(1.0)


LABELS = ["O", "B-x", "I-x", "B-y", "I-y"]


def scores(tags: list[str]) -> torch.Tensor:
    return torch.eye(len(LABELS))[[LABELS.index(tag) for tag in tags]]


def test_spans_are_right_as_a_whole_or_not_at_all() -> None:
    truth = ["B-x", "I-x", "O", "B-y", "O", "B-x"]
    said = ["B-x", "O", "O", "B-y", "O", "I-x"]
    target = torch.tensor([LABELS.index(tag) for tag in truth] + [NO_TARGET])
    predictions = torch.cat([scores(said), scores(["O"])])
    for measure, value in (("precision", 2 / 3), ("recall", 2 / 3), ("f1", 2 / 3)):
        metric = SpanF1(LABELS, measure)
        metric.update(predictions, target)
        assert metric.compute() == pytest.approx(value)
    metric = SpanF1(LABELS, "f1")
    metric.update(scores(["O", "O"]), torch.tensor([0, NO_TARGET]))
    assert metric.compute() == 0


def test_no_span_joins_two_sentences() -> None:
    metric = SpanF1(LABELS, "precision")
    gap = torch.tensor([NO_TARGET])
    first, second = torch.tensor([1]), torch.tensor([2])
    metric.update(torch.cat([scores(["B-x", "O", "I-x", "O"])]), torch.cat([first, gap, second, gap]))
    assert (int(metric.found), int(metric.true), int(metric.right)) == (2, 2, 2)
    with pytest.raises(ValueError, match="measure is 'precision', 'recall' or 'f1'"):
        SpanF1(LABELS, "accuracy")
