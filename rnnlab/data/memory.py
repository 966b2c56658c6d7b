"""Problems of long memory, generated: adding, copying, temporal order, parity.

Legend: `T` time, `B` batch, `I` features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rnnlab.data.base import DataModule, evenly
from rnnlab.data.batching import SequenceBatch, mixed_seed
from rnnlab.data.splits import SPLITS, Split
from rnnlab.data.streams import NO_TARGET


class Problem(ABC):
    """Sequences and what is to be said at some of their steps, drawn at random.

    Attributes:
        outputs: classes, or 1 for a number.
        symbols: how many symbols the inputs `[T, B]` are drawn from; 0 where inputs are vectors `[T, B, I]`.
        features: I, where inputs are vectors.
        trivial: what is said by who remembers nothing, in words.
    """

    outputs: ClassVar[int]
    symbols: ClassVar[int] = 0
    features: ClassVar[int] = 0
    trivial: ClassVar[str]
    least: ClassVar[int] = 2

    def __init__(self, length: int) -> None:
        if length < self.least:
            raise ValueError(f"length is at least {self.least} for this problem; got {length}")
        self.length = length

    def draw_length(self, generator: torch.Generator, vary: bool) -> int:
        """The length of a batch."""
        if not vary:
            return self.length
        return int(torch.randint(self.least, self.length + 1, (), generator=generator))

    @abstractmethod
    def draw(self, rows: int, generator: torch.Generator, *, vary: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs `[T, B]` (int64) or `[T, B, I]`, and targets `[T, B]`.

        A step without a target has `NO_TARGET`, or NaN where targets are numbers. With `vary`, the length is
        drawn too, from `least` to the problem's own.
        """

    @abstractmethod
    def baseline(self) -> float:
        """The loss, in the mean, of the best answer without memory."""

    def recalled(self, steps: int) -> slice:
        """The steps of a sequence whose answers count for the accuracy."""
        return slice(steps)

    @abstractmethod
    def write(self, inputs: Tensor) -> str:
        """The inputs of one sequence, `[T]` or `[T, I]`, as a person reads and types them."""

    @abstractmethod
    def parse(self, text: str) -> Tensor:
        """The inputs, `[T]` or `[T, I]`, of a sequence as `write` gives it.

        Raises:
            ValueError: the text is not one.
        """

    @abstractmethod
    def answer(self, values: Tensor) -> Any:
        """What the outputs (classes `[T]` or numbers `[T]`) say, in JSON's own types."""


class Adding(Problem):
    """The sum of the two marked numbers of a sequence, at its end.

    Each step is a number from U(0, 1) and a mark; one of each half is marked. Without memory the best guess
    is 1, at a mean squared error of 1/6.

    Source: Hochreiter and Schmidhuber 1997, experiment 4, in the form of Le, Jaitly and Hinton 2015.
    """

    outputs, features, trivial = 1, 2, "mean squared error of always saying 1"

    def draw(self, rows: int, generator: torch.Generator, *, vary: bool = False) -> tuple[Tensor, Tensor]:
        length = self.draw_length(generator, vary)
        half = length // 2
        inputs = torch.zeros(length, rows, 2)
        inputs[:, :, 0] = torch.rand(length, rows, generator=generator)
        first = torch.randint(0, half, (rows,), generator=generator)
        second = torch.randint(half, length, (rows,), generator=generator)
        columns = torch.arange(rows)
        inputs[first, columns, 1] = 1.0
        inputs[second, columns, 1] = 1.0
        targets = torch.full((length, rows), math.nan)
        targets[-1] = (inputs[:, :, 0] * inputs[:, :, 1]).sum(0)
        return inputs, targets

    def baseline(self) -> float:
        return 1 / 6

    def recalled(self, steps: int) -> slice:
        return slice(steps - 1, steps)

    def write(self, inputs: Tensor) -> str:
        return " ".join(f"{value:.3f}" + ("*" if mark else "") for value, mark in inputs.tolist())

    def parse(self, text: str) -> Tensor:
        steps = []
        for word in text.split():
            try:
                steps.append([float(word.removesuffix("*")), float(word.endswith("*"))])
            except ValueError:
                raise ValueError(f"{word!r} is no number, with * behind it if it is marked") from None
        if not steps:
            raise ValueError("there is no number; give some, two of them marked: '0.3* 0.5 0.7* 0.1'")
        return torch.tensor(steps)

    def answer(self, values: Tensor) -> Any:
        return round(values[-1].item(), 4)


