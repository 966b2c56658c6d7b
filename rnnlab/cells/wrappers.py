"""Regularisers that wrap any cell: zoneout, recurrent dropout and weight drop.

    Zoneout(WeightDrop(LSTMCell(32, 64), 0.5), (0.05, 0.3))

A wrapper is a cell itself, so that wrappers nest in any order, and everything that runs a cell runs them.
Their masks are drawn by `draw`, once for a sequence and outside the recurrence, so that every backend sees
the same noise; in eval mode nothing is drawn. Parameters keep the inner cell's names in the state dict, so
that weights move between a wrapped cell and a plain one.

Legend: `T` time, `B` batch, `I` input, `H` hidden; `*` stands for any further dimensions.
"""

import inspect
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

Masks = tuple[tuple[Tensor, str], ...]


class Wrapper(nn.Module):
    """What the wrappers share: they look like the cell inside, and hand it the noise that is its own.

    A subclass gives the masks of one sequence in `masks`, and applies them in `apply`. Attributes that a
    wrapper does not have (`hidden_size`, `initial_state`, `output`, ...) are those of the cell inside.
    """

    cell: nn.Module

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        if not isinstance(cell, nn.Module):
            raise TypeError(
                f"{type(self).__name__} wraps a cell, got {cell!r}; "
                f"{type(self).__name__}.of(...) makes a factory from a name or a class"
            )
        self.cell = cell
        self.register_state_dict_post_hook(_hide_prefix)
        self.register_load_state_dict_pre_hook(_restore_prefix)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "cell" not in self.__dict__.get("_modules", ()):
                raise
            return getattr(self.cell, name)

    def masks(self, length: int, batch: int, *, device: torch.device, dtype: torch.dtype) -> Masks:
        """The wrapper's own masks of one sequence, as pairs of a value and what it is drawn per."""
        raise NotImplementedError

    def apply_masks(self, x: Tensor, state: Any, masks: tuple[Tensor, ...], inner: tuple[Tensor, ...]) -> Any:
        """One step with the wrapper's own masks, or as it is in eval mode where there are none."""
        raise NotImplementedError

    def mask_count(self) -> int:
        """How many masks `masks` returns in training."""
        raise NotImplementedError

    def draw(self, length: int, batch: int, *, device: torch.device, dtype: torch.dtype) -> Masks:
        """The masks of one sequence of T steps and B rows, this wrapper's before the inner ones."""
        own = self.masks(length, batch, device=device, dtype=dtype) if self.training else ()
        inner = getattr(self.cell, "draw", None)
        return (*own, *(inner(length, batch, device=device, dtype=dtype) if inner is not None else ()))

    def forward(self, x: Tensor, state: Any, *noise: Tensor) -> Any:
        """One step; in training, with the masks of `draw` for this step.

        Raises:
            ValueError: masks are missing in training.
        """
        count = self.mask_count() if self.training else 0
        if len(noise) < count:
            raise ValueError(
                f"{type(self).__name__} needs its masks in training: give those of draw(...) as further "
                "arguments, run the cell by rnnlab.Recurrence or DeepRNN, or call eval()"
            )
        return self.apply_masks(x, state, noise[:count], noise[count:])


class Factory:
    """Makes wrapped cells, `(input_size, hidden_size, ...) -> wrapper(cell(...))`, as `DeepRNN` takes one."""

    def __init__(self, cell: str | Callable[..., nn.Module], wrapper: Callable[[nn.Module], Wrapper]) -> None:
        from rnnlab.cells import find

        self.cell = find(cell) if isinstance(cell, str) else cell
        self.wrapper = wrapper

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.cell)

    def __call__(self, input_size: int, hidden_size: int, *args: Any, **options: Any) -> Wrapper:
        return self.wrapper(self.cell(input_size, hidden_size, *args, **options))


