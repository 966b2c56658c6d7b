"""Many to many, multi-label: the keys of the next frame. One to many: music made frame by frame.

Legend: `T` frames, `B` batch, `K` keys (88), `F` features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from rnnlab.data.batching import SequenceBatch
from rnnlab.data.music import Rolls
from rnnlab.data.piano_rolls import KEYS, find_pieces
from rnnlab.nn.heads import DenseHead
from rnnlab.nn.language_model import VariationalDropout
from rnnlab.nn.pooling import valid_steps
from rnnlab.tasks.base import MakeModel, MakeOptimizer, MakeScheduler, Task, output_features


class Music(Task):
    """Recurrent layers over piano rolls, and for each key the probability that it sounds in the next frame.

        e_t = relu(A x_t + a),  h_t = rnn(e_t),  p_{t+1} = sigmoid(g(h_t) + S x_t)
        nll_t = -sum_k [x_tk log p_tk + (1 - x_tk) log(1 - p_tk)]          in nats, summed over the 88 keys

    without `A` where `embedding_size` is 0, and without `S` where `skip` is off. A silent frame is fed before
    the first one, so that music can be made from nothing.

    Logged are `nll`, the mean over all frames of all pieces but each piece's first, as Bai, Kolter and Koltun
    2018 count it, and `nll_by_piece`, the mean over pieces of their means.

    Args:
        frames_per_beat: see `MusicData`.
        model: makes the recurrent layers, `model(input_size=...)`, one direction only.
        optimizer, scheduler: see `Task`.
        embedding_size: features of a dense layer before the recurrent ones; 0 for none.
        dense_sizes: features of dense layers between the recurrent layers and the output.
        skip: let each frame act on the next one directly: keys are held more often than not.
        input_dropout: variational dropout of what the recurrent layers read.
        output_dropout: variational dropout of what they give.

    Raises:
        ValueError: a setting out of range, or a bidirectional model, which would see the future.

    Source: Boulanger-Lewandowski, Bengio and Vincent 2012, "Modeling temporal dependencies in
    high-dimensional sequences".
    """

    headline: str = "test/nll"
    monitor: ClassVar[str] = "val/nll"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"

    def __init__(
        self,
        *,
        frames_per_beat: float,
        model: MakeModel,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        embedding_size: int = 0,
        dense_sizes: Sequence[int] = (),
        skip: bool = False,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
    ) -> None:
        super().__init__(optimizer=optimizer, scheduler=scheduler)
        if embedding_size < 0:
            raise ValueError(f"embedding_size is at least 0; got {embedding_size}")
        self.frames_per_beat = frames_per_beat
        self.input_shape = (None, KEYS)
        self.embedding = nn.Sequential(nn.Linear(KEYS, embedding_size), nn.ReLU()) if embedding_size else None
        self.input_dropout = VariationalDropout(input_dropout)
        self.rnn = model(input_size=embedding_size or KEYS)
        if getattr(self.rnn, "bidirectional", False):
            raise ValueError("what predicts the next frame reads forwards only: model.bidirectional=false")
        self.output_dropout = VariationalDropout(output_dropout)
        self.head = DenseHead(output_features(self.rnn), KEYS, hidden_sizes=dense_sizes)
        self.skip = nn.Linear(KEYS, KEYS, bias=False) if skip else None
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        # Few keys sound at a time: 88 sigmoid(-3) is about four.
        nn.init.constant_(last.bias, -3.0)
        self.val_nll, self.val_nll_by_piece = MeanMetric(), MeanMetric()
        self.test_nll, self.test_nll_by_piece = MeanMetric(), MeanMetric()

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores `[T, B, K]` of the keys of the next frames, before the sigmoid, of frames `[T, B, K]`."""
        x = frames if self.embedding is None else self.embedding(frames)
        outputs, _ = self.rnn(self.input_dropout(x), lengths=lengths)
        return self._scores(self.output_dropout(outputs), frames)

    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Read one frame `[B, K]`: scores `[B, K]` of the next one, and the state; without dropout."""
        output, state = self.rnn.step(frame if self.embedding is None else self.embedding(frame), state)  # type: ignore[operator]
        return self._scores(output, frame), state

    def _scores(self, outputs: Tensor, frames: Tensor) -> Tensor:
        scores = self.head(outputs)
        return scores if self.skip is None else scores + self.skip(frames)

    def frame_losses(self, batch: SequenceBatch) -> Tensor:
        """The negative log-likelihood of each frame in nats, `[T, B]`, zero past each piece's end."""
        scores = self(batch.inputs, batch.lengths)
        losses = F.binary_cross_entropy_with_logits(scores, batch.targets, reduction="none").sum(2)
        return losses * valid_steps(losses, batch.lengths)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """The mean loss of a batch's frames."""
        frames = int(batch.lengths.sum())
        loss = self.frame_losses(batch).sum() / frames
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=frames)
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the validation metrics."""
        self._evaluate("val", batch, self.val_nll, self.val_nll_by_piece)

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Count one batch into the test metrics."""
        self._evaluate("test", batch, self.test_nll, self.test_nll_by_piece)

    def _evaluate(self, stage: str, batch: SequenceBatch, by_frame: MeanMetric, by_piece: MeanMetric) -> None:
        # The published figures do not count the first frame of a piece, which nothing stands before.
        sums, counts = self.frame_losses(batch)[1:].sum(0), (batch.lengths - 1).to(batch.inputs.device)
        some = counts > 0
        means = sums[some] / counts[some]
        by_frame.update(means, counts[some])
        by_piece.update(means)
        self.log(f"{stage}/nll", by_frame, on_epoch=True, batch_size=len(batch))
        self.log(f"{stage}/nll_by_piece", by_piece, on_epoch=True, batch_size=len(batch))

    @torch.no_grad()
    def piece_losses(self, pieces: Sequence[Tensor]) -> list[float]:
        """The mean negative log-likelihood a frame of each piece `[T, K]`, its first frame left out."""
        training = self.training
        self.eval()
        try:
            batch = Rolls(pieces)[list(range(len(pieces)))].to(self.device)
            sums = self.frame_losses(batch)[1:].sum(0).cpu()
        finally:
            self.train(training)
        return (sums / (batch.lengths - 1).clamp(min=1)).tolist()

    def sample(
        self,
        *,
        length: int,
        prompt: Tensor | None = None,
        temperature: float = 1.0,
        most_keys: int | None = None,
        seed: int | None = None,
    ) -> Iterator[Tensor]:
        """Make music, frame by frame.

            x_k ~ Bernoulli(sigmoid(score_k / temperature))

        Args:
            length: frames.
            prompt: `[T, K]`, frames to go on from; none for a new piece.
            temperature: below 1 the model keeps to what it is sure of.
            most_keys: at most so many keys at a time, the most probable of those that were drawn.
            seed: of the random numbers; None for other ones each time.

        Yields:
            Frames `[K]`, boolean, on the CPU.

        Raises:
            ValueError: a length or number of keys below 1, or a temperature that is not above 0.
        """
        if length < 1 or (most_keys is not None and most_keys < 1):
            raise ValueError(f"length and most_keys are at least 1; got {length} and {most_keys}")
        if not temperature > 0:
            raise ValueError(f"temperature is above 0; got {temperature}")
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        training = self.training
        self.eval()
        try:
            state: Any = None
            frames = (
                torch.zeros(1, KEYS) if prompt is None else torch.cat([torch.zeros(1, KEYS), prompt.float()])
            )
            for frame in frames[:-1]:
                _, state = self._quiet_step(frame, state)
            frame = frames[-1]
            for _ in range(length):
                scores, state = self._quiet_step(frame, state)
                p = torch.sigmoid(scores / temperature)
                drawn = torch.rand(KEYS, generator=generator) < p
                if most_keys is not None and int(drawn.sum()) > most_keys:
                    kept = (p * drawn).topk(most_keys).indices
                    drawn = torch.zeros_like(drawn).index_fill_(0, kept, True)
                yield drawn
                frame = drawn.float()
        finally:
            self.train(training)

    def _quiet_step(self, frame: Tensor, state: Any) -> tuple[Tensor, Any]:
        # Not around the yield: whoever consumes the frames keeps gradients as they are.
        with torch.no_grad():
            scores, state = self.step(frame.unsqueeze(0).to(self.device), state)
        return scores[0].float().cpu(), state

    def predict_records(self, inputs: Sequence[str]) -> list[dict[str, Any]]:
        """How probable the model finds pieces.

        Args:
            inputs: files and pieces of them; see `find_pieces`.

        Returns:
            A dict a piece: `piece`, `frames`, and `nll` a frame, in nats.

        Raises:
            ValueError: there is no such piece.
        """
        found = [named for word in inputs for named in find_pieces(word)]
        return self._records(found)

    def _records(self, found: Sequence[tuple[str, Tensor]]) -> list[dict[str, Any]]:
        losses = [loss for first in range(0, len(found), 32)
                  for loss in self.piece_losses([roll for _, roll in found[first : first + 32]])]  # fmt: skip
        return [
            {"piece": name, "frames": len(roll), "nll": loss}
            for (name, roll), loss in zip(found, losses, strict=True)
        ]

    def example_records(self, datamodule: Any, n: int) -> list[dict[str, Any]]:
        """Test pieces with `piece`, `frames` and `nll`."""
        return self._records(datamodule.examples("test", n))
