"""Shapes and order of elements: reshape, transpose, broadcast, concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import ir, sizes
from ..array import Array, as_array, describe, function, make, to_sizes
from ..sizes import Size
from ..source import fail
from ..symint import as_size
from ..tracing import active
from .pointwise import broadcast_map, broadcast_shapes, common_type, convert, operand
from .reduce import normalize_axes, normalize_axis


def _varargs(entries: tuple[Any, ...]) -> Any:
    return (
        entries[0] if len(entries) == 1 and (entries[0] is None or isinstance(entries[0], (tuple, list))) else entries
    )


def rearrange(x: Array, shape: tuple[Size, ...], result_map: ir.Map, in_map: ir.Map) -> Array:
    """A copy of `x` with loops over `shape`: reads in_map, writes result_map."""
    node = ir.Generic([x.acg_value], [in_map], [(shape, x.type)], result_map, len(shape), ir.Body(), ["%in0"])
    return make(node, x)


@function
def transpose(x: Any, *axes: Any) -> Array:
    """numpy.transpose: axes in the given order, reversed if none are given."""
    x = as_array(x)
    order = _varargs(axes) if axes else None
    perm = tuple(reversed(range(x.ndim))) if not order else tuple(normalize_axis(a, x.ndim) for a in order)
    if sorted(perm) != list(range(x.ndim)):
        fail(f"transpose needs every axis of {describe(x)} once, got {order}")
    if perm == tuple(range(x.ndim)):
        return x
    in_map: list[int | None] = [None] * x.ndim
    for position, axis in enumerate(perm):
        in_map[axis] = position
    out = rearrange(x, tuple(x.sizes[a] for a in perm), tuple(range(x.ndim)), tuple(in_map))
    out.acg_value.node.transposed = perm
    return out


@function
def permute(x: Any, *axes: Any) -> Array:
    """transpose under torch's name."""
    return transpose(x, *axes)


@function
def swapaxes(x: Any, axis1: int, axis2: int) -> Array:
    """Exchanges two axes."""
    x = as_array(x)
    order = list(range(x.ndim))
    a, b = normalize_axis(axis1, x.ndim), normalize_axis(axis2, x.ndim)
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


def _groups(before: tuple[Size, ...], after: tuple[Size, ...]) -> list[tuple[list[int], list[int]]]:
    """Dims of both shapes that cover the same elements: leading and trailing groups, the rest in one.

    A size that is equal only for the example is not used: it would tie the program to it.
    """
    head: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        found = _next_group(before[i:], after[j:])
        if found is None:
            break
        head.append((list(range(i, i + found[0])), list(range(j, j + found[1]))))
        i, j = i + found[0], j + found[1]
    tail: list[tuple[list[int], list[int]]] = []
    m, n = len(before), len(after)
    while i < m and j < n:
        found = _next_group(before[i:m][::-1], after[j:n][::-1])
        if found is None:
            break
        tail.append((list(range(m - found[0], m)), list(range(n - found[1], n))))
        m, n = m - found[0], n - found[1]
    rest = [(list(range(i, m)), list(range(j, n)))] if i < m or j < n else []
    return head + rest + tail[::-1]


def _next_group(before: Sequence[Size], after: Sequence[Size]) -> tuple[int, int] | None:
    """Fewest dims of each that have the same product."""
    left: Size = 1
    products = []
    for size in before:
        left = sizes.mul(left, size)
        products.append(left)
    right: Size = 1
    for taken, size in enumerate(after, 1):
        right = sizes.mul(right, size)
        if right in products:
            return products.index(right) + 1, taken
    return None


@function
def reshape(x: Any, *shape: Any) -> Array:
    """numpy.reshape in C order; one size may be -1."""
    x = as_array(x)
    dims = active().dims
    given = _varargs(shape)
    entries = [as_size(entry) for entry in (given if isinstance(given, (tuple, list)) else (given,))]
    total = sizes.product(x.sizes)
    if entries.count(-1) > 1:
        fail(f"reshape can infer one size only, got {given}")
    if -1 in entries:
        at = entries.index(-1)
        known = sizes.product(entries[:at] + entries[at + 1 :])
        inferred = sizes.divide_exact(total, known)
        if inferred is None:
            if dims.equal(known, 0) or not dims.equal(sizes.call("%", total, known), 0):
                fail(f"cannot reshape {describe(x)} into {list(given)}: the sizes do not divide")
            inferred = dims.resolve(sizes.call("//", dims.resolve(total), dims.resolve(known)))
        entries[at] = inferred
    after = tuple(dims.resolve(size) for size in to_sizes([e if isinstance(e, int) else _symbolic(e) for e in entries]))
    if not dims.equal(total, sizes.product(after)):
        fail(f"cannot reshape {describe(x)} into [{', '.join(map(sizes.show, after))}]")
    return _regroup(x, tuple(dims.resolve(size) for size in after))


