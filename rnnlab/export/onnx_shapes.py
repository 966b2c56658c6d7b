"""Operators of PyTorch that move numbers and change shapes, as nodes of ONNX; see `onnx_ops`."""

from __future__ import annotations

from typing import Any

import torch

from rnnlab.export.onnx_emit import Dyn, Emitter, Size, Val
from rnnlab.export.onnx_ops import LAST, _as, aten, rule


@rule(aten.t.default)
def _t(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(args[0].name if args[0].rank < 2 else e.op("Transpose", args[0], perm=[1, 0]))


@rule(aten.transpose.int)
def _transpose(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    order = list(range(args[0].rank))
    order[args[1]], order[args[2]] = order[args[2]], order[args[1]]
    return str(e.op("Transpose", args[0], perm=order))


@rule(aten.permute.default)
def _permute(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Transpose", args[0], perm=[dim % args[0].rank for dim in args[1]]))


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _view(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Reshape", args[0], e.vector(args[1])))


@rule(aten.unsqueeze.default)
def _unsqueeze(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Unsqueeze", args[0], e.constant([args[1] % (args[0].rank + 1)])))


@rule(aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    dims = [args[1]] if isinstance(args[1], int) else list(args[1])
    ones = [dim for dim in dims if args[0].shape[dim] == 1]
    return str(e.op("Squeeze", args[0], e.constant(ones)) if ones else args[0].name)


@rule(aten.expand.default)
def _expand(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Expand", args[0], e.vector([1 if size == -1 else size for size in args[1]])))


@rule(aten.repeat.default)
def _repeat(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    missing = len(args[1]) - args[0].rank
    x = args[0] if missing == 0 else e.op("Unsqueeze", args[0], e.constant(list(range(missing))))
    return str(e.op("Tile", x, e.vector(args[1])))


@rule(aten.cat.default)
def _cat(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    parts = [_as(e, part, out) for part in args[0]]
    return str(e.op("Concat", *parts, axis=args[1] if len(args) > 1 else kwargs.get("dim", 0)))


@rule(aten.stack.default)
def _stack(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    parts = [e.op("Unsqueeze", part, e.constant([axis % (part.rank + 1)])) for part in args[0]]
    return str(e.op("Concat", *parts, axis=axis))


@rule(aten.slice.Tensor)
def _slice(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    x, dim, start, end, step = _padded(args, (None, 0, None, None, 1))
    start, end = 0 if start is None else start, LAST if end is None else end
    if start == 0 and end == LAST and step == 1:
        return str(x.name)
    places = [e.vector([item]) for item in (start, end, dim, step)]
    return str(e.op("Slice", x, *places))


def _padded(args: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args, *defaults[len(args) :])


@rule(aten.flip.default)
def _flip(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    count = len(args[1])
    places = [[-1] * count, [-LAST] * count, list(args[1]), [-1] * count]
    return str(e.op("Slice", args[0], *(e.constant(place) for place in places)))


@rule(aten.select.int)
def _select(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Gather", args[0], e.scalar(args[2]), axis=args[1]))


@rule(aten.split_with_sizes.default, aten.split.sizes)
def _split_sizes(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> list[str]:
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    return _parts(e, args[0], list(args[1]), dim)


@rule(aten.split.Tensor, aten.unsafe_split.Tensor)
def _split(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> list[str]:
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    whole = args[0].shape[dim]
    if not isinstance(whole, int):
        raise NotImplementedError("a split of a free dimension")
    return _parts(e, args[0], [min(args[1], whole - at) for at in range(0, whole, args[1])], dim)


@rule(aten.chunk.default, aten.unsafe_chunk.default)
def _chunk(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> list[str]:
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    each = -(-args[0].shape[dim] // args[1])
    return _split(e, (args[0], each, dim), {}, out)


def _parts(e: Emitter, x: Val, sizes: list[int], dim: int) -> list[str]:
    if len(sizes) == 1:
        return [x.name]
    return list(e.op("Split", x, e.constant(sizes), outputs=len(sizes), axis=dim))


@rule(aten.unbind.int)
def _unbind(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> list[str]:
    dim = args[1] if len(args) > 1 else 0
    return [e.op("Gather", args[0], e.constant(at), axis=dim) for at in range(args[0].shape[dim])]


@rule(aten.embedding.default)
def _embedding(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Gather", args[0], args[1], axis=0))


@rule(aten.index_select.default)
def _index_select(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Gather", args[0], args[2], axis=args[1]))


@rule(aten.gather.default)
def _gather(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("GatherElements", args[0], args[2], axis=args[1]))


@rule(aten.scatter.src)
def _scatter(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("ScatterElements", args[0], args[2], _as(e, args[3], out), axis=args[1]))


@rule(aten.scatter.value)
def _scatter_value(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    spread = e.op("Expand", e.constant(args[3], out), e.op("Shape", args[2]))
    return str(e.op("ScatterElements", args[0], args[2], spread, axis=args[1]))


@rule(aten.index.Tensor)
def _index(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    x, places = args
    given = [(dim, place) for dim, place in enumerate(places) if place is not None]
    if any(place.dtype == torch.bool for _, place in given):
        raise NotImplementedError("indexing by a mask")
    if len(given) == 1:
        return str(e.op("Gather", x, given[0][1], axis=given[0][0]))
    if [dim for dim, _ in given] != list(range(len(given))):
        raise NotImplementedError("indices of dimensions that are not the first")
    zero: Any = e.constant(0)
    spread = zero
    for _, place in given:  # zeros of the shape that all indices have together
        spread = e.op("Add", spread, e.op("Mul", place, zero))
    columns = [e.op("Unsqueeze", e.op("Add", place, spread), e.constant([-1])) for _, place in given]
    return str(e.op("GatherND", x, e.op("Concat", *columns, axis=-1)))


@rule(aten.arange.start_step, aten.arange.start, aten.arange.default)
def _arange(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    first: Size = 0
    if len(args) == 1:
        args = (first, *args)
    start, end, step = (*args, 1)[:3]
    return str(e.op("Range", *(_as(e, item, out) for item in (start, end, step))))


def _filled(e: Emitter, sizes: Any, value: Any, dtype: torch.dtype) -> str:
    filler = _as(e, value, dtype)
    return str(e.op("Expand", filler, e.vector(sizes)) if len(sizes) else filler)


@rule(aten.full.default)
def _full(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _filled(e, args[0], args[1], out)


@rule(aten.zeros.default, aten.empty.memory_format)
def _zeros(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _filled(e, args[0], 0, out)


@rule(aten.ones.default)
def _ones(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _filled(e, args[0], 1, out)


@rule(aten.new_zeros.default, aten.new_empty.default)
def _new_zeros(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _filled(e, args[1], 0, out)


@rule(aten.new_ones.default)
def _new_ones(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _filled(e, args[1], 1, out)


@rule(aten.new_full.default)
def _new_full(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _filled(e, args[1], args[2], out)


@rule(aten.scalar_tensor.default)
def _scalar_tensor(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return _as(e, args[0], out)


@rule(aten.zeros_like.default, aten.empty_like.default)
def _zeros_like(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Expand", e.constant(0, out), e.op("Shape", args[0])))


@rule(aten.ones_like.default)
def _ones_like(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Expand", e.constant(1, out), e.op("Shape", args[0])))


@rule(aten.full_like.default)
def _full_like(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    return str(e.op("Expand", _as(e, args[1], out), e.op("Shape", args[0])))


@rule(aten.constant_pad_nd.default)
def _pad(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> str:
    x, pads, value = args[0], list(args[1]), args[2] if len(args) > 2 else 0
    missing = x.rank - len(pads) // 2
    before = [0] * missing + pads[-2::-2]
    after = [0] * missing + pads[-1::-2]
    return str(e.op("Pad", x, e.vector([*before, *after]), e.constant(value, out)))


@rule(aten.sym_size.int)
def _sym_size(e: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.dtype) -> Dyn:
    return e.size(args[0], args[1])