class Copy(Problem):
    """Ten symbols, a wait of `length` blanks, and then the same ten symbols again.

    Inputs are ten of the symbols 1 to 8, blanks (0), the sign to begin (9), blanks; the answer is blank until
    the sign has been read. Without memory the last ten answers cost `ln 8` each:
    `10 ln 8 / (length + 20)` a step.

    Source: Hochreiter and Schmidhuber 1997, in the form of Arjovsky, Shah and Bengio 2016, section 5.1.
    """

    outputs, symbols, trivial = 9, 10, "cross-entropy of guessing the ten symbols"
    memory: ClassVar[int] = 10
    least = 1

    def draw(self, rows: int, generator: torch.Generator, *, vary: bool = False) -> tuple[Tensor, Tensor]:
        kept = torch.randint(1, 9, (self.memory, rows), generator=generator)
        steps = self.draw_length(generator, vary) + 2 * self.memory
        inputs = torch.zeros(steps, rows, dtype=torch.int64)
        inputs[: self.memory] = kept
        inputs[steps - self.memory - 1] = 9
        targets = torch.zeros(steps, rows, dtype=torch.int64)
        targets[-self.memory :] = kept
        return inputs, targets

    def baseline(self) -> float:
        return self.memory * math.log(8) / (self.length + 2 * self.memory)

    def recalled(self, steps: int) -> slice:
        return slice(steps - self.memory, steps)

    def write(self, inputs: Tensor) -> str:
        return "".join(map(str, inputs[: self.memory].tolist()))

    def parse(self, text: str) -> Tensor:
        if len(text) != self.memory or not set(text) <= set("12345678"):
            raise ValueError(f"{text!r} is not {self.memory} digits from 1 to 8, such as 3141526535")
        inputs = torch.zeros(self.length + 2 * self.memory, dtype=torch.int64)
        inputs[: self.memory] = torch.tensor([int(digit) for digit in text])
        inputs[-self.memory - 1] = 9
        return inputs

    def answer(self, values: Tensor) -> Any:
        return "".join(map(str, values[-self.memory :].tolist()))


class TemporalOrder(Problem):
    """Which of X and Y came first and second, at the end of a sequence of other letters.

    One of X and Y stands in the second tenth of the sequence, one in its sixth; the other steps hold a, b, c
    or d. The classes are XX, XY, YX, YY; without memory each costs `ln 4`.

    Source: Hochreiter and Schmidhuber 1997, experiment 6a, in the form of Pascanu, Mikolov and Bengio 2013.
    """

    outputs, symbols, trivial = 4, 6, "cross-entropy of guessing among four orders"
    least = 10
    letters: ClassVar[str] = "abcdXY"

    def draw(self, rows: int, generator: torch.Generator, *, vary: bool = False) -> tuple[Tensor, Tensor]:
        length = self.draw_length(generator, vary)
        inputs = torch.randint(0, 4, (length, rows), generator=generator)
        tenth, columns = length // 10, torch.arange(rows)
        seen = torch.randint(0, 2, (2, rows), generator=generator)
        for start, which in ((tenth, seen[0]), (5 * tenth, seen[1])):
            inputs[start + torch.randint(0, tenth, (rows,), generator=generator), columns] = 4 + which
        targets = torch.full((length, rows), NO_TARGET)
        targets[-1] = 2 * seen[0] + seen[1]
        return inputs, targets

    def baseline(self) -> float:
        return math.log(4)

    def recalled(self, steps: int) -> slice:
        return slice(steps - 1, steps)

    def write(self, inputs: Tensor) -> str:
        return "".join(self.letters[symbol] for symbol in inputs.tolist())

    def parse(self, text: str) -> Tensor:
        if not text or not set(text) <= set(self.letters):
            raise ValueError(f"{text!r} is not a sequence of the letters a, b, c, d, X and Y")
        return torch.tensor([self.letters.index(letter) for letter in text])

    def answer(self, values: Tensor) -> Any:
        return ("XX", "XY", "YX", "YY")[int(values[-1])]


class Parity(Problem):
    """Whether the number of ones so far is odd, at each step of a string of bits.

    Without memory each answer costs `ln 2`. A network without
    negative eigenvalues or a nonlinear recurrence cannot do it at lengths that it has not seen.

    Source: Minsky and Papert 1969; of recurrent networks, Grazzi et al. 2025, "Unlocking state-tracking in
    linear RNNs through negative eigenvalues".
    """

    outputs, symbols, trivial = 2, 2, "cross-entropy of guessing odd or even"
    least = 1

    def draw(self, rows: int, generator: torch.Generator, *, vary: bool = False) -> tuple[Tensor, Tensor]:
        inputs = torch.randint(0, 2, (self.draw_length(generator, vary), rows), generator=generator)
        return inputs, inputs.cumsum(0) % 2

    def baseline(self) -> float:
        return math.log(2)

    def write(self, inputs: Tensor) -> str:
        return "".join(map(str, inputs.tolist()))

    def parse(self, text: str) -> Tensor:
        if not text or not set(text) <= {"0", "1"}:
            raise ValueError(f"{text!r} is not a string of 0 and 1, such as 101101")
        return torch.tensor([int(bit) for bit in text])

    def answer(self, values: Tensor) -> Any:
        return "odd" if int(values[-1]) else "even"


PROBLEMS: dict[str, type[Problem]] = {
    "adding": Adding,
    "copy": Copy,
    "temporal_order": TemporalOrder,
    "parity": Parity,
}


