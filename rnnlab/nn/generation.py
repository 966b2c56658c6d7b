"""Sequences made one symbol at a time, each fed back as the next input.

Legend: `B` batch, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# One step of a model: symbols [B] and a state give scores [B, V] and the new state.
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
# What picks symbols [B] from scores [B, V].
Choose = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How a symbol is picked from scores.

        p = softmax(scores / temperature),  cut to the `top_k` largest, then to the fewest that hold `top_p`

    Attributes:
        temperature: below 1 sharpens the distribution, above 1 flattens it.
        top_k: only the k most probable symbols; None for all.
        top_p: only the most probable symbols that together reach this probability; None for all.
        greedy: always the most probable symbol.
        forbidden: symbols that are never picked.

    Raises:
        ValueError: a setting out of range.

    Sources: top-k, Fan, Lewis and Dauphin 2018; top-p (nucleus), Holtzman et al. 2020.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is above 0 (greedy takes the best); got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is at least 1; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p lies in (0, 1]; got {self.top_p}")

    def probabilities(self, scores: Tensor) -> Tensor:
        """The distribution that is sampled from, `[B, V]`, of scores `[B, V]`."""
        scores = scores.float()
        if self.forbidden:
            scores = scores.index_fill(1, torch.tensor(self.forbidden, device=scores.device), -torch.inf)
        if self.greedy:
            best = scores.argmax(dim=1, keepdim=True)
            return torch.zeros_like(scores).scatter_(1, best, 1.0)
        scores = scores / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[1]:
            # By rank and not by value, so that ties leave no more than k.
            dropped = scores.argsort(dim=1, descending=True, stable=True)[:, self.top_k :]
            scores = scores.scatter(1, dropped, -torch.inf)
        p = scores.softmax(dim=1)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = p.sort(dim=1, descending=True, stable=True)
            # A symbol stays if those before it have not reached top_p yet; the first one always does.
            cut = ordered.cumsum(1) - ordered >= self.top_p
            p = p.masked_fill(torch.zeros_like(cut).scatter(1, order, cut), 0.0)
            p = p / p.sum(dim=1, keepdim=True)
        return p

    def chooser(self, seed: int | None = None) -> Choose:
        """A function that picks symbols `[B]` from scores `[B, V]`, by a random generator of its own.

        Numbers are drawn on the CPU, so that a seed gives the same symbols on every device.
        """
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)

        def choose(scores: Tensor) -> Tensor:
            p = self.probabilities(scores)
            if self.greedy:
                return p.argmax(dim=1)
            return torch.multinomial(p.cpu(), 1, generator=generator).squeeze(1).to(scores.device)

        return choose


def generate(
    step: Step,
    scores: Tensor,
    state: Any,
    choose: Choose,
    *,
    length: int,
    stop: int | None = None,
) -> Iterator[Tensor]:
    """Pick a symbol, yield it, feed it back, and so on.

    Args:
        step: one step of the model.
        scores: `[B, V]`, of the first symbol: what the model says after it has read its prompt.
        state: the model's state then.
        choose: picks symbols from scores; see `Sampling.chooser`.
        length: most symbols.
        stop: a row ends when this symbol is picked, which is still yielded; None never ends before `length`.

    Yields:
        Symbols `[B]`; a row that has ended gives `stop` again and again, until all rows have ended.

    Raises:
        ValueError: a length below 1.
    """
    if length < 1:
        raise ValueError(f"length is at least 1; got {length}")
    ended = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    for remaining in range(length, 0, -1):
        symbols = choose(scores)
        if stop is not None:
            symbols = symbols.masked_fill(ended, stop)
            ended = ended | (symbols == stop)
        yield symbols
        if remaining == 1 or (stop is not None and bool(ended.all())):
            return
        # Not around the yield: whoever consumes the symbols keeps gradients as they are.
        with torch.no_grad():
            scores, state = step(symbols, state)
