"""Reading and writing at positions in ATen."""

from __future__ import annotations

from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..registry import aten


@aten("embedding")
def embedding(weight: Any, indices: Any, padding_idx: int = -1, scale_grad: bool = False, sparse: bool = False) -> Any:
    return ACG.take(weight, indices, axis=0)


@aten("index_select", "index_select_copy")
def index_select(self: Any, dim: int, index: Any) -> Any:
    if not self.ndim:
        return self  # one element, whatever the shape of index
    return ACG.take(self, index, axis=dim)


@aten("take")
def take(self: Any, index: Any) -> Any:
    return ACG.take(ACG.reshape(self, -1), index, axis=0)


@aten("gather")
def gather(self: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    return ACG.take_along_axis(self, index, dim)


@aten("take_along_dim")
def take_along_dim(self: Any, indices: Any, dim: int | None = None) -> Any:
    if dim is None:
        return ACG.take_along_axis(ACG.reshape(self, -1), ACG.reshape(indices, -1), 0)
    at = dim % self.ndim
    joint = [max(a, b) for a, b in zip(self.shape, indices.shape)]
    x = ACG.broadcast_to(self, [n if i == at else joint[i] for i, n in enumerate(self.shape)])
    return ACG.take_along_axis(x, ACG.broadcast_to(indices, [*joint[:at], indices.shape[at], *joint[at + 1 :]]), at)


def _leading(self: Any, indices: Any) -> tuple[Any, list[Any], list[int], int]:
    """(x with the indexed axes first, their indices, the order of axes, where the joint index goes)."""
    found = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    for _, index in found:
        if index.type.kind == "b":
            source.fail(
                f"a boolean index of shape {list(index.shape)} gives a tensor whose size depends on values",
                "use torch.where, or integer positions",
            )
    axes = [axis for axis, _ in found]
    order = [*axes, *(a for a in range(self.ndim) if a not in axes)]
    adjacent = axes == list(range(axes[0], axes[0] + len(axes))) if axes else True
    return ACG.transpose(self, tuple(order)), [i for _, i in found], order, axes[0] if adjacent and axes else 0


@aten("index.Tensor", "_unsafe_index.Tensor")
def index(self: Any, indices: Any) -> Any:
    x, found, _, at = _leading(self, indices)
    if not found:
        return self
    picked = ACG.gather(x, found)
    joint = picked.ndim - (self.ndim - len(found))
    if not at or not joint:
        return picked
    # The joint dims stand where the first index stood.
    order = [*range(joint, joint + at), *range(joint), *range(joint + at, picked.ndim)]
    return ACG.transpose(picked, tuple(order))


@aten("_unsafe_masked_index")
def unsafe_masked_index(self: Any, mask: Any, indices: Any, fill: Any) -> Any:
    moved = [None if i is None else ACG.clip(i, 0, self.shape[axis] - 1) for axis, i in enumerate(indices)]
    picked = index(self, moved)
    return ACG.where(mask, picked, fill).astype(self.type)


@aten("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(self: Any, indices: Any, values: Any, accumulate: bool = False, unsafe: bool = False) -> Any:
    if len(indices) == 1 and indices[0] is not None and indices[0].type.kind == "b":
        mask = indices[0]
        if values.ndim <= self.ndim - mask.ndim or all(n == 1 for n in values.shape[:1]):
            wide = ACG.reshape(mask, (*mask.shape, *[1] * (self.ndim - mask.ndim)))
            new = ACG.add(self, values) if accumulate else values
            return ACG.where(wide, new, self).astype(self.type)
    x, found, order, at = _leading(self, indices)
    joint = max((i.ndim for i in found), default=0)
    rest = self.ndim - len(found)
    if at and values.ndim > joint:  # the values' joint dims stand behind `at` others
        lead = rest + joint - values.ndim
        values = ACG.reshape(values, (*[1] * lead, *values.shape)) if lead > 0 else values
        values = ACG.transpose(values, (*range(at, at + joint), *range(at), *range(at + joint, values.ndim)))
    out = ACG.put(x, found, values, "add" if accumulate else "set")
    back = [0] * self.ndim
    for position, axis in enumerate(order):
        back[axis] = position
    return ACG.transpose(out, tuple(back))


@aten("put")
def put(self: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    flat = ACG.put(
        ACG.reshape(self, -1), [ACG.reshape(index, -1)], ACG.reshape(source, -1), "add" if accumulate else "set"
    )
    return ACG.reshape(flat, self.shape)


@aten("index_copy")
def index_copy(self: Any, dim: int, index: Any, source: Any) -> Any:
    return _along(self, dim, index, source, "set")


@aten("index_add")
def index_add(self: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> Any:
    return _along(self, dim, index, source if alpha == 1 else ACG.multiply(source, alpha), "add")


@aten("index_fill")
def index_fill(self: Any, dim: int, index: Any, value: Any) -> Any:
    return _along(self, dim, index, ACG.asarray(value).astype(self.type), "set")


def _along(self: Any, dim: int, index: Any, source: Any, kind: str) -> Any:
    """Slices of one axis written or combined at positions."""
    if not self.ndim:
        out = _along(ACG.reshape(self, (1,)), 0, ACG.reshape(index, -1), ACG.reshape(source, -1), kind)
        return ACG.reshape(out, ())
    index = ACG.reshape(index, -1)
    at = dim % self.ndim
    if source.ndim:
        source = ACG.swapaxes(source, 0, at)
    return ACG.swapaxes(ACG.put(ACG.swapaxes(self, 0, at), [index], source, kind), 0, at)


def _source(src: Any, index: Any) -> Any:
    return src if isinstance(src, ACG.Array) and src.ndim else ACG.broadcast_to(ACG.asarray(src), index.shape)


@aten("scatter.src", "scatter.value")
def scatter(self: Any, dim: int, index: Any, src: Any = None, value: Any = None) -> Any:
    new = _source(value if src is None else src, index).astype(self.type)
    return ACG.put_along_axis(self, index, new, dim, "set")


@aten("scatter.reduce", "scatter.value_reduce")
def scatter_old_reduce(self: Any, dim: int, index: Any, src: Any = None, value: Any = None, reduce: str = "add") -> Any:
    new = _source(value if src is None else src, index).astype(self.type)
    return ACG.put_along_axis(self, index, new, dim, {"add": "add", "multiply": "mul"}[reduce])


@aten("scatter_add")
def scatter_add(self: Any, dim: int, index: Any, src: Any) -> Any:
    return ACG.put_along_axis(self, index, src, dim, "add")


_KINDS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "mean": "add"}


@aten("scatter_reduce.two")
def scatter_reduce(self: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Any:
    return _reduced(self, src, reduce, include_self, lambda x, new, kind: ACG.put_along_axis(x, index, new, dim, kind))


@aten("index_reduce")
def index_reduce(self: Any, dim: int, index: Any, source: Any, reduce: str, include_self: bool = True) -> Any:
    return _reduced(self, source, reduce, include_self, lambda x, new, kind: _along(x, dim, index, new, kind))


def _reduced(self: Any, src: Any, reduce: str, include_self: bool, write: Any) -> Any:
    """`write(x, updates, kind)` with what `include_self` and mean ask for."""
    reduce = {"prod": "prod", "mean": "mean"}.get(reduce, reduce)
    base = self
    if not include_self:
        lows = {"sum": 0, "mean": 0, "prod": 1, "amax": _bound(self, False), "amin": _bound(self, True)}
        base = write(self, ACG.full(src.shape, lows[reduce], self.type), "set")
    out = write(base, src, _KINDS[reduce])
    if reduce != "mean":
        return out
    ones = ACG.ones(self.shape, "int64")
    start = ones if include_self else write(ones, ACG.zeros(src.shape, "int64"), "set")
    count = ACG.maximum(write(start, ACG.ones(src.shape, "int64"), "add"), 1)
    if self.type.is_float:
        return ACG.true_divide(out, count.astype(self.type))
    return ACG.floor_divide(out, count.astype(self.type))


def _bound(x: Any, upper: bool) -> Any:
    from deepseek.acg.ops import reduce

    return (reduce.highest if upper else reduce.lowest)(x.type)


@aten("select_scatter")
def select_scatter(self: Any, src: Any, dim: int, index: Any) -> Any:
    at = dim % self.ndim
    extent = self.shape[at]
    position = index if not isinstance(index, int) or index >= 0 else extent + index
    on = ACG.equal(ACG.iota(self.shape, at), position)
    return ACG.where(on, ACG.expand_dims(src, at), self).astype(self.type)


@aten("slice_scatter")
def slice_scatter(self: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    at = dim % self.ndim
    extent = self.shape[at]
    first = (
        0 if start is None else start if not isinstance(start, int) or start >= 0 else ACG.max_dim(extent + start, 0)
    )
    count = src.shape[at]
    if isinstance(count, int) and count == 0:
        return self
    if first == 0 and step == 1 and count == extent:
        return src.astype(self.type)
    place = ACG.subtract(ACG.iota(self.shape, at), first)
    number = ACG.floor_divide(place, step)
    inside = ACG.logical_and(ACG.greater_equal(place, 0), ACG.less(number, count))
    if step != 1:
        inside = ACG.logical_and(inside, ACG.equal(ACG.remainder(place, step), 0))
    picked = ACG.take_along_axis(src, ACG.clip(number, 0, count - 1), at)
    return ACG.where(inside, picked, self).astype(self.type)


@aten("diagonal_scatter")
def diagonal_scatter(self: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    from . import layout

    positions = ACG.reshape(ACG.arange(_count(self.shape)), self.shape)
    at = layout.diagonal(positions, offset, dim1, dim2)
    return put(self, at, src)


def _count(shape: Any) -> Any:
    total: Any = 1
    for n in shape:
        total = n * total
    return total


@aten("as_strided_scatter")
def as_strided_scatter(self: Any, src: Any, size: Any, stride: Any, storage_offset: Any = None) -> Any:
    from . import layout

    positions = ACG.reshape(ACG.arange(_count(self.shape)), self.shape)
    return put(self, layout.as_strided(positions, size, stride, storage_offset), src)


@aten("masked_scatter")
def masked_scatter(self: Any, mask: Any, source: Any) -> Any:
    """Element number n under the mask becomes element n of source."""
    wide = ACG.broadcast_to(mask, self.shape)
    number = ACG.subtract(ACG.cumsum(ACG.reshape(wide, -1), 0), 1)
    picked = ACG.take(ACG.reshape(source, -1), ACG.maximum(number, 0), axis=0)
    return ACG.where(wide, ACG.reshape(picked, self.shape), self).astype(self.type)


@aten("isin.Tensor_Tensor")
def isin(elements: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False) -> Any:
    flat = ACG.reshape(test_elements, -1)
    found = ACG.any(ACG.equal(ACG.expand_dims(elements, -1), flat), -1)
    return ACG.logical_not(found) if invert else found


@aten("searchsorted.Tensor", "searchsorted.Scalar")
def searchsorted(
    sorted_sequence: Any = None, self: Any = None, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Any = None, boundaries: Any = None,
) -> Any:  # fmt: skip
    """How many boundaries are below each value (or not above it, with `right`)."""
    edges, values = sorted_sequence, self
    if boundaries is not None:
        edges = boundaries
    if not isinstance(values, ACG.Array) or (values.ndim and edges.ndim > 1 and values.ndim < edges.ndim):
        values = ACG.asarray(values)
    if sorter is not None:
        edges = ACG.take_along_axis(edges, sorter, -1)
    below = ACG.less_equal if right or side == "right" else ACG.less
    wide = edges if edges.ndim == 1 else ACG.expand_dims(edges, -2)
    found = ACG.sum(below(wide, ACG.expand_dims(values, -1)).astype("int64"), -1)
    return found.astype("int32") if out_int32 else found


@aten("bucketize.Tensor", "bucketize.Scalar")
def bucketize(self: Any, boundaries: Any, out_int32: bool = False, right: bool = False) -> Any:
    return searchsorted(boundaries, self, out_int32, right)


@aten("nonzero_static")
def nonzero_static(self: Any, size: Any, fill_value: int = -1) -> Any:
    """Positions of the first `size` elements that are not zero, [size, rank]; rows that are left over are filled."""
    flat = ACG.not_equal(ACG.reshape(self, -1), 0)
    number = ACG.subtract(ACG.cumsum(flat.astype("int64"), 0), 1)
    place = ACG.where(flat, number, size)  # positions outside are left out
    start = ACG.full((size,), -1, "int64")
    found = ACG.put(start, [place], ACG.arange(flat.shape[0]), "set")
    columns, rest = [], found
    for n in reversed(self.shape):
        columns.append(ACG.remainder(rest, n))
        rest = ACG.floor_divide(rest, n)
    if not columns:
        return ACG.zeros((size, 0), "int64")
    return ACG.where(ACG.expand_dims(ACG.less(found, 0), 1), fill_value, ACG.stack(columns[::-1], 1)).astype("int64")
