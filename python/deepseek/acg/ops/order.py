"""Running totals, sorting, and reading and writing at computed positions."""

from __future__ import annotations

from typing import Any

from .. import ir, sizes
from ..array import Array, as_array, describe, function, make
from ..dtypes import I16, I32, I64, DType
from ..ir import Body
from ..sizes import Size
from ..source import fail
from ..symint import SymInt
from ..tracing import active
from . import elementwise, reduce
from .create import iota
from .index import _read, wrap_indices
from .layout import broadcast_to, expand_dims, reshape, swapaxes
from .pointwise import broadcast_map, broadcast_shapes, convert
from .reduce import normalize_axis

_MOST_SELECTED = 256  # first positions that dsc.sort gives without the others


def _along(x: Array, axis: int, apply: Any) -> Array:
    """`apply` on the last axis, with `axis` exchanged with it."""
    at = normalize_axis(axis, x.ndim)
    if at == x.ndim - 1:
        return apply(x)
    return swapaxes(apply(swapaxes(x, at, -1)), at, -1)


def _signed(x: Array) -> Array:
    """Booleans and unsigned integers in a signed type that holds their values."""
    if x.type.kind not in "bu":
        return x
    return convert(x, {1: I16, 8: I16, 16: I32}.get(x.type.bits, I64))


def _scan(x: Array, axis: int, kind: str) -> Array:
    if not x.ndim:
        return x
    return _along(
        x,
        axis,
        lambda v: make(ir.Op(f'dsc.scan {{0}} {{{{kind = "{kind}"}}}} : {{r}}', [v.acg_value], v.sizes, v.type), v),
    )


def _totals(name: str, kind: str) -> Any:
    def apply(x: Any, axis: int = -1, dtype: Any = None) -> Array:
        x = as_array(x)
        return _scan(convert(x, reduce.accumulation_type(x, dtype)), axis, kind)

    apply.__name__ = name
    apply.__doc__ = f"numpy.{name} along one axis. Integers give 64-bit integers."
    return function(apply)


cumsum = _totals("cumsum", "add")
cumprod = _totals("cumprod", "mul")


def _running(name: str, kind: str, compare: str) -> Any:
    def apply(x: Any, axis: int = -1) -> tuple[Array, Array]:
        x = as_array(x)
        if not x.ndim:
            return x, convert(elementwise.multiply(x, 0), I64)
        values = convert(_scan(_signed(x), axis, kind), x.type)
        # Where an element is the total itself, its position is the newest one.
        newest = elementwise.logical_or(getattr(elementwise, compare)(x, values), elementwise.isnan(x))
        positions = iota(x.shape, normalize_axis(axis, x.ndim))
        return values, _scan(elementwise.where(newest, positions, 0), axis, "max")

    apply.__name__ = name
    apply.__doc__ = f"(running {kind}imum along an axis, the last position that it was seen at); NaN stays."
    return function(apply)


cummax = _running("cummax", "max", "greater_equal")
cummin = _running("cummin", "min", "less_equal")


@function
def logcumsumexp(x: Any, axis: int = -1) -> Array:
    """log(cumsum(exp(x))) along an axis, without overflow."""
    return _scan(as_array(x), axis, "logaddexp")


def _positions(x: Array, axis: int, descending: bool, count: int | None = None) -> Array:
    """Positions that sort an axis, or the first `count` of them."""
    attributes = " {{descending}}" if descending else ""

    def apply(v: Array) -> Array:
        shape = v.sizes if count is None else [*v.sizes[:-1], count]
        return make(ir.Op(f"dsc.sort {{0}}{attributes} : {{t0}} -> {{r}}", [v.acg_value], shape, I64), v)

    return _along(_signed(x), axis, apply)


@function
def argsort(x: Any, axis: int = -1, descending: bool = False) -> Array:
    """Positions (int64) that sort an axis; equal elements keep their order, NaN is the greatest."""
    x = as_array(x)
    return _positions(x, axis, descending) if x.ndim else convert(elementwise.multiply(x, 0), I64)


@function
def sort(x: Any, axis: int = -1, descending: bool = False) -> Array:
    """The elements of an axis in order; NaN is the greatest."""
    x = as_array(x)
    return take_along_axis(x, argsort(x, axis, descending), axis) if x.ndim else x


@function
def topk(x: Any, k: Any, axis: int = -1, largest: bool = True) -> tuple[Array, Array]:
    """(the k largest or smallest elements of an axis in order, their positions); of equal ones the first."""
    x = as_array(x)
    if not x.ndim:
        return x, argsort(x)
    at = normalize_axis(axis, x.ndim)
    if not active().dims.at_least(sizes.sub(x.sizes[at], _size(k)), 0):
        fail(f"topk needs at least {k} elements along axis {at} of {describe(x)}")
    count = _size(k)
    if isinstance(count, int) and count <= _MOST_SELECTED:
        positions = _positions(x, at, largest, count)
    else:
        positions = argsort(x, at, largest)[(*[slice(None)] * at, slice(0, k))]
    return take_along_axis(x, positions, at), positions


def _size(value: Any) -> Size:
    return value.resolved if isinstance(value, SymInt) else int(value)


