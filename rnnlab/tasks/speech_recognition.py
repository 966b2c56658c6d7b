"""Different lengths: what is said in an utterance, by connectionist temporal classification.

Legend: `T` time, `B` batch, `I` input, `V` symbols with the blank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.text import CharErrorRate, WordErrorRate

from rnnlab.data.audio import LogMel
from rnnlab.data.base import evenly
from rnnlab.data.batching import SequenceBatch
from rnnlab.data.speech import BLANK, Transcripts, hear
from rnnlab.nn.ctc import beam_search, best_path
from rnnlab.nn.heads import DenseHead
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features
from rnnlab.tasks.speech_picture import draw_transcripts


class SpeechRecognition(Task):
    """Log-mel features, recurrent layers, and at each step a character or the blank.

    The loss is that of connectionist temporal classification, a character of the transcript. Logged are the
    character and word error rates of the most probable path (`cer`, `wer`), and in the test those of a beam
    search too (`cer_beam`, `wer_beam`). A row with fewer steps than its transcript needs has an infinite
    loss; it counts as 0 there, and as the errors it is in the rates.

    Args:
        alphabet: the characters, the blank first.
        lowercase: transcripts are in lower case.
        sample_rate: to which sounds are resampled.
        features: arguments of `LogMel`.
        model: makes the recurrent layers, `model(input_size=...)`, called as `(x, lengths=...)`.
        optimizer, scheduler: see `Task`.
        dense_sizes: features of dense layers before the last one.
        input_dropout: probability of zeroing an input feature.
        dropout: probability of zeroing a feature before each dense layer.
        beam_width: beginnings that the beam search keeps.

    Raises:
        ValueError: a setting out of range.

    Source: Graves and Jaitly 2014, "Towards End-to-End Speech Recognition with Recurrent Neural Networks".
    """

    headline: str = "test/cer"
    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        *,
        alphabet: Sequence[str],
        lowercase: bool,
        sample_rate: int,
        features: Mapping[str, Any],
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        dense_sizes: Sequence[int] = (),
        input_dropout: float = 0.0,
        dropout: float = 0.2,
        beam_width: int = 8,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if beam_width < 1:
            raise ValueError(f"beam_width is at least 1; got {beam_width}")
        if list(alphabet[:1]) != [BLANK]:
            raise ValueError(f"an alphabet begins with {BLANK!r}; this one with {list(alphabet[:1])}")
        self.alphabet, self.lowercase = list(alphabet), lowercase
        self.features, self.sample_rate = LogMel(**features), sample_rate
        self.beam_width = beam_width
        self.input_dropout = torch.nn.Dropout(input_dropout)
        self.rnn = model(input_size=self.features.output_size)
        self.head = DenseHead(
            output_features(self.rnn), len(self.alphabet), hidden_sizes=dense_sizes, dropout=dropout
        )
        self.val_rates, self.test_rates = self._rates("val/"), self._rates("test/")
        self.test_beam_rates = self._rates("test/", "_beam")

    @staticmethod
    def _rates(prefix: str, postfix: str = "") -> MetricCollection:
        return MetricCollection(
            {"cer": CharErrorRate(), "wer": WordErrorRate()}, prefix=prefix, postfix=postfix
        )

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Logarithms of the symbols' probabilities.

        Args:
            inputs: `[T, B, I]`, features.
            lengths: `[B]`, int64, on the CPU.

        Returns:
            `[T, B, V]`, float32.
        """
        outputs, _ = self.rnn(self.input_dropout(inputs), lengths=lengths)
        return self.head(outputs).float().log_softmax(2)

    def _loss(self, log_probabilities: Tensor, batch: SequenceBatch) -> Tensor:
        said: Transcripts = batch.targets
        return F.ctc_loss(
            log_probabilities, said.symbols, batch.lengths, said.lengths, blank=0, zero_infinity=True
        )

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        loss = self._loss(self(batch.inputs, batch.lengths), batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        log_probabilities = self(batch.inputs, batch.lengths)
        loss = self._loss(log_probabilities, batch)
        self.log("val/loss", loss, on_epoch=True, batch_size=len(batch), sync_dist=True)
        self.val_rates.update(self._texts(log_probabilities, batch.lengths), batch.targets.texts)
        self.log_dict(self.val_rates, on_epoch=True, batch_size=len(batch))

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics, decoded in both ways."""
        log_probabilities = self(batch.inputs, batch.lengths)
        loss = self._loss(log_probabilities, batch)
        self.log("test/loss", loss, on_epoch=True, batch_size=len(batch), sync_dist=True)
        truth = batch.targets.texts
        self.test_rates.update(self._texts(log_probabilities, batch.lengths), truth)
        self.test_beam_rates.update(self._texts(log_probabilities, batch.lengths, beam=True), truth)
        self.log_dict(self.test_rates, on_epoch=True, batch_size=len(batch))
        self.log_dict(self.test_beam_rates, on_epoch=True, batch_size=len(batch))

    def _texts(self, log_probabilities: Tensor, lengths: Tensor, *, beam: bool = False) -> list[str]:
        rows = log_probabilities.detach().cpu().unbind(1)
        steps = [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
        found = [beam_search(row, self.beam_width)[0][0] if beam else best_path(row) for row in steps]
        return [self._spell(symbols) for symbols in found]

    def _spell(self, symbols: Sequence[int]) -> str:
        return "".join(self.alphabet[symbol] for symbol in symbols)

    @torch.no_grad()
    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """What is said in each sound file; several joined by `+` are heard as one.

        Returns:
            A dict a file: `input`, `transcript` (of the beam search), `probability` of that transcript among
            all, and `greedy`, the transcript of the most probable path.
        """
        records = []
        training = self.training
        self.eval()
        try:
            for word in inputs:
                features, lengths = self.features([hear(word, self.sample_rate)], self.sample_rate)
                log_probabilities = self(features.to(self.device), lengths)[:, 0].cpu()
                symbols, score = beam_search(log_probabilities, self.beam_width)[0]
                records.append(
                    {
                        "input": word,
                        "transcript": self._spell(symbols),
                        "probability": min(1.0, torch.tensor(score).exp().item()),
                        "greedy": self._spell(best_path(log_probabilities)),
                    }
                )
        finally:
            self.train(training)
        return records

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test sounds with `file`, `truth` and `transcript`."""
        pairs = datamodule.examples("test", n)
        said = self.predict_records([file for file, _ in pairs])
        return [
            {"file": file, "truth": truth, "transcript": record["transcript"]}
            for (file, truth), record in zip(pairs, said, strict=True)
        ]

    @torch.no_grad()
    def draw_pictures(self, datamodule: Any, folder: Path) -> None:
        """Draw three test sounds, and when each character is heard in them: `transcripts.png`."""
        dataset = datamodule.dataset("test")
        sounds = []
        for row in evenly(range(len(dataset)), 3):
            batch = dataset[[row]]
            said = self(batch.inputs.to(self.device), batch.lengths)[:, 0].cpu()
            transcript = self._spell(beam_search(said, self.beam_width)[0][0])
            # Stacked frames stand one after the other again.
            frames = batch.inputs[:, 0].reshape(-1, self.features.mels)
            sounds.append((f"{batch.targets.texts[0]!r}: heard {transcript!r}", frames, said.exp()))
        step_ms = self.features.stack * self.features.hop_ms
        draw_transcripts(folder / "transcripts.png", sounds, self.alphabet, step_ms)
