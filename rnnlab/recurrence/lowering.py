"""Lower the operators of a step to the row operations of a Program.

A row of a batch is a vector, whatever shape the cell gave it. Each tensor of the step is followed as the
columns it consists of: one number an element, which names a Program value, a column of it, and the row. An
operator that only moves elements (view, permute, split, stack, expand, ...) is therefore run as it is, on
those numbers; operators that compute are split where the columns of their operands break, mostly nowhere.

Legend: `B` batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rnnlab_kernels.program import COMPARE, UNARY
from torch import Tensor

from rnnlab.recurrence.graph import Operation, Rows, Unsupported, Value
from rnnlab.recurrence.rows import ANY, BATCH, MOST_PIECES, Row, actual, batch_axis, check, code, segments
from rnnlab.recurrence.simplify import Builder

aten = torch.ops.aten

_MOVES = {
    *(
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.t.default,
        aten.permute.default,
    ),
    *(aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default),
    *(
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.split.Tensor,
        aten.split_with_sizes.default,
    ),
    *(aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default, aten.unbind.int, aten.cat.default),
    *(
        aten.stack.default,
        aten.clone.default,
        aten.detach.default,
        aten.alias.default,
        aten.lift_fresh.default,
    ),
    *(aten.flip.default, aten.roll.default, aten.repeat.default, aten.movedim.int, aten.diagonal.default),
    *(aten.contiguous.default, aten.lift_fresh_copy.default, aten.select_scatter.default),
    *(aten.slice_scatter.default, aten.copy.default),
}
_FILLS: dict[Any, Callable[[Operation], float]] = {
    aten.full.default: lambda o: o.args[1],
    aten.zeros.default: lambda o: 0.0,
    aten.ones.default: lambda o: 1.0,
    aten.full_like.default: lambda o: o.args[1],
    aten.zeros_like.default: lambda o: 0.0,
    aten.ones_like.default: lambda o: 1.0,
    aten.new_full.default: lambda o: o.args[2],
    aten.new_zeros.default: lambda o: 0.0,
    aten.new_ones.default: lambda o: 1.0,
    aten.scalar_tensor.default: lambda o: o.args[0],
    aten.fill.Scalar: lambda o: o.args[1],
    aten.zero.default: lambda o: 0.0,
}
_UNARY = {getattr(aten, name).default: name for name in UNARY}
_BINARY = {
    aten.mul.Tensor: "mul",
    aten.mul.Scalar: "mul",
    aten.div.Tensor: "div",
    aten.div.Scalar: "div",
    aten.maximum.default: "maximum",
    aten.minimum.default: "minimum",
    aten.max.other: "maximum",
    aten.min.other: "minimum",
    aten.pow.Tensor_Scalar: "pow",
    aten.pow.Tensor_Tensor: "pow",
    aten.pow.Scalar: "pow",
}
_SUMS = {
    aten.add.Tensor: ("add", False),
    aten.add.Scalar: ("add", False),
    aten.sub.Tensor: ("sub", False),
    aten.sub.Scalar: ("sub", False),
    aten.rsub.Scalar: ("sub", True),
    aten.rsub.Tensor: ("sub", True),
}
_COMPARE = {
    getattr(getattr(aten, name), overload): name for name in COMPARE for overload in ("Tensor", "Scalar")
}
_REDUCE = {
    aten.sum.dim_IntList: "sum",
    aten.sum.default: "sum",
    aten.mean.dim: "mean",
    aten.mean.default: "mean",
    aten.amax.default: "amax",
    aten.amin.default: "amin",
}
_LOGICAL = {
    aten.logical_and.default: "and",
    aten.bitwise_and.Tensor: "and",
    aten.logical_or.default: "or",
    aten.bitwise_or.Tensor: "or",
    aten.logical_xor.default: "ne",
    aten.bitwise_xor.Tensor: "ne",
}


class Lowering:
    """The rows of a step's values, written into a `Builder` operator by operator."""

    def __init__(
        self,
        builder: Builder,
        dtype: torch.dtype,
        outside: Callable[[Value], Row],
        matrix: Callable[[Value], tuple[int, bool] | None],
        matrices: Callable[[Value], list[tuple[int, bool]] | None],
    ) -> None:
        self.builder = builder
        self.dtype = dtype
        self.rows: dict[Value, Row] = {}
        self.outside = outside
        """The row of a value that no lowered operation makes: an argument, or computed in eager mode."""
        self.matrix = matrix
        """The matrix input of a value made of parameters alone, and whether it is to be transposed."""
        self.matrices = matrices
        """The same for a stack of matrices."""

    def row(self, item: Any) -> Row:
        """The row of an operand: a value of the step, or a number."""
        if isinstance(item, Value):
            if item not in self.rows:
                self.rows[item] = self.outside(item)
            return self.rows[item]
        if isinstance(item, bool | int | float):
            return self.fill(float(item), ())
        raise Unsupported(f"an argument {item!r}")

    def given(self, value: int, shape: Sequence[int | Rows]) -> Row:
        """A row for the whole of a Program value, in the shape that the cell sees."""
        axis = batch_axis(shape)
        width = self.builder.widths[value]
        codes = torch.arange(width) + code(value, 0)
        if axis is None:
            return Row((codes << 8 | ANY).reshape(actual(tuple(shape))), None)
        assert axis == 0
        rows = torch.arange(BATCH)[:, None]
        return Row((codes << 8 | rows).reshape(actual(tuple(shape))), 0)

    def fill(self, number: float, shape: Sequence[int | Rows]) -> Row:
        """A constant in any shape."""
        element = code(self.builder.const(number), 0) << 8 | ANY
        return Row(torch.full(actual(tuple(shape)), element), batch_axis(shape))

    def lower(self, operation: Operation) -> None:
        """Write an operation into the builder.

        Raises:
            Unsupported: no row operation does the same.
        """
        self.builder.source = operation.source
        try:
            for value, row in zip(operation.outputs, self._rows(operation), strict=False):
                if value is None:
                    continue
                row = Row(row.codes.expand(actual(value.shape)), batch_axis(value.shape), row.mask)
                check(row)
                self.rows[value] = self._detached(row) if operation.detached else row
        except Unsupported as error:
            where = (
                f" ({operation.source})" if operation.source and operation.source not in str(error) else ""
            )
            raise Unsupported(f"the operator {operation.name}: {error}{where}") from None

    def _detached(self, row: Row) -> Row:
        """The same row, cut off from the gradient."""
        if row.mask:
            return row
        codes, new = row.codes, row.codes.clone()
        for value in (codes >> 40).unique().tolist():
            chosen = (codes >> 40) == value
            new[chosen] += (self.builder.detach(value) - value) << 40
        return Row(new, row.axis)

    def _rows(self, operation: Operation) -> list[Row]:
        target, args, kwargs = operation.target, operation.args, operation.kwargs
        output = operation.outputs[0]
        assert output is not None
        shape = output.shape
        if target in _FILLS:
            self._float(output)
            return [self.fill(float(_FILLS[target](operation)), shape)]
        if target in _MOVES:
            return self._move(operation)
        if target is aten._to_copy.default:
            return [self._cast(args[0], output)]
        if target in _COMPARE:
            return [
                self.point(lambda v: self.builder.compare(_COMPARE[target], *v), args[:2], shape, mask=True)
            ]
        if target in _LOGICAL or target in (aten.logical_not.default, aten.bitwise_not.default):
            return [self._logic(operation)]
        self._float(output)
        if target in _UNARY:
            return [self.unary(_UNARY[target], args[0], shape)]
        if target in _BINARY:
            if kwargs.get("rounding_mode") is not None:
                raise Unsupported("division with rounding")
            return [self.binary(_BINARY[target], args[0], args[1], shape)]
        if target in _SUMS:
            op, swapped = _SUMS[target]
            alpha = args[2] if len(args) > 2 else kwargs.get("alpha", 1)
            second = args[1] if alpha == 1 else self.binary("mul", args[1], float(alpha), _shape_of(args[1]))
            first = args[0]
            return [
                self.binary(op, second, first, shape) if swapped else self.binary(op, first, second, shape)
            ]
        if target in (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar):
            return [self.where(args[0], args[1], args[2], shape)]
        if target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
            return [self.where(args[1], args[2], args[0], shape)]
        if target in (aten.clamp.default, aten.clamp.Tensor, aten.clamp_min.default, aten.clamp_max.default):
            return [self._clamp(operation)]
        if target in (aten.clamp_min.Tensor, aten.clamp_max.Tensor):
            return [self._clamp(operation)]
        if target in _REDUCE:
            return [self._reduce(operation)]
        if target is aten.cumsum.default:
            return [self._cumsum(args[0], args[1] % len(shape))]
        if target in (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default):
            return [self._matmul(operation)]
        if target in (aten.mv.default, aten.addmv.default, aten.dot.default):
            return [self._matrix_vector(operation)]
        if target in (aten.max.dim, aten.min.dim):
            raise Unsupported("not among the row operations; amax and amin are")
        raise Unsupported("not among the row operations")

    def _float(self, value: Value) -> None:
        if not value.dtype.is_floating_point:
            raise Unsupported(f"computes with {value.dtype}")

    # Operators that move elements.

    def _move(self, operation: Operation) -> list[Row]:
        rows = [self.row(v) for v in operation.operands]
        mask = any(row.mask for row in rows)
        if mask and not all(row.mask for row in rows):
            raise Unsupported("mixes booleans and numbers")
        codes = iter(row.codes for row in rows)

        def substitute(item: Any) -> Any:
            if isinstance(item, Value):
                return next(codes)
            if isinstance(item, tuple | list):
                return type(item)(substitute(i) for i in item)
            return actual(item)

        kwargs = {
            k: v for k, v in operation.kwargs.items() if k in ("dim", "start", "end", "step", "implicit")
        }
        if operation.target is aten.copy.default:
            if operation.args[0].dtype != operation.args[1].dtype:
                raise Unsupported("copies between data types")
            source = rows[1]
            return [Row(source.codes.expand(actual(operation.args[0].shape)), None, mask)]
        # The codes are not laid out as the cell's tensor is, so that a view of them may have to be a copy.
        views = (aten.view.default, aten._unsafe_view.default)
        target = aten.reshape.default if operation.target in views else operation.target
        result = target(*substitute(operation.args), **kwargs)
        tensors = result if isinstance(result, tuple | list) else [result]
        return [Row(t, None, mask) for t in tensors]

    def _cast(self, source: Any, output: Value) -> Row:
        row = self.row(source)
        if row.mask:
            self._float(output)
            return self.where(source, 1.0, 0.0, output.shape)
        narrow = (torch.bfloat16, torch.float16)
        values = (row.codes >> 40).unique().tolist()
        if all(self.builder.number(value) is not None for value in values):
            self._float(output)
            return row
        if source.dtype != output.dtype and not (
            self.dtype in narrow and {source.dtype, output.dtype} <= {*narrow, torch.float32}
        ):
            raise Unsupported(f"converts {source.dtype} to {output.dtype}")
        return row

    # Operators that compute.

    def point(
        self,
        compute: Callable[[list[int]], int],
        operands: Sequence[Any],
        shape: Sequence[int | Rows],
        *,
        mask: bool = False,
    ) -> Row:
        """A pointwise operation, split where the columns of its operands break."""
        axis = batch_axis(shape)
        full = actual(tuple(shape))
        columns: list[Tensor] = []
        rows = [item if isinstance(item, Row) else self.row(item) for item in operands]
        for row in rows:
            spread = Row(row.codes.expand(full), axis)
            check(spread)
            columns.append(spread.columns.reshape(-1))
        batchless = all(bool(((row.codes & 255) == ANY).all()) for row in rows)
        pieces: list[Tensor] = []
        for start, stop in segments(columns):
            value = compute([self.take(column[start:stop]) for column in columns])
            width = self.builder.widths[value]
            span = torch.arange(stop - start) if width > 1 else torch.zeros(stop - start, dtype=torch.int64)
            pieces.append(span + code(value, 0))
        return self._row(torch.cat(pieces), shape, batchless, mask)

    def _row(self, columns: Tensor, shape: Sequence[int | Rows], batchless: bool, mask: bool = False) -> Row:
        """One row's columns as a tensor of the step."""
        axis = batch_axis(shape)
        if axis is None:
            return Row((columns << 8 | ANY).reshape(actual(tuple(shape))), None, mask)
        one = [s.multiple if isinstance(s, Rows) else s for s in shape]
        codes = (columns << 8).reshape(one)
        numbers = [ANY] * BATCH if batchless else range(BATCH)
        return Row(torch.cat([codes | b for b in numbers], dim=axis), axis, mask)

    def take(self, columns: Tensor) -> int:
        """The value that holds these columns: consecutive ones of a value, or one to be broadcast."""
        first, count = int(columns[0]), len(columns)
        value, column = first >> 32, first & 0xFFFFFFFF
        broadcast = count > 1 and int(columns[1]) == first
        return self.builder.slice(value, column, column + (1 if broadcast else count))

    def vector(self, columns: Tensor) -> int:
        """The value that holds any columns, put together and broadcast where need be."""
        parts: list[int] = []
        for start, stop in segments([columns]):
            value = self.take(columns[start:stop])
            parts.append(self.builder.spread(value, stop - start))
        return self.builder.cat(parts)

    def unary(self, op: str, x: Any, shape: Sequence[int | Rows]) -> Row:
        return self.point(lambda v: self.builder.unary(op, v[0]), [x], shape)

    def binary(self, op: str, x: Any, y: Any, shape: Sequence[int | Rows]) -> Row:
        build = self.builder
        rows = [item if isinstance(item, Row) else self.row(item) for item in (x, y)]

        def compute(values: list[int]) -> int:
            numbers = [
                build.where(v, build.const(1), build.const(0)) if row.mask else v
                for v, row in zip(values, rows, strict=True)
            ]
            return build.binary(op, numbers[0], numbers[1])

        return self.point(compute, rows, shape)

    def compare(self, op: str, x: Any, y: Any, shape: Sequence[int | Rows]) -> Row:
        return self.point(lambda v: self.builder.compare(op, v[0], v[1]), [x, y], shape, mask=True)

    def where(self, mask: Any, x: Any, y: Any, shape: Sequence[int | Rows]) -> Row:
        if not self.row(mask).mask:
            raise Unsupported("a mask that is no comparison")
        return self.point(lambda v: self.builder.where(*v), [mask, x, y], shape)

    def _logic(self, operation: Operation) -> Row:
        output = operation.outputs[0]
        assert output is not None
        rows = [self.row(v) for v in operation.operands]
        if not all(row.mask for row in rows) or output.dtype != torch.bool:
            raise Unsupported("computes with integers")
        build = self.builder
        one, zero = build.const(1), build.const(0)
        kind = _LOGICAL.get(operation.target, "not")

        def compute(v: list[int]) -> int:
            numbers = [build.where(mask, one, zero) for mask in v]
            if kind == "not":
                return build.compare("eq", numbers[0], zero)
            if kind == "ne":
                return build.compare("ne", *numbers)
            joined = build.binary("mul" if kind == "and" else "maximum", *numbers)
            return build.compare("ne", joined, zero)

        return self.point(compute, rows, output.shape, mask=True)

    def _clamp(self, operation: Operation) -> Row:
        name = str(operation.target)
        args = [*operation.args, *operation.kwargs.values()]
        low, high = (args[1], args[2] if len(args) > 2 else None)
        if "min" in operation.kwargs or "max" in operation.kwargs:
            low = operation.kwargs.get("min", operation.args[1] if len(operation.args) > 1 else None)
            high = operation.kwargs.get("max", operation.args[2] if len(operation.args) > 2 else None)
        if "clamp_max" in name:
            low, high = None, operation.args[1]
        output = operation.outputs[0]
        assert output is not None
        row: Any = operation.args[0]
        # Comparisons are false for NaN, which so passes; at a bound the gradient passes, as in PyTorch.
        for op, bound in (("lt", low), ("gt", high)):
            if bound is not None:
                mask = self.compare(op, row, bound, output.shape)
                row = self.point(lambda v: self.builder.where(*v), [mask, bound, row], output.shape)
        return row if isinstance(row, Row) else self.row(row)

    def _reduce(self, operation: Operation) -> Row:
        kind = _REDUCE[operation.target]
        source: Value = operation.args[0]
        output = operation.outputs[0]
        assert output is not None
        rank = len(source.shape)
        dims = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(rank))
        dims = sorted(d % rank for d in dims)
        row = self.row(source)
        if row.mask:
            raise Unsupported("counts booleans")
        if row.axis in dims:
            raise Unsupported("reduces the batch")
        kept = [d for d in range(rank) if d not in dims]
        columns = row.columns.permute(*kept, *dims)
        count = math.prod(row.columns.shape[d] for d in dims)
        columns = columns.reshape(-1, count)
        batchless = bool(((row.codes & 255) == ANY).all())
        result = self._fold(
            "amax" if kind == "amin" else "sum" if kind == "mean" else kind, columns, kind == "amin"
        )
        reduced = self._row(result, output.shape, batchless)
        return self.binary("div", reduced, float(count), output.shape) if kind == "mean" else reduced

    def _fold(self, kind: str, columns: Tensor, negated: bool) -> Tensor:
        """Reduce `[outputs, count]` columns to `[outputs]`: by row reductions, or by a chain over `count`."""
        build = self.builder
        outputs, count = columns.shape
        if outputs <= count or outputs <= 4:
            if outputs > MOST_PIECES:
                raise Unsupported(f"reduces {outputs} groups of {count}")
            found = []
            for group in columns:
                value = self.vector(group)
                value = build.unary("neg", value) if negated else value
                value = build.sum(value) if kind == "sum" else build.amax(value)
                found.append(code(build.unary("neg", value) if negated else value, 0))
            return torch.tensor(found)
        if count > MOST_PIECES:
            raise Unsupported(f"reduces {outputs} groups of {count}")
        op = "add" if kind == "sum" else "minimum" if negated else "maximum"
        total = Row(columns[:, 0] << 8 | ANY, None)
        for i in range(1, count):
            total = self.binary(op, total, Row(columns[:, i] << 8 | ANY, None), (outputs,))
        return total.columns

    def _cumsum(self, source: Value, dim: int) -> Row:
        row = self.row(source)
        count = row.codes.shape[dim]
        if row.axis == dim or count > MOST_PIECES:
            raise Unsupported(f"a cumulative sum of {count}")
        parts = [Row(part, row.axis) for part in row.codes.split(1, dim)]
        shape = [*source.shape[:dim], 1, *source.shape[dim + 1 :]]
        for i in range(1, count):
            parts[i] = self.binary("add", parts[i - 1], parts[i], shape)
        return Row(torch.cat([part.codes for part in parts], dim), row.axis)

    def _matmul(self, operation: Operation) -> Row:
        args = list(operation.args)
        output = operation.outputs[0]
        assert output is not None
        added = args.pop(0) if len(args) > 2 else None
        left, right = args
        beta, alpha = operation.kwargs.get("beta", 1), operation.kwargs.get("alpha", 1)
        product = self._product(left, right, output.shape)
        if alpha != 1:
            product = self.binary("mul", product, float(alpha), output.shape)
        if added is None or beta == 0:
            return product
        if beta != 1:
            added = self.binary("mul", added, float(beta), _shape_of(added))
        return self.binary("add", added, product, output.shape)

    def _product(self, left: Value, right: Value, shape: Sequence[int | Rows]) -> Row:
        """left @ right for matrices, or for stacks of matrices."""
        found = self.matrix(right)
        if found is not None and len(shape) == 2:
            return self._rows_times(self.row(left), *found, shape)
        if len(shape) == 2 and batch_axis(right.shape) == 1 and self.matrix(left) is not None:
            # W @ h.T is (h @ W.T).T.
            matrix = self.matrix(left)
            assert matrix is not None
            flipped = Row(self.row(right).codes.T, 0)
            product = self._rows_times(flipped, matrix[0], not matrix[1], (shape[1], shape[0]))
            return Row(product.codes.T, 1)
        if len(shape) == 3 and batch_axis(left.shape) == 1:
            stack = self.matrices(right)
            if stack is not None:
                row = self.row(left)
                heads = [
                    self._rows_times(Row(codes, 0), *item, tuple(shape[1:]))
                    for codes, item in zip(row.codes, stack, strict=True)
                ]
                return Row(torch.stack([head.codes for head in heads]), 1)
        a, b = self.row(left), self.row(right)
        full = actual(tuple(shape))
        inner = a.codes.shape[-1]
        if math.prod(s.multiple if isinstance(s, Rows) else s for s in shape) * inner > 1 << 16:
            raise Unsupported("multiplies large matrices that both change from step to step")
        total: Row | None = None
        if inner > MOST_PIECES:
            raise Unsupported("multiplies large matrices that both change from step to step")
        for k in range(inner):
            x = Row(a.codes[..., k : k + 1].expand(full), None)
            y = Row(b.codes[..., k : k + 1, :].expand(full), None)
            term = self.binary("mul", x, y, shape)
            total = term if total is None else self.binary("add", total, term, shape)
        assert total is not None
        return total

    def _rows_times(self, left: Row, matrix: int, transposed: bool, shape: Sequence[int | Rows]) -> Row:
        """`[k*B, K]` times a matrix input: one product for each of the k."""
        item = next(i for i in self.builder.inputs if i.value == matrix)
        assert item.rows is not None
        width = item.rows if transposed else item.width
        if left.axis is None or left.axis != 0:
            raise Unsupported("a product over the batch")
        rows = left.columns
        if len(rows) > MOST_PIECES:
            raise Unsupported(f"{len(rows)} products a step")
        products = [self.builder.matmul(self.vector(row), matrix, width, transposed) for row in rows]
        columns = torch.cat([torch.arange(width) + code(value, 0) for value in products])
        return self._row(columns, shape, False)

    def _matrix_vector(self, operation: Operation) -> Row:
        args = list(operation.args)
        output = operation.outputs[0]
        assert output is not None
        added = args.pop(0) if len(args) > 2 else None
        if operation.kwargs:
            raise Unsupported("scaled matrix-vector products")
        matrix, vector = args
        product = self.binary("mul", matrix, vector, matrix.shape)
        if product.axis is None or product.axis != 0:
            raise Unsupported("a product over the batch")
        columns = product.columns
        result = self._row(self._fold("sum", columns, False), output.shape, False)
        return result if added is None else self.binary("add", added, result, output.shape)


def _shape_of(item: Any) -> Sequence[int | Rows]:
    return item.shape if isinstance(item, Value) else ()
