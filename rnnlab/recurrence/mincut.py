"""The cheapest set of values to keep, such that everything wanted can be computed again from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

_ENDLESS = float("inf")


def cheapest(
    reads: Mapping[T, Collection[T]], cost: Mapping[T, float], fixed: Collection[T], wanted: Collection[T]
) -> set[T]:
    """A minimum vertex cut between values that cannot be computed again and values that are wanted.

    Args:
        reads: the values that each value is computed from.
        cost: of keeping a value; a value without one cannot be kept.
        fixed: the values that no computation can give again.
        wanted: the values that are read later.

    Returns:
        The values to keep. Of several cheapest sets, it is the one nearest to what is wanted, so that the
        least is computed again.
    """
    graph: dict[tuple[T, bool] | str, dict[tuple[T, bool] | str, float]] = {"from": {}, "to": {}}

    def edge(a: tuple[T, bool] | str, b: tuple[T, bool] | str, capacity: float) -> None:
        graph.setdefault(a, {})[b] = capacity
        graph.setdefault(b, {}).setdefault(a, 0.0)

    for value, operands in reads.items():
        edge((value, False), (value, True), cost.get(value, _ENDLESS))
        for operand in operands:
            if operand in reads:
                edge((operand, True), (value, False), _ENDLESS)
    for value in fixed:
        edge("from", (value, False), _ENDLESS)
    for value in wanted:
        edge((value, True), "to", _ENDLESS)
    while True:
        parents: dict[tuple[T, bool] | str, tuple[T, bool] | str] = {"from": "from"}
        queue: deque[tuple[T, bool] | str] = deque(["from"])
        while queue and "to" not in parents:
            at = queue.popleft()
            for neighbour, capacity in graph[at].items():
                if capacity > 0 and neighbour not in parents:
                    parents[neighbour] = at
                    queue.append(neighbour)
        if "to" not in parents:
            break
        path: list[tuple[tuple[T, bool] | str, tuple[T, bool] | str]] = []
        at = "to"
        while at != "from":
            path.append((parents[at], at))
            at = parents[at]
        flow = min(graph[a][b] for a, b in path)
        if flow == _ENDLESS:
            raise ValueError("what is wanted can neither be kept nor computed again")
        for a, b in path:
            graph[a][b] -= flow
            graph[b][a] += flow
    # From the end backwards: what can still reach it lies behind the cut.
    behind: set[tuple[T, bool] | str] = {"to"}
    queue = deque(["to"])
    while queue:
        at = queue.popleft()
        for neighbour in graph[at]:
            if neighbour not in behind and graph[neighbour][at] > 0:
                behind.add(neighbour)
                queue.append(neighbour)
    return {value for value in reads if (value, True) in behind and (value, False) not in behind}