@function
def take_along_axis(x: Any, indices: Any, axis: int) -> Array:
    """numpy.take_along_axis: x[.., indices[.., i, ..], ..]; negative positions count from the end.

    The other dims of `indices` may be smaller than those of x (torch.gather), or 1. Positions outside are moved
    to the nearest valid one.
    """
    x, indices = as_array(x), as_array(indices)
    if indices.type.kind not in "iu":
        fail(f"take_along_axis needs integer positions, got {describe(indices)}")
    if x.ndim != indices.ndim:
        fail(f"take_along_axis needs arrays of one rank, got {describe(x)} and {describe(indices)}")
    if not x.ndim:
        return x
    at = normalize_axis(axis, x.ndim)
    positions = wrap_indices(indices, x.sizes[at])
    body = Body()
    position = _clamped(body, "%in0", x.sizes[at])
    loops = [body.emit(f"linalg.index {d} : index") if d != at else position for d in range(x.ndim)]
    return _read(x, body, loops, [positions], [tuple(range(x.ndim))], indices.sizes)


def _clamped(body: Body, position: str, extent: Size) -> str:
    """An int64 position as an index inside [0, extent)."""
    index = body.emit(f"arith.index_cast {position} : i64 to index")
    index = body.emit(f"arith.minsi {index}, {body.capture(sizes.sub(extent, 1))} : index")
    return body.emit(f"arith.maxsi {index}, {body.capture(0)} : index")


@function
def gather(x: Any, indices: Any) -> Array:
    """x[indices]: integer arrays for the first len(indices) axes, broadcast together; the other axes follow.

    Negative positions count from the end; positions outside are moved to the nearest valid one.
    """
    x, found = as_array(x), [as_array(i) for i in indices]
    if any(i.type.kind not in "iu" for i in found) or len(found) > x.ndim:
        fail(f"gather needs at most {x.ndim} integer arrays, got {', '.join(map(describe, found))}")
    joint = broadcast_shapes(found, "gather")
    found = [wrap_indices(i, extent) for i, extent in zip(found, x.sizes)]
    shape = (*joint, *x.sizes[len(found) :])
    body = Body()
    positions = [_clamped(body, f"%in{i}", x.sizes[i]) for i in range(len(found))]
    rest = [body.emit(f"linalg.index {d} : index") for d in range(len(joint), len(shape))]
    maps = [broadcast_map(i, joint) for i in found]
    return _read(x, body, [*positions, *rest], found, maps, shape)


def _flat_positions(indices: list[Array], extents: tuple[Size, ...]) -> Array:
    """Row-major positions in a box of the given extents; negative ones count from the end."""
    total: Any = None
    for index, extent in zip(indices, extents):
        index = wrap_indices(index, extent)
        size = extent if isinstance(extent, int) else SymInt(active().dims, extent)
        total = index if total is None else elementwise.add(elementwise.multiply(total, size), index)
    return total


def _scatter(x: Array, positions: Array, updates: Array, kind: str) -> Array:
    """Rows of x [n, d] at positions [m] combined with updates [m, d], in order."""
    template = f'dsc.scatter {{0}}, {{1}}, {{2}} {{{{kind = "{kind}"}}}} : ({{t0}}, {{t1}}, {{t2}}) -> {{r}}'
    operands = [x, positions, updates]
    return make(ir.Op(template, [o.acg_value for o in operands], x.sizes, x.type), *operands)


@function
def put(x: Any, indices: Any, updates: Any, kind: str = "set") -> Array:
    """x with x[indices] = updates, or combined with them (`kind`: set, add, mul, max, min), as `gather` reads.

    Positions outside of x are left out; of updates to one position with "set" the last one stays.
    """
    x, found = as_array(x), [as_array(i) for i in indices]
    wide = _storage(x.type, kind)
    joint = broadcast_shapes(found, "put")
    shown = [s if isinstance(s, int) else SymInt(active().dims, s) for s in joint]
    tail = x.shape[len(found) :]
    values = broadcast_to(convert(as_array(updates), x.type), [*shown, *tail])
    flat = reshape(broadcast_to(_flat_positions(found, x.sizes[: len(found)]), shown), -1)
    columns = _product(tail)
    source = reshape(convert(x, wide), [_product(x.shape[: len(found)]), columns])
    out = _scatter(source, flat, reshape(convert(values, wide), [_product(shown), columns]), kind)
    return convert(reshape(out, x.shape), x.type)


def _storage(dtype: DType, kind: str) -> DType:
    """The type that updates are combined in: sums of 16-bit floats in f32, order of unsigned ones in signed ones."""
    if dtype.is_narrow and kind not in ("set", "max", "min"):
        return dtype.compute
    return {8: I16, 16: I32}.get(dtype.bits, I64) if dtype.kind == "u" and kind in ("max", "min") else dtype


def _product(entries: Any) -> Any:
    total: Any = 1
    for n in entries:
        total = n * total
    return total


@function
def put_along_axis(x: Any, indices: Any, updates: Any, axis: int, kind: str = "set") -> Array:
    """x with x[.., indices[.., i, ..], ..] set to updates or combined with them (torch.scatter, scatter_reduce)."""
    x, indices, updates = as_array(x), as_array(indices), as_array(updates)
    if not x.ndim:
        shaped = put(expand_dims(x, 0), [expand_dims(indices, 0)], expand_dims(updates, 0), kind)
        return reshape(shaped, ())
    at = normalize_axis(axis, x.ndim)
    where = [indices if d == at else iota(indices.shape, d) for d in range(x.ndim)]
    if updates.ndim:
        updates = updates[tuple(slice(0, n) for n in indices.shape)]
    return put(x, where, updates, kind)
