"""The tokens that a model knows, and their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

PAD = "<pad>"
UNK = "<unk>"
# Ends a line or a text; the third entry of vocabularies that have it.
EOS = "<eos>"


class Vocabulary:
    """A fixed, ordered list of distinct tokens; `<pad>` is number 0 and `<unk>` number 1.

    Args:
        tokens: all tokens in order, as `tokens` and `to_list` give them.

    Raises:
        ValueError: the list does not begin with `<pad>`, `<unk>`, or a token occurs twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = list(tokens)
        if self.tokens[:2] != [PAD, UNK]:
            raise ValueError(
                f"a vocabulary begins with {PAD!r}, {UNK!r}; this one begins with {self.tokens[:2]}"
            )
        self._index = {token: number for number, token in enumerate(self.tokens)}
        if len(self._index) != len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ValueError(f"a vocabulary lists each token once; {twice!r} occurs more often")

    @classmethod
    def build(
        cls,
        texts: Iterable[Iterable[str]],
        *,
        max_size: int | None = None,
        min_count: int = 1,
        specials: Sequence[str] = (),
    ) -> Vocabulary:
        """Count tokens and keep the most frequent; ties fall in alphabetical order.

        Args:
            texts: tokenised texts of the training split.
            max_size: most entries, with `<pad>`, `<unk>` and the specials counted in; None for no limit.
            min_count: fewest occurrences of a token that is kept.
            specials: further tokens, such as `<eos>`, that follow `<unk>` whatever their count.

        Raises:
            ValueError: a limit leaves no room, or no token is left.
        """
        first = [PAD, UNK, *specials]
        if min_count < 1:
            raise ValueError(f"min_count is at least 1; got {min_count}")
        if max_size is not None and max_size <= len(first):
            raise ValueError(
                f"the vocabulary's size is at least {len(first) + 1} ({', '.join(first)} and one token); "
                f"got {max_size}"
            )
        counts = Counter(token for text in texts for token in text)
        for special in first:
            counts.pop(special, None)
        kept = sorted((token for token, n in counts.items() if n >= min_count), key=lambda t: (-counts[t], t))
        if not kept:
            raise ValueError(
                f"no token occurs at least min_count={min_count} times among {len(counts)} distinct tokens; "
                "lower min_count or give more text"
            )
        return cls([*first, *kept[: None if max_size is None else max_size - len(first)]])

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of the tokens; `<unk>`'s number for a token that is not in the list."""
        index, unknown = self._index, 1
        return [index.get(token, unknown) for token in tokens]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Tokens of the numbers."""
        return [self.tokens[number] for number in numbers]

    def to_list(self) -> list[str]:
        """All tokens as a plain list: `Vocabulary(v.to_list()) == v`."""
        return list(self.tokens)
