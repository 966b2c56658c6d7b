"""References `${...}` of a configuration: to its own keys alone, and few enough to be written out.

A resolver, such as `${oc.env:HOME}`, is a function that a text calls. None is called unless the user has
named it on the command line, `allow=oc.env`.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from omegaconf import grammar_parser
from omegaconf.errors import OmegaConfBaseException

from rnnlab.training.trust import allowed

# Characters and values of a configuration once every reference stands for what it refers to.
LARGEST = 1_000_000
# References whose key is itself computed, `${sizes.${name}}`, in one configuration.
MOST_COMPUTED = 8

Path = tuple[str, ...]


class Reference:
    """One `${...}`: the resolver that it calls, or the key that it names, None where that is computed."""

    def __init__(self, resolver: str | None, key: Path | None, above: int) -> None:
        self.resolver, self.key, self.above = resolver, key, above


def unsafe_references(tree: Mapping[str, Any]) -> list[str]:
    """What in an unresolved configuration calls a function or would grow without measure, a line each."""
    found: list[str] = []
    computed = 0
    for path, text in texts(tree):
        try:
            references = read_references(text)
        except OmegaConfBaseException:
            continue  # told, with the reason, when it is resolved
        except RecursionError:
            found.append(f"{_key(path)}: references are nested too deeply")
            continue
        for reference in references:
            name = reference.resolver
            if name is not None and name not in allowed():
                found.append(
                    f"{_key(path)}={text[:80]}: calls the resolver {name!r}, which a configuration may not; "
                    f"if you trust it, add allow={name}"
                )
            computed += reference.resolver is None and reference.key is None
    if computed > MOST_COMPUTED:
        found.append(f"{computed} references have computed keys; at most {MOST_COMPUTED} may")
    try:
        if not found and _written_out(tree, (), {}, set()) > LARGEST:
            found.append(f"its references stand for more than {LARGEST:,} characters and values")
    except RecursionError:
        found.append("references lead to others too many times over")
    return found


def texts(tree: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a tree that holds a reference, with its key."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if isinstance(key, str) and "${" in key:
                yield path, key
            yield from texts(value, (*path, str(key)))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from texts(value, (*path, str(index)))
    elif isinstance(tree, str) and "${" in tree:
        yield path, tree


@cache
def read_references(text: str) -> tuple[Reference, ...]:
    """The references of a text, those inside others too; escaped ones, `\\${`, are none.

    Raises:
        OmegaConfBaseException: the text cannot be read.
    """
    return tuple(_references(grammar_parser.parse(text)))


def _references(context: Any) -> Iterator[Reference]:
    children = list(getattr(context, "children", None) or ())
    kind = type(context).__name__
    if kind == "InterpolationResolverContext":
        yield Reference(children[1].getText(), None, 0)
    elif kind == "InterpolationNodeContext":
        # "${", as many dots as steps up, keys with brackets or dots around them, "}".
        inner = [child.getText() for child in children[1:-1]]
        computed = any("${" in text for text in inner)
        above = next((index for index, text in enumerate(inner) if text != "."), len(inner))
        keys = tuple(text for text in inner[above:] if text not in (".", "[", "]"))
        yield Reference(None, None if computed else keys, above)
    for child in children:
        yield from _references(child)


def _written_out(tree: Any, path: Path, known: dict[Path, int], open_: set[Path]) -> int:
    """Characters and values of what stands at a path, with every reference followed."""
    if path in known:
        return known[path]
    if path in open_:  # a circle, which is told when it is resolved
        return 0
    open_.add(path)
    value, size = _at(tree, path), 1
    if isinstance(value, Mapping):
        size += sum(_written_out(tree, (*path, str(key)), known, open_) for key in value)
    elif isinstance(value, list | tuple):
        size += sum(_written_out(tree, (*path, str(index)), known, open_) for index in range(len(value)))
    elif isinstance(value, str):
        size += len(value)
        if "${" in value:
            for reference in read_references(value) if _readable(value) else ():
                if reference.key is not None:
                    base = path[: len(path) - reference.above] if reference.above else ()
                    size += _written_out(tree, (*base, *reference.key), known, open_)
    open_.discard(path)
    known[path] = size
    return size


def _readable(text: str) -> bool:
    try:
        read_references(text)
    except OmegaConfBaseException:
        return False
    return True


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        if isinstance(tree, Mapping):
            tree = next((value for name, value in tree.items() if str(name) == key), None)
        elif isinstance(tree, list | tuple) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            return None
    return tree


def _key(path: Path) -> str:
    return ".".join(path)
