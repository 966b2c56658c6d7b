"""One sequence read, another written: encoder, bridge, attention, decoder.

Legend: `S` source steps, `T` target steps, `B` batch, `E` embedding, `H` features of the decoder, `M` of the
encoder, `V` target vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rnnlab.nn.attention import Attention, Memory
from rnnlab.nn.beam_search import Hypotheses, beam_search
from rnnlab.nn.heads import OneHot, SymbolEmbedding, check_probability
from rnnlab.nn.pooling import LastStep
from rnnlab.nn.states import InitialState

MakeLayers = Callable[..., nn.Module]


class DecoderState(NamedTuple):
    """Where a decoder stands.

    Attributes:
        recurrent: the state of its recurrent layers.
        fed: `[B, H]`, its last output, which input feeding reads again; None without.
        memory: what it looks at; None without attention.
    """

    recurrent: Any
    fed: Tensor | None
    memory: Memory | None


class Decoded(NamedTuple):
    """What a decoder says of a sequence that it is fed.

    Attributes:
        scores: `[T, B, V]`, before the softmax.
        weights: `[T, B, S]`, where it looked; None without attention.
    """

    scores: Tensor
    weights: Tensor | None


class EncoderDecoder(nn.Module):
    """Recurrent layers that read, and others that write while they look back at what was read.

        m_1 .. m_S = encoder(x),   s_0 = tanh(B [m_S forwards, m_1 backwards])
        s_t = decoder([e(y_(t-1)), o_(t-1)], s_(t-1))
        o_t = tanh(C [context(s_t), s_t]),   scores = W o_t + b

    The decoder reads `o_(t-1)` only with input feeding: it then knows where it looked before, and has to run
    step by step. Without, it runs over the whole target at once while it is taught, which is
    faster; by how much is not measured.

    Args:
        source_size: symbols of the source.
        target_size: V.
        model: makes the encoder's recurrent layers, `model(input_size=...)`, and the decoder's with
            `bidirectional=False` beside it where the encoder is bidirectional.
        decoder: makes the decoder's, where they are to be others.
        attention: `"dot"`, `"general"`, `"additive"`, or `"none"`.
        input_feeding: let the decoder read its last output.
        embedding: `"learned"` vectors, or `"one_hot"`.
        embedding_size: E of learned vectors.
        output_size: features of `o_t`; those of one direction of the encoder where None.
        dropout: of symbols' vectors, and of `o_t`.

    Raises:
        ValueError: a setting out of range, a bidirectional decoder, or input feeding without attention.
        TypeError: layers that do not tell their `output_size`.

    Sources: Sutskever, Vinyals and Le 2014; Cho et al. 2014; the bridge, Bahdanau, Cho and Bengio 2015,
    appendix A.2.2; o_t and input feeding, Luong, Pham and Manning 2015, sections 3.1 and 3.3.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        model: MakeLayers,
        *,
        decoder: MakeLayers | None = None,
        attention: Literal["dot", "general", "additive", "none"] = "general",
        input_feeding: bool = False,
        embedding: Literal["learned", "one_hot"] = "learned",
        embedding_size: int = 64,
        output_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_probability("dropout", dropout)
        if embedding not in ("learned", "one_hot"):
            raise ValueError(f"embedding is 'learned' or 'one_hot'; got {embedding!r}")
        if attention not in ("dot", "general", "additive", "none"):
            raise ValueError(f"attention is 'dot', 'general', 'additive' or 'none'; got {attention!r}")
        self.source_embedding: SymbolEmbedding | OneHot
        self.target_embedding: SymbolEmbedding | OneHot
        if embedding == "one_hot":
            self.source_embedding, self.target_embedding = OneHot(source_size), OneHot(target_size)
        else:
            self.source_embedding = SymbolEmbedding(source_size, embedding_size, dropout=dropout)
            self.target_embedding = SymbolEmbedding(target_size, embedding_size, dropout=dropout)
        self.encoder = model(input_size=self.source_embedding.output_size)
        two = bool(getattr(self.encoder, "bidirectional", False))
        width = _width(self.encoder)
        beside = two and getattr(self.encoder, "merge", "") == "concat"
        self.summary = LastStep(width, directions=2 if beside else 1)
        size = output_size or (width // 2 if beside else width)
        if attention == "none" and input_feeding:
            raise ValueError("input feeding feeds what attention makes: attention='none' has nothing to feed")
        options = {"bidirectional": False} if two and decoder is None else {}
        read = self.target_embedding.output_size + size * input_feeding
        self.decoder = (decoder or model)(input_size=read, **options)
        if getattr(self.decoder, "bidirectional", False):
            raise ValueError("a decoder writes forwards only: its layers need bidirectional=false")
        self.bridge = InitialState(self.decoder, read, width)
        made = _width(self.decoder)
        self.attention = None if attention == "none" else Attention(attention, made, width)
        self.combine = None if attention == "none" else nn.Linear(width + made, size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(made if attention == "none" else size, target_size)
        self.input_feeding, self.size = input_feeding, size

    def encode(self, source: Tensor, lengths: Tensor) -> DecoderState:
        """Read sources `[S, B]` of these lengths `[B]` (on the CPU), to be written from."""
        outputs, _ = self.encoder(self.source_embedding(source), lengths=lengths)
        memory = None if self.attention is None else self.attention.memory(outputs, lengths)
        fed = outputs.new_zeros(source.shape[1], self.size) if self.input_feeding else None
        return DecoderState(self.bridge(self.summary(outputs, lengths)), fed, memory)

    def forward(self, state: DecoderState, fed: Tensor, *, teacher_forcing: float = 1.0) -> Decoded:
        """Write, being fed the target, or at times what was just written.

        Args:
            state: of `encode`.
            fed: `[T, B]`, the symbols before those that are to be written; the first row is always fed.
            teacher_forcing: probability of being fed the target's symbol rather than the likeliest one.

        Source of the latter: Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction".
        """
        vectors = self.target_embedding(fed)
        if not self.input_feeding and teacher_forcing == 1.0:
            outputs, _ = self.decoder(vectors, state.recurrent)
            attended, weights = self._attend(outputs, state.memory)
            return Decoded(self.output(self.dropout(attended)), weights)
        attended_steps: list[Tensor] = []
        weight_steps: list[Tensor | None] = []
        for t, vector in enumerate(vectors):
            if t and teacher_forcing < 1.0:
                said = self.output(attended_steps[-1]).detach().argmax(1)
                kept = torch.rand(len(said), device=said.device) < teacher_forcing
                vector = torch.where(kept.unsqueeze(1), vector, self.target_embedding(said))
            attended, weights, state = self._advance(vector, state)
            attended_steps.append(attended)
            weight_steps.append(weights)
        scores = self.output(self.dropout(torch.stack(attended_steps)))
        looked = [weights for weights in weight_steps if weights is not None]
        return Decoded(scores, torch.stack(looked) if looked else None)

    def step(self, symbols: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one symbol a row: `[B]` to scores `[B, V]` and the new state; the output is not dropped."""
        attended, _, state = self._advance(self.target_embedding(symbols), state)
        return self.output(attended), state

    def take(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """These rows of a state, their memory too."""
        memory = None if state.memory is None else state.memory.take(rows)
        return self.choose_rows(state, rows)._replace(memory=memory)

    def choose_rows(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """These rows of a state, where the memory at each place is the same as before."""
        fed = None if state.fed is None else state.fed.index_select(0, rows)
        return DecoderState(self.bridge.choose_rows(state.recurrent, rows), fed, state.memory)

    def search(
        self,
        source: Tensor,
        lengths: Tensor,
        *,
        stop: int,
        beam: int = 1,
        length: int,
        penalty: float = 1.0,
        forbidden: Sequence[int] = (),
    ) -> Hypotheses:
        """The most probable targets of sources `[S, B]`, from `stop` to `stop`; see `beam_search`."""
        state = self.encode(source, lengths)
        batch = source.shape[1]
        state = self.take(state, torch.arange(batch, device=source.device).repeat_interleave(beam))
        return beam_search(
            self.step,
            state,
            self.choose_rows,
            rows=batch,
            start=stop,
            stop=stop,
            beam=beam,
            length=length,
            penalty=penalty,
            forbidden=forbidden,
            device=source.device,
        )

    def _advance(self, vector: Tensor, state: DecoderState) -> tuple[Tensor, Tensor | None, DecoderState]:
        """One step: what is read `[B, E]` to what is said `[B, H]`, where it looked, and the new state."""
        x = vector if state.fed is None else torch.cat([vector, state.fed], dim=1)
        output, recurrent = self.decoder.step(x, state.recurrent)  # type: ignore[operator]
        attended, weights = self._attend(output.unsqueeze(0), state.memory)
        said = attended[0]
        fed = None if state.fed is None else said
        return said, None if weights is None else weights[0], DecoderState(recurrent, fed, state.memory)

    def _attend(self, outputs: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        if self.attention is None or self.combine is None or memory is None:
            return outputs, None
        contexts, weights = self.attention(outputs, memory)
        return torch.tanh(self.combine(torch.cat([contexts, outputs], dim=2))), weights


def _width(layers: nn.Module) -> int:
    size: Any = getattr(layers, "output_size", None)
    if not isinstance(size, int):
        raise TypeError(f"{type(layers).__name__} has no integer `output_size`; rnnlab.DeepRNN has")
    return size
