"""Many to many, same length: a tag for each token.

Legend: `T` time, `B` batch, `U` distinct words of a batch, `W` characters of a word, `C` tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from rnnlab.data.bio import is_bio, spans
from rnnlab.data.streams import NO_TARGET
from rnnlab.data.tag_sources import marked_tokens, restored
from rnnlab.data.tagging import TagBatch, TagSequences
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.nn.heads import DenseHead, SymbolEmbedding
from rnnlab.nn.language_model import VariationalDropout
from rnnlab.nn.spelling import Spelling, SpellingKind
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features
from rnnlab.tasks.span_metrics import SpanF1


class Tagging(Task):
    """Words and their spellings, recurrent layers, and scores of the tags of each token.

        x_t = [e(word_t), spelling(word_t)],   h = rnn(x),   scores_t = W h_t + b

    Logged are the loss and the accuracy, the share of tokens that have the right tag.

    Args:
        vocabulary: all words, `<pad>` and `<unk>` first.
        characters: all characters, `<pad>` and `<unk>` first.
        labels: the tags.
        lowercase: look words up in lower case.
        max_length: tokens of a piece; longer inputs are tagged piece by piece.
        max_characters: of a spelling.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer, scheduler: see `Task`.
        embedding_size: features of a word; 0 for spellings alone.
        spelling: `"cnn"`, `"rnn"` or `"none"`; see `Spelling`.
        spelling_size, character_size: features of a spelling and of a character.
        word_dropout: part of the words that training reads as `<unk>`.
        input_dropout: of what the recurrent layers read, one mask a sentence.
        dense_sizes: dense layers before the output.
        dropout: before each dense layer.
        label_smoothing: of the cross-entropy.

    Raises:
        ValueError: a setting out of range, or nothing to read.
    """

    headline: str = "test/accuracy"
    monitor: ClassVar[str] = "val/accuracy"
    monitor_mode: ClassVar[Literal["min", "max"]] = "max"

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        characters: Sequence[str],
        labels: Sequence[str],
        lowercase: bool,
        max_length: int,
        max_characters: int,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        embedding_size: int = 64,
        spelling: SpellingKind = "cnn",
        spelling_size: int = 64,
        character_size: int = 32,
        word_dropout: float = 0.0,
        input_dropout: float = 0.0,
        dense_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing lies in [0, 1); got {label_smoothing}")
        if embedding_size == 0 and spelling == "none":
            raise ValueError("there is nothing to read: embedding_size=0 and spelling=none")
        self.vocabulary, self.characters = Vocabulary(vocabulary), Vocabulary(characters)
        self.labels = list(labels)
        self.lowercase, self.max_length, self.max_characters = lowercase, max_length, max_characters
        self.label_smoothing = label_smoothing
        self.words: nn.Module | None = None
        if embedding_size:
            self.words = SymbolEmbedding(len(self.vocabulary), embedding_size, symbol_dropout=word_dropout)
        self.spelling = Spelling(spelling, len(self.characters), spelling_size, embedding_size=character_size)
        self.input_dropout = VariationalDropout(input_dropout)
        self.rnn = model(input_size=embedding_size + self.spelling.output_size)
        self.head = DenseHead(
            output_features(self.rnn), len(self.labels), hidden_sizes=dense_sizes, dropout=dropout
        )
        self.val_metrics, self.test_metrics = (
            MetricCollection(self.metrics(), prefix=prefix, compute_groups=False)
            for prefix in ("val/", "test/")
        )

    def metrics(self) -> dict[str, Metric | MetricCollection]:
        """What is measured, of scores `[N, C]` and tags `[N]`."""
        return {"accuracy": MulticlassAccuracy(len(self.labels), average="micro", ignore_index=NO_TARGET)}

    def forward(self, batch: TagBatch) -> Tensor:
        """Scores `[T, B, C]` of the tags, before the softmax."""
        features = [] if self.words is None else [self.words(batch.words)]
        if self.spelling.output_size:
            features.append(self.spelling(batch.spellings)[batch.spelled])
        outputs, _ = self.rnn(self.input_dropout(torch.cat(features, dim=2)), lengths=batch.lengths)
        return self.head(outputs)

    def training_step(self, batch: TagBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch's tokens."""
        scores = self(batch).flatten(0, 1)
        loss = F.cross_entropy(scores, batch.targets.flatten(), label_smoothing=self.label_smoothing)
        tokens = int(batch.lengths.sum())
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=tokens)
        return loss

    def validation_step(self, batch: TagBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._evaluate(batch, "val/loss", self.val_metrics)

    def test_step(self, batch: TagBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._evaluate(batch, "test/loss", self.test_metrics)

    def _evaluate(self, batch: TagBatch, name: str, metrics: MetricCollection) -> None:
        scores = self(batch)
        tokens = int(batch.lengths.sum())
        loss = F.cross_entropy(scores.flatten(0, 1), batch.targets.flatten())
        self.log(name, loss, on_epoch=True, batch_size=tokens, sync_dist=True)
        # Sentence by sentence, with a token without a target between two, so that no span joins them.
        rows, targets = scores.transpose(0, 1), batch.targets.t()
        apart = F.pad(targets, (0, 1), value=NO_TARGET).flatten()
        metrics.update(F.pad(rows, (0, 0, 0, 1)).flatten(0, 1), apart)
        self.log_dict(metrics, on_epoch=True, batch_size=len(batch))

    @torch.no_grad()
    def tag(self, sentences: Sequence[Sequence[str]], *, batch_size: int = 64) -> list[list[str]]:
        """The most probable tag of each token; dropout is off meanwhile."""
        pieces = [
            (row, sentence[start : start + self.max_length])
            for row, sentence in enumerate(sentences)
            for start in range(0, len(sentence), self.max_length)
        ]
        tags: list[list[str]] = [[] for _ in sentences]
        if not pieces:
            return tags
        rows = TagSequences(
            [piece for _, piece in pieces],
            None,
            self.vocabulary,
            self.characters,
            lowercase=self.lowercase,
            max_characters=self.max_characters,
        )
        training = self.training
        self.eval()
        try:
            for start in range(0, len(pieces), batch_size):
                chosen = list(range(start, min(start + batch_size, len(pieces))))
                batch = rows[chosen].to(self.device)
                best = self(batch).argmax(2).t().tolist()
                for place, row in enumerate(chosen):
                    owner, piece = pieces[row]
                    tags[owner] += [self.labels[number] for number in best[place][: len(piece)]]
        finally:
            self.train(training)
        return tags

    def tokens(self, text: str) -> list[str]:
        """The tokens of a line: what stands between spaces; punctuation is set apart where none is yet."""
        return get_tokenizer("word", lowercase=False)(text)

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """The tag of each token of each text.

        Returns:
            A dict a text: `tagged`, its tokens as `token/tag`, and what `describe` adds.

        Raises:
            ValueError: a text without any token.
        """
        sentences = [self.tokens(text) for text in inputs]
        for text, sentence in zip(inputs, sentences, strict=True):
            if not sentence:
                raise ValueError(f"the input {text!r} has no token to tag")
        return [
            {
                "tagged": [f"{token}/{tag}" for token, tag in zip(tokens, tags, strict=True)],
                **self.describe(tokens, tags),
            }
            for tokens, tags in zip(sentences, self.tag(sentences), strict=True)
        ]

    def describe(self, tokens: Sequence[str], tags: Sequence[str]) -> dict[str, Any]:
        """What the tags of a sentence say, beyond themselves."""
        return {}

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Beginnings of test sentences, with the tags that are right and those of the model."""
        pairs = [(tokens[:16], tags[:16]) for tokens, tags in datamodule.examples("test", n)]
        said = self.tag([tokens for tokens, _ in pairs])
        return [
            {"tokens": " ".join(tokens), "model": " ".join(model), "truth": " ".join(tags)}
            for (tokens, tags), model in zip(pairs, said, strict=True)
        ]


class SpanTagging(Tagging):
    """Tagging whose tags mark spans by the scheme BIO, such as names.

    Logged are beside it the precision, recall and F1 of whole spans: right are those with both ends and the
    kind of a true one, as in the evaluation of CoNLL-2003.

    Raises:
        ValueError: a tag that is not `O`, `B-x` or `I-x`.
    """

    headline: str = "test/span_f1"
    monitor: ClassVar[str] = "val/span_f1"

    def __init__(self, *, labels: Sequence[str], **settings: Any) -> None:
        for label in labels:
            if not is_bio(label):
                raise ValueError(
                    f"tag {label!r} is not of the scheme BIO (O, B-kind, I-kind); task=tagging takes any tags"
                )
        super().__init__(labels=labels, **settings)

    def metrics(self) -> dict[str, Metric | MetricCollection]:
        """The accuracy, and measures of spans."""
        return {
            **super().metrics(),
            **{f"span_{measure}": SpanF1(self.labels, measure) for measure in ("precision", "recall", "f1")},
        }

    def describe(self, tokens: Sequence[str], tags: Sequence[str]) -> dict[str, Any]:
        """The spans: kind and words."""
        found = [f"{span.kind}: {' '.join(tokens[span.start : span.stop])}" for span in spans(tags)]
        return {"spans": found}


class Restoration(Tagging):
    """Tagging that gives a text its capitals and punctuation back; see `read_marked_verses`."""

    def tokens(self, text: str) -> list[str]:
        """The words in lower case, without punctuation."""
        return marked_tokens(text)[0]

    def describe(self, tokens: Sequence[str], tags: Sequence[str]) -> dict[str, Any]:
        """The restored text."""
        return {"text": restored(list(tokens), list(tags))}

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Words of test verses, the text as the model restores it, and as it was."""
        pairs = datamodule.examples("test", n)
        said = self.tag([tokens for tokens, _ in pairs])
        return [
            {"words": " ".join(tokens), "model": restored(tokens, model), "truth": restored(tokens, tags)}
            for (tokens, tags), model in zip(pairs, said, strict=True)
        ]
