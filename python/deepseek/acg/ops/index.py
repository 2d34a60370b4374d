"""Reading parts of arrays: slices, take, flip."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ir, sizes
from ..array import Array, as_array, describe, function, make
from ..convert import is_tensor
from ..dtypes import I64
from ..ir import Body
from ..sizes import Size
from ..source import fail
from ..symint import as_size
from ..tracing import active
from .create import Fill
from .layout import _regroup, reshape
from .pointwise import constant, convert, literal, pointwise
from .reduce import normalize_axis
from .scalar import compare, select


@function
def _getitem(x: Array, index: Any) -> Array:
    """x[index]: ints, slices, None, Ellipsis and at most one integer array."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if sum(entry is Ellipsis for entry in entries) > 1:
        fail("an index can hold one Ellipsis only")
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if used > x.ndim:
        fail(f"{used} indices for {describe(x)}")
    at = next((i for i, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    entries[at : at + 1] = [slice(None)] * (x.ndim - used)
    gathers = [entry for entry in entries if _is_gather(entry)]
    if len(gathers) > 1:
        fail(f"{len(gathers)} index arrays in one index are not supported", "use ACG.take along one axis at a time")
    bounds: list[tuple[Size, Size, int]] = []
    shape: list[Size] = []
    taken: tuple[int, Any] | None = None
    for entry in entries:
        if entry is None:
            shape.append(1)
            continue
        extent = x.sizes[len(bounds)]
        if _is_gather(entry):
            taken = (len(shape), entry)
            bounds.append((0, extent, 1))
            shape.append(extent)
        elif isinstance(entry, slice):
            bounds.append(_slice_bounds(entry, extent, x))
            shape.append(bounds[-1][1])
        else:
            bounds.append((_position(entry, extent, x), 1, 1))
    out = _regroup(_extract(x, bounds), tuple(active().dims.resolve(size) for size in shape))
    if taken is None:
        return out
    indices = as_array(taken[1])
    if indices.type.kind == "b":
        fail(
            f"a boolean index ({describe(indices)}) gives an array whose size depends on values",
            "use ACG.where, or pass integer positions",
        )
    return take(out, indices, axis=taken[0])


def _is_gather(entry: Any) -> bool:
    return isinstance(entry, (Array, list)) or (is_tensor(entry) and not (isinstance(entry, np.integer)))


def _position(entry: Any, extent: Size, x: Array) -> Size:
    """The non-negative position that an integer index means."""
    size = as_size(entry)
    if size is None:
        fail(f"arrays are indexed by integers, slices, None, ... and integer arrays, got {type(entry).__name__}")
    dims = active().dims
    negative = not dims.at_least(size, 0)
    position = sizes.add(extent, size) if negative else size
    question = f"index {sizes.show(size)} is inside a dim of size {sizes.show(extent)}"
    if not dims.at_least(position, 0, question) or not dims.at_least(sizes.sub(extent, position), 1, question):
        fail(f"index {sizes.show(size)} is out of range for {describe(x)}")
    return dims.resolve(position)


def _clamped(value: Any, extent: Size, missing: Size, low: int, high: Size) -> Size:
    """A slice's start or stop as a position in [low, high]."""
    if value is None:
        return missing
    dims = active().dims
    size = as_size(value)
    if size is None:
        fail(f"slice bounds are integers, got {type(value).__name__}")
    if not dims.at_least(size, 0):
        size = sizes.add(extent, size)
        if _is_open(sizes.sub(size, low)):
            return sizes.call("max", size, low)
        return size if dims.at_least(size, low) else low
    if _is_open(sizes.sub(high, size)):
        return sizes.call("min", size, high)
    return size if dims.at_least(high, size) else high


def _is_open(size: Size) -> bool:
    """Whether neither the example nor what is known tells if `size` >= 0."""
    dims = active().dims
    return dims.hint(size) is None and dims.is_nonnegative(size) is None


def _slice_bounds(entry: slice, extent: Size, x: Array) -> tuple[Size, Size, int]:
    """(offset, count, step) of a slice as Python defines it."""
    dims = active().dims
    step = 1 if entry.step is None else int(entry.step)
    if step == 0:
        fail(f"the step of a slice of {describe(x)} is 0")
    if step > 0:
        start = _clamped(entry.start, extent, 0, 0, extent)
        stop = _clamped(entry.stop, extent, extent, 0, extent)
        span = sizes.sub(stop, start)
    else:
        last = sizes.sub(extent, 1)
        start = _clamped(entry.start, extent, last, -1, last)
        stop = _clamped(entry.stop, extent, -1, -1, last)
        span = sizes.sub(start, stop)
    if _is_open(span):
        span = sizes.call("max", span, 0)
    elif not dims.at_least(span, 0):
        span = 0
    length = step if step > 0 else -step
    count = dims.resolve(sizes.call("//", sizes.add(span, length - 1), length))
    # An empty slice may start at the end; offset 0 keeps it inside.
    return (0 if count == 0 else dims.resolve(start)), count, step


def _extract(x: Array, bounds: list[tuple[Size, Size, int]]) -> Array:
    """The elements at offset + i * step along every axis."""
    if all(offset == 0 and step == 1 and count == size for (offset, count, step), size in zip(bounds, x.sizes)):
        return x
    shape = tuple(count for _, count, _ in bounds)
    if 0 in shape:  # a slice may not begin at the end of a dim, and a dim of size 0 has no other place
        return make(Fill(literal(0, x.type), shape, x.type), x)
    if any(step < 0 for _, _, step in bounds):
        return _extract_backwards(x, bounds, shape)
    template = "tensor.extract_slice {0}[{offsets}] [{counts}] [{steps}] : {t0} to {r}"
    offsets = tuple(offset for offset, _, _ in bounds)
    steps = tuple(step for _, _, step in bounds)
    node = ir.Op(template, [x.acg_value], shape, x.type, offsets=offsets, counts=shape, steps=steps)
    return make(node, x)


def _extract_backwards(x: Array, bounds: list[tuple[Size, Size, int]], shape: tuple[Size, ...]) -> Array:
    """A slice with a negative step: every element is read at its computed position."""
    body, positions = Body(), []
    for axis, (offset, _, step) in enumerate(bounds):
        loop = body.emit(f"linalg.index {axis} : index")
        scaled = body.emit(f"arith.muli {loop}, {body.capture(step)} : index")
        positions.append(body.emit(f"arith.addi {scaled}, {body.capture(offset)} : index"))
    return _read(x, body, positions, [], [], shape)


def _read(
    x: Array, body: Body, positions: list[str], inputs: list[Array], maps: list[ir.Map], shape: tuple[Size, ...]
) -> Array:
    """A loop over `shape` whose body reads x[positions]."""
    source = body.tensor(x.acg_value)
    out = body.emit(f"tensor.extract {source}[{', '.join(positions)}] : {source.replace('%', '!')}")
    node = ir.Generic(
        [a.acg_value for a in inputs], maps, [(shape, x.type)], tuple(range(len(shape))), len(shape), body, [out]
    )
    return make(node, x)


def wrap_indices(indices: Array, extent: Size) -> Array:
    """Non-negative indices as int64: negative ones count from the end."""
    if indices.type.kind == "u":
        return convert(indices, I64)

    def formula(body: Body, index: str) -> str:
        size = body.emit(f"arith.index_cast {body.capture(extent)} : index to i64")
        negative = compare(body, I64, "lt", index, constant(body, 0, I64))
        return select(body, I64, negative, body.emit(f"arith.addi {index}, {size} : i64"), index)

    return pointwise("take", [indices], [I64], I64, I64, formula)


@function
def take(x: Any, indices: Any, axis: int | None = None) -> Array:
    """numpy.take: slices of `x` at integer positions along an axis (None: of the flattened array).

    Negative positions count from the end; positions outside are moved to the nearest valid one.
    """
    x, indices = as_array(x), as_array(indices)
    if indices.type.kind not in "iu":
        fail(f"take needs integer positions, got {describe(indices)}")
    if axis is None:
        x, axis = reshape(x, -1), 0
    at = normalize_axis(axis, x.ndim)
    extent = x.sizes[at]
    if not active().dims.at_least(extent, 1, f"axis {at} of {describe(x)} has an element to take"):
        fail(f"cannot take from axis {at} of {describe(x)}: it is empty")
    positions = wrap_indices(indices, extent)
    if x.ndim == 2 and at == 0 and x.type.is_float:
        from .blocks import embedding

        return embedding(x, positions)
    shape = (*x.sizes[:at], *indices.sizes, *x.sizes[at + 1 :])
    rank = len(shape)
    body = Body()
    position = body.emit("arith.index_cast %in0 : i64 to index")
    last = body.capture(sizes.sub(extent, 1))
    position = body.emit(f"arith.minsi {position}, {last} : index")
    position = body.emit(f"arith.maxsi {position}, {body.capture(0)} : index")
    loops = [body.emit(f"linalg.index {d} : index") for d in range(rank) if not at <= d < at + indices.ndim]
    inner = tuple(range(at, at + indices.ndim))
    return _read(x, body, [*loops[:at], position, *loops[at:]], [positions], [inner], shape)


@function
def flip(x: Any, axis: int | tuple[int, ...] | None = None) -> Array:
    """Reverses the order along axes (all if None)."""
    x = as_array(x)
    chosen = range(x.ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = {normalize_axis(a, x.ndim) for a in chosen}
    return _getitem(x, tuple(slice(None, None, -1) if a in axes else slice(None) for a in range(x.ndim)))