class Zoneout(Wrapper):
    """Each unit of a state keeps its old value with probability p, at every step anew.

        s' = d * s + (1 - d) * cell(x, s),   d ~ Bernoulli(p)

    In eval mode d is its expectation p. Masks are `[T, B, *]` for each state whose p is above zero.

    Args:
        cell: any cell.
        p: one probability for all states, or one for each: `(0.05, 0.5)` zones out an LSTM's h and c. States
            that only mean something together, such as sLSTM's c, n and m, want 0. ValueError outside [0, 1).

    Source: Krueger et al. (2017), "Zoneout: regularizing RNNs by randomly preserving hidden activations",
    equation 5.
    """

    def __init__(self, cell: nn.Module, p: float | Sequence[float]) -> None:
        super().__init__(cell)
        self.p: float | tuple[float, ...]
        self.p = tuple(map(_probability, p)) if isinstance(p, Sequence) else _probability(p)
        self._shapes: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def of(cls, cell: str | Callable[..., nn.Module], p: float | Sequence[float]) -> Factory:
        """A factory of wrapped cells; `cell` is a name of `rnnlab.cells`, a class or a factory."""
        return Factory(cell, partial(cls, p=p))

    def mask_count(self) -> int:
        return sum(q > 0 for q in self._each())

    def masks(self, length: int, batch: int, *, device: torch.device, dtype: torch.dtype) -> Masks:
        pairs = zip(self._each(), self._state_shapes(), strict=True)
        return tuple(
            (_bernoulli((length, batch, *shape), q, device, dtype), "step") for q, shape in pairs if q > 0
        )

    def apply_masks(self, x: Tensor, state: Any, masks: tuple[Tensor, ...], inner: tuple[Tensor, ...]) -> Any:
        result = self.cell(x, state, *inner)
        if state is None:  # a cell that makes its own first state
            return result
        single = isinstance(state, Tensor)
        old = (state,) if single else tuple(state)
        if self._shapes is None:
            self._shapes = tuple(tuple(s.shape[1:]) for s in old)
        # Of a pair whose second half has the state's structure, the first half is an output.
        returned = isinstance(result if single else result[-1], tuple | list)
        new = result[1] if returned else result
        drawn = iter(masks)
        mixed = tuple(
            n if q == 0 else torch.where(next(drawn) > 0, o, n) if self.training else q * o + (1 - q) * n
            for q, o, n in zip(self._each(), old, (new,) if single else new, strict=True)
        )
        zoned = mixed[0] if single else mixed
        return (result[0], zoned) if returned else zoned

    def _each(self) -> tuple[float, ...]:
        """One probability a state."""
        states = len(self._state_shapes())
        if not isinstance(self.p, tuple):
            return (self.p,) * states
        if len(self.p) != states:
            raise ValueError(
                f"p has {len(self.p)} values, {type(self.cell).__name__} has {states} states: "
                "give one probability, or one for each state"
            )
        return self.p

    def _state_shapes(self) -> tuple[tuple[int, ...], ...]:
        if self._shapes is None:
            initial = getattr(self.cell, "initial_state", None)
            if initial is None:
                raise ValueError(
                    f"Zoneout does not know the states of {type(self.cell).__name__} yet: run one step in "
                    "eval mode first, as rnnlab.Recurrence does, or define initial_state(batch) on the cell"
                )
            state = initial(1)
            states = (state,) if isinstance(state, Tensor) else state
            self._shapes = tuple(tuple(s.shape[1:]) for s in states)
        return self._shapes

    def extra_repr(self) -> str:
        return f"p={self.p}"


