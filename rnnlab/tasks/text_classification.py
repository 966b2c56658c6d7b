"""Many to one: a text's label.

Legend: `T` time, `B` batch, `I` embedding, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from rnnlab.data.batching import TokenSequences
from rnnlab.data.text_classification import encode_tokens
from rnnlab.data.tokenizers import get_tokenizer
from rnnlab.data.vocabulary import Vocabulary
from rnnlab.nn.heads import OneHot, SymbolEmbedding
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler
from rnnlab.tasks.classification import Classification


class TextClassification(Classification):
    """Embedding, recurrent layers, pooling and dense layers, trained with cross-entropy.

    Logged are the loss, the accuracy (share of texts) and F1 (mean over the classes).

    Args:
        vocabulary: all tokens, `<pad>` and `<unk>` first.
        labels: names of the classes.
        tokenizer: `"word"` or `"char"`.
        lowercase: fold texts to lower case.
        max_length: tokens of a text that are read.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer: see `Task`.
        scheduler: see `Task`.
        embedding: `"learned"` vectors, or `"one_hot"`.
        embedding_size: features of a learned vector.
        embedding_dropout: probability of zeroing a feature of a vector.
        word_dropout: probability of reading `<unk>` instead of a token.
        pooling: `"last"`, `"mean"`, `"max"` or `"attention"`.
        dense_sizes: features of dense layers before the last one.
        dropout: probability of zeroing a feature before each dense layer.
        label_smoothing: share of each target that is spread over all classes.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        labels: Sequence[str],
        tokenizer: str,
        lowercase: bool,
        max_length: int,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        embedding: Literal["learned", "one_hot"] = "learned",
        embedding_size: int = 64,
        embedding_dropout: float = 0.6,
        word_dropout: float = 0.0,
        pooling: Literal["last", "mean", "max", "attention"] = "max",
        dense_sizes: Sequence[int] = (),
        dropout: float = 0.5,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            labels=labels, optimizer=optimizer, scheduler=scheduler, label_smoothing=label_smoothing
        )
        if embedding not in ("learned", "one_hot"):
            raise ValueError(f"embedding is 'learned' or 'one_hot'; got {embedding!r}")
        self.vocabulary = Vocabulary(vocabulary)
        self.tokenize = get_tokenizer(tokenizer, lowercase=lowercase)
        self.max_length = max_length
        self.embedding: OneHot | SymbolEmbedding
        if embedding == "one_hot":
            self.embedding = OneHot(len(self.vocabulary))
        else:
            self.embedding = SymbolEmbedding(
                len(self.vocabulary), embedding_size, dropout=embedding_dropout, symbol_dropout=word_dropout
            )
        self.build_layers(
            self.embedding.output_size, model, pooling=pooling, dense_sizes=dense_sizes, dropout=dropout
        )

    def embed(self, inputs: Tensor) -> Tensor:
        """Vectors `[T, B, I]` of tokens `[T, B]`, int64."""
        return self.embedding(inputs)

    def probabilities(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Probabilities of the classes for each text, `[N, C]`, on the CPU; dropout is off meanwhile."""
        numbers = [encode_tokens(self.tokenize(text), self.vocabulary, self.max_length) for text in texts]
        return self.class_probabilities(TokenSequences(numbers), batch_size=batch_size)

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """The most probable label of each text.

        Returns:
            A dict a text: `input`, `label`, `probability`, and `probabilities` by label.
        """
        if not inputs:
            return []
        return self.class_records(inputs, self.probabilities(inputs))

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test texts with `text`, `truth`, `predicted` and `confidence`."""
        pairs = datamodule.examples("test", n)
        said = self.predict_records([text for text, _ in pairs])
        return [
            {"text": text, "truth": truth, "predicted": record["label"], "confidence": record["probability"]}
            for (text, truth), record in zip(pairs, said, strict=True)
        ]