def _symbolic(size: Size) -> Any:
    from ..symint import SymInt

    return SymInt(active().dims, size)


def _regroup(x: Array, after: tuple[Size, ...]) -> Array:
    """x with the equal number of elements in `after`, by collapse_shape and expand_shape."""
    if x.sizes == after:
        return x
    _fix_static_groups(x.sizes, after)
    after = tuple(active().dims.resolve(size) for size in after)
    groups = _groups(x.sizes, after)
    if x.ndim == 0 or not after:
        groups = [(list(range(x.ndim)), list(range(len(after))))]
    # Dims of size 1 that stand alone on one side join a neighbour: every group needs a dim on both sides.
    merged: list[tuple[list[int], list[int]]] = []
    for left, right in groups:
        if merged and (not left or not right or not merged[-1][0] or not merged[-1][1]):
            merged[-1] = (merged[-1][0] + left, merged[-1][1] + right)
        else:
            merged.append((left, right))
    # Sizes that were found equal may still be written differently.
    for left, right in merged:
        if len(left) == len(right) == 1:
            after = (*after[: right[0]], x.sizes[left[0]], *after[right[0] + 1 :])
    collapsed: list[Size] = []
    for left, right in merged:
        if len(left) == 1:
            collapsed.append(x.sizes[left[0]])
        elif len(right) == 1:
            collapsed.append(after[right[0]])
        else:
            collapsed.append(active().dims.resolve(sizes.product(x.sizes[a] for a in left)))
    flat = tuple(collapsed) if x.ndim and after else ()
    if x.ndim == 0 or not after:
        groups_in, groups_out = [], []
    else:
        groups_in, groups_out = [left for left, _ in merged], [right for _, right in merged]
    if x.ndim > len(flat):
        template = f"tensor.collapse_shape {{0}} {groups_in} : {{t0}} into {{r}}"
        x = make(ir.Op(template, [x.acg_value], flat, x.type), x)
    if len(after) > len(flat):
        template = f"tensor.expand_shape {{0}} {groups_out} output_shape [{{out}}] : {{t0}} into {{r}}"
        x = make(ir.Op(template, [x.acg_value], after, x.type, out=after), x)
    return x


def _fix_static_groups(before: tuple[Size, ...], after: tuple[Size, ...]) -> None:
    """Sizes that are regrouped into fixed ones are fixed by that: 6 = n * m makes n and m numbers."""
    for left, right in _groups(before, after):
        sides = [[before[a] for a in left], [after[a] for a in right]]
        fixed = [all(isinstance(size, int) for size in side) for side in sides]
        if fixed[0] != fixed[1]:
            for size in sides[fixed.index(False)]:
                int(_symbolic(size))


@function
def flatten(x: Any) -> Array:
    """All elements in one dim."""
    return reshape(x, -1)


@function
def ravel(x: Any) -> Array:
    """All elements in one dim."""
    return reshape(x, -1)


@function
def expand_dims(x: Any, axis: Any) -> Array:
    """Inserts dims of size 1 at the given positions of the result."""
    x = as_array(x)
    count = len(axis) if isinstance(axis, (tuple, list)) else 1
    axes = normalize_axes(axis, x.ndim + count)
    rest = iter(x.sizes)
    return _regroup(x, tuple(1 if a in axes else next(rest) for a in range(x.ndim + count)))


@function
def squeeze(x: Any, axis: Any = None) -> Array:
    """Removes dims of size 1: the given ones, or all that are 1 (which asks for every dim)."""
    x = as_array(x)
    dims = active().dims
    if axis is None:
        axes = tuple(a for a in range(x.ndim) if dims.equal(x.sizes[a], 1))
    else:
        axes = normalize_axes(axis, x.ndim)
        for a in axes:
            if not dims.equal(x.sizes[a], 1):
                fail(f"cannot squeeze axis {a} of {describe(x)}: its size is not 1")
    return _regroup(x, tuple(size for a, size in enumerate(x.sizes) if a not in axes))