class WeightDrop(Wrapper):
    """Single recurrent weights are dropped, once for a sequence: DropConnect on the recurrent matrices.

        W_hh <- m * W_hh / (1 - p),   m ~ Bernoulli(1 - p), one value a weight

    The mask is shared by all steps and rows, and costs nothing inside the recurrence.

    Args:
        cell: any cell.
        p: the probability to drop a weight. ValueError outside [0, 1).
        weights: which parameters, as a shell pattern or several for the end of their names ("weight_hh*",
            "across.weight"). ValueError if none matches.

    Source: Merity, Keskar and Socher (2018), "Regularizing and optimizing LSTM language models", section 3.
    """

    def __init__(self, cell: nn.Module, p: float, weights: str | Sequence[str] = "weight_hh*") -> None:
        super().__init__(cell)
        self.p = _probability(p)
        self.weights = (weights,) if isinstance(weights, str) else tuple(weights)
        names = [name for name, _ in cell.named_parameters()]
        self._names = tuple(
            name for name in names if any(fnmatchcase(end, w) for w in self.weights for end in _ends(name))
        )
        if not self._names:
            raise ValueError(
                f"no parameter of {type(cell).__name__} matches weights={weights!r}; "
                f"it has {', '.join(names)}"
            )

    @classmethod
    def of(
        cls, cell: str | Callable[..., nn.Module], p: float, weights: str | Sequence[str] = "weight_hh*"
    ) -> Factory:
        """A factory of wrapped cells; `cell` is a name of `rnnlab.cells`, a class or a factory."""
        return Factory(cell, partial(cls, p=p, weights=weights))

    def mask_count(self) -> int:
        return len(self._names) if self.p > 0 else 0

    def mask_shape(self, weight: Tensor) -> tuple[int, ...]:
        """The shape of one weight's mask."""
        return tuple(weight.shape)

    def masks(self, length: int, batch: int, *, device: torch.device, dtype: torch.dtype) -> Masks:
        if self.p == 0:
            return ()
        keep = 1 - self.p
        found = [attrgetter(name)(self.cell) for name in self._names]
        return tuple(
            (_bernoulli(self.mask_shape(w), keep, w.device, w.dtype).div_(keep), "call") for w in found
        )

    def apply_masks(self, x: Tensor, state: Any, masks: tuple[Tensor, ...], inner: tuple[Tensor, ...]) -> Any:
        if not masks:
            return self.cell(x, state, *inner)
        dropped = {
            name: attrgetter(name)(self.cell) * mask for name, mask in zip(self._names, masks, strict=True)
        }
        return torch.func.functional_call(self.cell, dropped, (x, state, *inner))

    def extra_repr(self) -> str:
        return f"p={self.p}, weights={', '.join(self.weights)}"


class RecurrentDropout(WeightDrop):
    """Whole hidden units are dropped from what the recurrent weights read, once for a sequence.

        W_hh h  <-  W_hh (m * h / (1 - p)),   m ~ Bernoulli(1 - p), one value a unit

    This is variational dropout on the recurrent connection. Only the recurrent product sees it: what a cell
    carries beside that product (an LSTM's c, the part of h that a GRU keeps) is not touched, so that no
    memory is lost and nothing grows by 1 / (1 - p) at every step. So that this holds for any cell, the mask
    is applied to the columns of the recurrent matrices: all rows of a batch share it, as they do in weight
    drop.

    Args:
        cell: any cell.
        p: the probability to drop a unit. ValueError outside [0, 1).
        weights: the recurrent parameters, as a shell pattern or several for the end of their names.
            ValueError if none matches.

    Source: Gal and Ghahramani (2016), "A theoretically grounded application of dropout in recurrent neural
    networks", where the masks are equally derived as dropped columns; without memory loss as in Semeniuta,
    Severyn and Barth (2016), "Recurrent dropout without memory loss".
    """

    def mask_shape(self, weight: Tensor) -> tuple[int, ...]:
        return tuple(weight.shape[-1:])


def _ends(name: str) -> list[str]:
    """`a.b.c`, `b.c` and `c`."""
    parts = name.split(".")
    return [".".join(parts[k:]) for k in range(len(parts))]


def _bernoulli(shape: tuple[int, ...], p: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, device=device, dtype=dtype).bernoulli_(p)


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"p must be a probability of at least 0 and below 1, got {value!r}")
    return float(value)


def _hide_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    inside = f"{prefix}cell."
    for key in [key for key in state if key.startswith(inside)]:
        state[prefix + key[len(inside) :]] = state.pop(key)


def _restore_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}cell.{key[len(prefix) :]}"] = state.pop(key)