def make_problem(name: str, length: int) -> Problem:
    """The problem of that name; ValueError for another name or a length that is too small."""
    if name not in PROBLEMS:
        raise ValueError(f"problem {name!r} is not known; choose from {', '.join(PROBLEMS)}")
    return PROBLEMS[name](length)


class DrawnSequences(Dataset[SequenceBatch]):
    """Batches of a problem that are drawn when they are asked for, by `(epoch, rows)`: no two epochs agree.

    Args:
        problem: draws them.
        size: rows an epoch.
        seed: with epoch and rows it decides the batch.
        vary: let each batch have a length of its own, up to the problem's.
    """

    draws = True

    def __init__(self, problem: Problem, size: int, seed: int, *, vary: bool = False) -> None:
        self.problem, self.seed, self.vary = problem, seed, vary
        self.lengths = torch.full((size,), problem.length)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> SequenceBatch:
        epoch, rows = key
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, *rows))
        return _batch(*self.problem.draw(len(rows), generator, vary=self.vary))


class FixedSequences(Dataset[SequenceBatch]):
    """Sequences of a problem that are drawn once; indexing by a list of rows gives their batch.

    Args:
        problem: draws them.
        size: how many.
        seed: decides them.
    """

    def __init__(self, problem: Problem, size: int, seed: int) -> None:
        self.inputs, self.targets = problem.draw(size, torch.Generator().manual_seed(seed))
        self.lengths = torch.full((size,), len(self.inputs))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Sequence[int]) -> SequenceBatch:
        return _batch(self.inputs[:, list(rows)], self.targets[:, list(rows)])


def _batch(inputs: Tensor, targets: Tensor) -> SequenceBatch:
    return SequenceBatch(inputs, torch.full((inputs.shape[1],), len(inputs)), targets)


class MemoryData(DataModule):
    """A problem of long memory: training sequences drawn anew in each epoch, the others drawn once.

    Everything is decided by `seed`; the same seed gives the same sequences, whatever the batch size of
    validation and test.

    Args:
        problem: `"adding"`, `"copy"`, `"temporal_order"` or `"parity"`.
        length: steps of a sequence; for copy, blanks between the symbols and the sign to repeat them.
        test_length: the same for the test; None for `length`.
        vary: learn on batches of all lengths up to `length`, from which long memory is learned sooner.
        epoch_size: training sequences an epoch.
        eval_size: sequences of validation, and of the test.
        batch_size, eval_batch_size, num_workers, seed: see `DataModule`.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        problem: Literal["adding", "copy", "temporal_order", "parity"] = "adding",
        *,
        length: int = 200,
        test_length: int | None = None,
        vary: bool = False,
        epoch_size: int = 6400,
        eval_size: int = 1000,
        batch_size: int = 64,
        eval_batch_size: int = 250,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        if epoch_size < 1 or eval_size < 1:
            raise ValueError(f"epoch_size and eval_size are at least 1; got {epoch_size} and {eval_size}")
        self.problem = problem
        self.learned = make_problem(problem, length)
        self.tested = make_problem(problem, length if test_length is None else test_length)
        self.vary, self.epoch_size, self.eval_size = vary, epoch_size, eval_size

    def read(self) -> Mapping[Split, Any]:
        """Draw the sequences of validation and test."""
        seeds = {split: mixed_seed(self.seed, place) for place, split in enumerate(SPLITS)}
        return {
            "train": DrawnSequences(self.learned, self.epoch_size, seeds["train"], vary=self.vary),
            "validation": FixedSequences(self.learned, self.eval_size, seeds["validation"]),
            "test": FixedSequences(self.tested, self.eval_size, seeds["test"]),
        }

    def facts(self) -> dict[str, Any]:
        """The problem and its lengths."""
        return {
            "problem": self.problem,
            "length": self.learned.length,
            "test_length": self.tested.length,
        }

    def summary(self) -> dict[str, Any]:
        """The problem, its lengths, and what an answer without memory costs."""
        sizes = {
            "train": f"{self.epoch_size:,} an epoch",
            "validation": self.eval_size,
            "test": self.eval_size,
        }
        learned = f"up to {self.learned.length}" if self.vary else str(self.learned.length)
        return {
            "problem": f"{self.problem}, generated",
            "length": f"{learned} to learn, {self.tested.length} to test",
            "examples": sizes,
            "baseline": f"{self.learned.baseline():.4f} ({self.learned.trivial})",
        }

    def examples(self, split: Split, n: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs and targets of single sequences, without the batch, evenly spaced over the split."""
        dataset = self.dataset(split)
        if isinstance(dataset, DrawnSequences):
            batch = dataset[0, list(range(max(1, n)))]
            return [(batch.inputs[:, row], batch.targets[:, row]) for row in range(n)]
        return [(dataset.inputs[:, row], dataset.targets[:, row]) for row in evenly(range(len(dataset)), n)]
