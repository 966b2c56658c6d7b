"""Which backend runs a call: a registry in order of preference, and the rule that picks from it."""

from __future__ import annotations

import logging
from difflib import get_close_matches
from typing import Protocol

from torch import Tensor

from rnnlab.recurrence.contract import Call, State

logger = logging.getLogger("rnnlab")


class Backend(Protocol):
    """A way to run a recurrence: it refuses a call with a reason, or computes what the reference does."""

    name: str

    def refusal(self, call: Call) -> str | None:
        """Why this backend cannot run the call, as the end of a sentence; None if it can.

        It may look at nothing but what `call.signature()` covers, since the answer is kept for it.
        """

    def run(self, call: Call) -> tuple[Tensor, State]:
        """Outputs `[T, B, *]` and the final state of a call that was not refused."""


_backends: list[Backend] = []
_told: set[tuple[type, str, str]] = set()


def register(backend: Backend, *, before: str | None = None) -> None:
    """Offer a backend to `backend="auto"`, preferred to the one named by `before`, or last without it.

    Raises ValueError if the name is taken, or `before` is unknown.
    """
    if backend.name == "auto" or backend.name in names():
        raise ValueError(f"a backend named {backend.name!r} is registered already")
    position = len(_backends) if before is None else _backends.index(find(before))
    _backends.insert(position, backend)


def names() -> tuple[str, ...]:
    """The names of the registered backends, the preferred one first."""
    return tuple(backend.name for backend in _backends)


def find(name: str) -> Backend:
    """The backend of that name; ValueError, with the names there are, if there is none."""
    for backend in _backends:
        if backend.name == name:
            return backend
    raise ValueError(_unknown(name))


def check_name(name: str) -> str:
    """`name` itself if it is "auto" or a registered backend, else ValueError."""
    if name != "auto" and name not in names():
        raise ValueError(_unknown(name))
    return name


def choose(name: str, call: Call) -> Backend:
    """The backend that runs this call: the named one, or for "auto" the first that does not refuse.

    Raises ValueError where the named one refuses, with its reason and the backends that would run the call.
    """
    if name != "auto":
        backend = find(name)
        reason = backend.refusal(call)
        if reason is None:
            return backend
        raise _refused(backend, call, reason)
    return _first(call, [])


def instead(name: str, call: Call, failed: Backend, reason: str) -> Backend:
    """The backend that runs a call after the chosen one failed to: for "auto" the next that does not refuse.

    Raises ValueError where a backend was named, with the reason and the backends that would run the call.
    """
    if name != "auto":
        raise _refused(failed, call, reason)
    return _first(call, [f"{failed.name}: {reason}"], failed)


def _refused(backend: Backend, call: Call, reason: str) -> ValueError:
    able = [other.name for other in _backends if other is not backend and other.refusal(call) is None]
    return ValueError(
        f"backend {backend.name!r} cannot run {type(call.cell).__name__}: {reason}; "
        f"what can: {', '.join(repr(other) for other in ['auto', *able])}"
    )


def _first(call: Call, reasons: list[str], failed: Backend | None = None) -> Backend:
    """The first backend in order of preference that does not refuse, and is not the one that failed."""
    for backend in _preferred(call):
        if backend is failed:
            continue
        reason = backend.refusal(call)
        if reason is None:
            if reasons:
                _tell(call, backend.name, "; ".join(reasons), failed is not None)
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise ValueError(f"no backend can run {type(call.cell).__name__}: {'; '.join(reasons)}")


def _preferred(call: Call) -> list[Backend]:
    """The backends in order of preference: one that outruns another for this call stands before it."""
    order = list(_backends)
    for backend in _backends:
        outruns = getattr(backend, "outruns", None)
        slower = None if outruns is None else outruns(call)
        if slower is not None and slower in names():
            place = order.index(find(slower))
            if place < order.index(backend):
                order.remove(backend)
                order.insert(place, backend)
    return order


def _tell(call: Call, chosen: str, reasons: str, failed: bool) -> None:
    """Log once a cell class what was chosen and why nothing faster could be."""
    key = (type(call.cell), chosen, reasons)
    if key not in _told:
        _told.add(key)
        level = logging.WARNING if failed or chosen == "eager" else logging.INFO
        logger.log(level, "%s runs on backend %r (%s)", type(call.cell).__name__, chosen, reasons)


def _unknown(name: str) -> str:
    offered = ["auto", *names()]
    close = get_close_matches(str(name), offered, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown backend {name!r}: there are {', '.join(repr(n) for n in offered)}{hint}"
