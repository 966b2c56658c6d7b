"""Many to many, different length: a sequence written from another one.

Legend: `S` source steps, `T` target steps, `B` sources, `R` targets, `K` hypotheses, `V` target vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rnnlab.data.batching import TokenSequences
from rnnlab.data.pairs import PairBatch
from rnnlab.data.tokenizers import get_tokenizer, join_tokens
from rnnlab.data.vocabulary import EOS, PAD, UNK, Vocabulary
from rnnlab.nn.beam_search import Hypotheses
from rnnlab.nn.encoder_decoder import EncoderDecoder
from rnnlab.tasks.attention_map import attention_map
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task
from rnnlab.tasks.sequence_metrics import sequence_metrics


class Translation(Task):
    """An encoder-decoder, taught by cross-entropy, writing by beam search.

    Logged are the cross-entropy a token of all targets (`loss`), and of what is written (greedily in
    validation, by beam search in the test) the error rates of tokens and sequences against the closest of a
    source's targets, and BLEU where the tokens are words; see `rnnlab.tasks.sequence_metrics`.

    Args:
        source_vocabulary: all tokens of sources, `<pad>` and `<unk>` first.
        target_vocabulary: all tokens of targets, `<pad>`, `<unk>`, `<eos>` first.
        source_tokenizer, target_tokenizer, lowercase: how texts become tokens.
        max_source: most tokens of a source.
        max_target: most tokens that are written.
        token_name, sequence_name: what a target's tokens and a target are called in the metrics' names.
        model: makes recurrent layers, `model(input_size=...)`; see `EncoderDecoder`.
        optimizer, scheduler: see `Task`.
        decoder: makes the decoder's layers; None for those of `model`, forwards.
        attention, input_feeding, embedding, embedding_size, output_size, dropout: see `EncoderDecoder`.
        teacher_forcing: probability of being fed the target's token, at the start of training.
        teacher_forcing_end: the same at its end; in between it changes linearly with the steps.
        label_smoothing: of the cross-entropy.
        beam: K, of the test and of predictions.
        length_penalty: see `beam_search`.

    Raises:
        ValueError: a setting out of range.
    """

    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        *,
        source_vocabulary: Sequence[str],
        target_vocabulary: Sequence[str],
        source_tokenizer: str,
        target_tokenizer: str,
        lowercase: bool,
        max_source: int,
        max_target: int,
        token_name: str,
        sequence_name: str,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        decoder: MakeModel | None = None,
        attention: Literal["dot", "general", "additive", "none"] = "general",
        input_feeding: bool = False,
        embedding: Literal["learned", "one_hot"] = "learned",
        embedding_size: int = 64,
        output_size: int | None = None,
        dropout: float = 0.0,
        teacher_forcing: float = 1.0,
        teacher_forcing_end: float = 1.0,
        label_smoothing: float = 0.0,
        beam: int = 5,
        length_penalty: float = 1.0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        for name, share in (
            ("teacher_forcing", teacher_forcing),
            ("teacher_forcing_end", teacher_forcing_end),
        ):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a probability in [0, 1]; got {share}")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing lies in [0, 1); got {label_smoothing}")
        if beam < 1 or length_penalty < 0:
            raise ValueError(
                f"beam is at least 1, length_penalty at least 0; got {beam} and {length_penalty}"
            )
        self.source_vocabulary = Vocabulary(source_vocabulary)
        self.target_vocabulary = Vocabulary(target_vocabulary)
        self.source_tokenizer, self.target_tokenizer = source_tokenizer, target_tokenizer
        self.tokenize = get_tokenizer(source_tokenizer, lowercase=lowercase)
        self.max_source, self.max_target = max_source, max_target
        self.eos = self.target_vocabulary.encode([EOS])[0]
        self.forbidden = self.target_vocabulary.encode([PAD, UNK])
        self.teacher_forcing = (teacher_forcing, teacher_forcing_end)
        self.label_smoothing, self.beam, self.length_penalty = label_smoothing, beam, length_penalty
        self.network = EncoderDecoder(
            len(self.source_vocabulary),
            len(self.target_vocabulary),
            model,
            decoder=decoder,
            attention=attention,
            input_feeding=input_feeding,
            embedding=embedding,
            embedding_size=embedding_size,
            output_size=output_size,
            dropout=dropout,
        )
        self.headline = f"test/{'bleu' if token_name == 'word' else f'{token_name}_error_rate'}"
        self.val_metrics = sequence_metrics(token_name, sequence_name, "val/")
        self.test_metrics = sequence_metrics(token_name, sequence_name, "test/")

    def forward(self, batch: PairBatch, *, teacher_forcing: float = 1.0) -> Tensor:
        """Scores `[T, R, V]` of the targets' tokens, before the softmax."""
        state = self.network.encode(batch.source, batch.source_lengths)
        if len(batch.owners) > len(batch):
            state = self.network.take(state, batch.owners.to(batch.source.device))
        fed = torch.cat([torch.full_like(batch.target[:1], self.eos), batch.target[:-1]])
        return self.network(state, fed, teacher_forcing=teacher_forcing).scores

    def _loss(self, batch: PairBatch, label_smoothing: float = 0.0, teacher_forcing: float = 1.0) -> Tensor:
        scores = self(batch, teacher_forcing=teacher_forcing)
        return F.cross_entropy(
            scores.flatten(0, 1),
            batch.target.flatten(),
            ignore_index=0,
            label_smoothing=label_smoothing,
        )

    def forcing(self) -> float:
        """The probability of teacher forcing at this step of the training."""
        start, end = self.teacher_forcing
        steps = self.trainer.estimated_stepping_batches if start != end else 1
        return start + (end - start) * min(1.0, self.global_step / steps)

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of a batch's target tokens."""
        loss = self._loss(batch, self.label_smoothing, self.forcing())
        tokens = int(batch.target_lengths.sum())
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=tokens)
        return loss

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._evaluate(batch, "val/loss", self.val_metrics, beam=1)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._evaluate(batch, "test/loss", self.test_metrics, beam=self.beam)

    def _evaluate(self, batch: PairBatch, name: str, metrics: Any, *, beam: int) -> None:
        tokens = int(batch.target_lengths.sum())
        self.log(name, self._loss(batch), on_epoch=True, batch_size=tokens, sync_dist=True)
        found = self.search(batch.source, batch.source_lengths, beam=beam)
        written = [self._between_spaces(row) for row in found.symbols[:, 0].tolist()]
        references: list[list[str]] = [[] for _ in written]
        for owner, target in zip(batch.owners.tolist(), batch.target.t().tolist(), strict=True):
            references[owner].append(self._between_spaces(target))
        metrics.update(written, references)
        self.log_dict(metrics, on_epoch=True, batch_size=len(batch))

    def _tokens(self, numbers: Sequence[int]) -> list[str]:
        """The tokens before `<eos>`."""
        end = numbers.index(self.eos) if self.eos in numbers else len(numbers)
        return self.target_vocabulary.decode(numbers[:end])

    def _between_spaces(self, numbers: Sequence[int]) -> str:
        # A character that is itself a space would be lost between spaces.
        return " ".join(token if token != " " else "\u2423" for token in self._tokens(numbers))

    def search(self, source: Tensor, lengths: Tensor, *, beam: int | None = None) -> Hypotheses:
        """The most probable targets of sources `[S, B]`, with at most `max_target` tokens."""
        return self.network.search(
            source,
            lengths,
            stop=self.eos,
            beam=beam or self.beam,
            length=self.max_target + 1,
            penalty=self.length_penalty,
            forbidden=self.forbidden,
        )

    def _encode(self, text: str) -> list[str]:
        """The tokens of a source.

        Raises:
            ValueError: it has none, or more than the limit.
        """
        tokens = self.tokenize(text)
        if not tokens:
            raise ValueError(f"the input {text!r} has no token to read")
        if len(tokens) > self.max_source:
            raise ValueError(
                f"the input {text[:40]!r}... has {len(tokens)} tokens; the model was trained on at most "
                f"{self.max_source}: give it in parts"
            )
        return tokens

    @torch.no_grad()
    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """What is written from each input, and what else was found.

        Returns:
            A dict an input: `input`, `output`, `log_probability` (in nats), `others` (further hypotheses,
            best first), and `unknown` (tokens that were read as `<unk>`) where there are any.

        Raises:
            ValueError: an input without tokens, or longer than the limit.
        """
        if not inputs:
            return []
        tokens = [self._encode(text) for text in inputs]
        rows = TokenSequences([self.source_vocabulary.encode(each) for each in tokens])
        records: dict[int, dict[str, Any]] = {}
        training = self.training
        self.eval()
        try:
            for chunk in rows.lengths.argsort(stable=True).split(64):
                batch = rows[chunk.tolist()].to(self.device)
                found = self.search(batch.inputs, batch.lengths)
                for place, row in enumerate(chunk.tolist()):
                    records[row] = self._record(inputs[row], tokens[row], found, place)
        finally:
            self.train(training)
        return [records[row] for row in range(len(inputs))]

    def _record(self, text: str, tokens: Sequence[str], found: Hypotheses, place: int) -> dict[str, Any]:
        first, *others = [self.write(row) for row in found.symbols[place].tolist()]
        unknown = [token for token in dict.fromkeys(tokens) if token not in self.source_vocabulary]
        return {
            "input": text,
            "output": first,
            "log_probability": found.log_probabilities[place, 0].item(),
            "others": list(dict.fromkeys(others)),
            **({"unknown": unknown} if unknown else {}),
        }

    def write(self, numbers: Sequence[int]) -> str:
        """The text of a target's numbers."""
        return join_tokens(self.target_tokenizer, self._tokens(numbers))

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test sources with what the model writes, and what is right."""
        pairs = datamodule.examples("test", n)
        said = self.predict_records([source for source, _ in pairs])
        return [
            {"source": source, "model": record["output"], "truth": " | ".join(targets)}
            for (source, targets), record in zip(pairs, said, strict=True)
        ]

    @torch.no_grad()
    def look(self, text: str) -> tuple[list[str], list[str], Tensor]:
        """Where the decoder looks as it writes.

        Returns:
            The tokens of the source, those that are written, `<eos>` last, and the weights `[T, S]`.

        Raises:
            ValueError: a model without attention, or an input that cannot be read.
        """
        if self.network.attention is None:
            raise ValueError("this model was trained with attention=none and looks nowhere")
        tokens = self._encode(text)
        training = self.training
        self.eval()
        try:
            source = torch.tensor(self.source_vocabulary.encode(tokens), device=self.device).unsqueeze(1)
            lengths = torch.tensor([len(tokens)])
            found = self.search(source, lengths)
            written = found.symbols[0, 0, : int(found.lengths[0, 0])]
            fed = torch.cat([written.new_tensor([self.eos]), written[:-1]]).unsqueeze(1)
            weights = self.network(self.network.encode(source, lengths), fed).weights
        finally:
            self.train(training)
        assert weights is not None
        return tokens, self.target_vocabulary.decode(written.tolist()), weights[:, 0].cpu()

    def draw(self, text: str, picture: str | Path) -> None:
        """Draw where the decoder looks as it writes from this text; see `look`."""
        attention_map(*self.look(text), picture)

    def draw_pictures(self, datamodule: Any, folder: Path) -> list[Path]:
        """Draw where the decoder looks as it writes from three test sources: `attention_1.png` and on."""
        if self.network.attention is None:
            return []
        made = []
        for number, (source, _) in enumerate(datamodule.examples("test", 3), start=1):
            made.append(folder / f"attention_{number}.png")
            self.draw(source, made[-1])
        return made