@function
def broadcast_to(x: Any, shape: Any) -> Array:
    """numpy.broadcast_to; the result is a new array."""
    x = as_array(x)
    wanted = to_sizes(shape)
    if len(wanted) < x.ndim:
        fail(f"cannot broadcast {describe(x)} to {len(wanted)} dims")
    dims = active().dims
    for have, size in zip(x.sizes, wanted[len(wanted) - x.ndim :]):
        if dims.resolve(have) != dims.resolve(size) and not _is_stretch(have, size):
            fail(f"cannot broadcast {describe(x)} to [{', '.join(map(sizes.show, wanted))}]")
    shape = tuple(dims.resolve(size) for size in wanted)
    if x.sizes == shape:
        return x
    return rearrange(x, shape, tuple(range(len(shape))), broadcast_map(x, shape))


def _is_stretch(have: Size, size: Size) -> bool:
    """Whether a dim can become `size`: equal sizes are asked for first, then a size of 1."""
    dims = active().dims
    hints = dims.hint(have), dims.hint(size)
    if None in hints or hints[0] == hints[1]:
        return have == 1 or dims.equal(have, size)
    return hints[0] == 1 and dims.equal(have, 1)


@function
def broadcast_arrays(*arrays: Any) -> list[Array]:
    """All arrays at their joint broadcast shape."""
    found = [as_array(array) for array in arrays]
    shape = broadcast_shapes(found, "broadcast_arrays")
    return [broadcast_to(array, [s if isinstance(s, int) else _symbolic(s) for s in shape]) for array in found]


@function
def concat(arrays: Any, axis: int | None = 0, dim: int | None = None) -> Array:
    """numpy.concatenate: joins along an axis; axis None flattens. Other dims must agree."""
    found = [operand(a) if isinstance(a, Array) else as_array(a) for a in arrays]
    if not found:
        fail("concat needs at least one array")
    axis = axis if dim is None else dim
    if axis is None:
        found, axis = [flatten(a) for a in found], 0
    dtype = common_type(found)
    found = [convert(a, dtype) for a in found]
    rank = found[0].ndim
    if any(a.ndim != rank for a in found) or not rank:
        fail(f"concat needs arrays of one rank >= 1, got {', '.join(map(describe, found))}")
    at = normalize_axis(axis, rank)
    dims = active().dims
    shape = list(found[0].sizes)
    for other in found[1:]:
        for a in range(rank):
            if a == at:
                shape[a] = sizes.add(dims.resolve(shape[a]), other.sizes[a])
            elif not dims.equal(shape[a], other.sizes[a]):
                fail(f"concat along axis {at}: other dims must agree, got {', '.join(map(describe, found))}")
            else:
                shape[a] = dims.resolve(shape[a])
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{{{i}}}" for i in range(len(found)))
    types = ", ".join(f"{{t{i}}}" for i in range(len(found)))
    template = f"tensor.concat dim({at}) {names} : ({types}) -> {{r}}"
    return make(ir.Op(template, [a.acg_value for a in found], tuple(shape), dtype), *found)


@function
def concatenate(arrays: Any, axis: int | None = 0) -> Array:
    """concat under numpy's name."""
    return concat(arrays, axis)


@function
def stack(arrays: Any, axis: int = 0) -> Array:
    """Joins arrays of one shape along a new axis."""
    found = [as_array(a) for a in arrays]
    if not found:
        fail("stack needs at least one array")
    at = normalize_axis(axis, found[0].ndim + 1)
    return concat([expand_dims(a, at) for a in found], at)


@function
def split(x: Any, sections: Any, axis: int = 0) -> list[Array]:
    """numpy.split: into equal sections (an int), or at the given indices."""
    x = as_array(x)
    at = normalize_axis(axis, x.ndim)
    extent = x.shape[at]
    if isinstance(sections, int):
        if sections < 1 or extent % sections != 0:
            fail(f"axis {at} of {describe(x)} cannot be split into {sections} equal parts")
        step = extent // sections
        bounds = [(i * step, (i + 1) * step) for i in range(sections)]
    else:
        edges = [0, *sections, extent]
        bounds = list(zip(edges, edges[1:]))
    lead = (slice(None),) * at
    return [x[(*lead, slice(start, stop))] for start, stop in bounds]
