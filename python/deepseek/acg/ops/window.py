"""Padding, convolution and pooling over the trailing spatial dims of [n, c, *spatial]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import ir, sizes
from ..array import Array, as_array, describe, function, make
from ..dtypes import BOOL, I8, I64
from ..ir import Body
from ..sizes import Size
from ..source import fail
from ..symint import SymInt
from ..tracing import active
from . import elementwise, scalar
from .blocks import matmul
from .create import Fill
from .layout import broadcast_to, reshape, transpose
from .pointwise import cast, common_type, constant, convert, literal
from .reduce import lowest as lowest_of

# Fewer steps than this are multiplied in place: packing patches for a product would cost more than it saves.
_FEW_STEPS = 8


def _shown(size: Size) -> Any:
    return size if isinstance(size, int) else SymInt(active().dims, size)


def _inside(body: Body, position: str, extent: Size) -> tuple[str, str]:
    """(position moved into [0, extent), whether it was inside), both for an index."""
    low, high = body.capture(0), body.capture(sizes.sub(extent, 1))
    fits = [body.emit(f"arith.cmpi {p}, {position}, {bound} : index") for p, bound in (("sge", low), ("sle", high))]
    clamped = body.emit(f"arith.minsi {position}, {high} : index")
    return body.emit(f"arith.maxsi {clamped}, {low} : index"), body.emit(f"arith.andi {fits[0]}, {fits[1]} : i1")


def _all(body: Body, conditions: Sequence[str]) -> str | None:
    found = None
    for condition in conditions:
        found = condition if found is None else body.emit(f"arith.andi {found}, {condition} : i1")
    return found


def _extract(body: Body, x: Array, positions: Sequence[str]) -> str:
    source = body.tensor(x.acg_value)
    return body.emit(f"tensor.extract {source}[{', '.join(positions)}] : {source.replace('%', '!')}")


@function
def pad(x: Any, widths: Any, value: Any = 0) -> Array:
    """numpy.pad with a constant: [(before, after), ...] per axis; negative widths cut."""
    x = as_array(x)
    pairs = [tuple(pair) for pair in widths]
    if len(pairs) != x.ndim:
        fail(f"pad needs one (before, after) per axis of {describe(x)}, got {len(pairs)}")
    dims = active().dims
    shape = []
    for (before, after), extent in zip(pairs, x.sizes):
        total = sizes.add(extent, sizes.add(_of(before), _of(after)))
        if not dims.at_least(total, 0):
            fail(f"pad cuts more than there is of {describe(x)}")
        shape.append(dims.resolve(total))
    if all(before == 0 and after == 0 for before, after in pairs):
        return x
    padding = literal(value, x.type)
    if 0 in x.sizes:
        return make(Fill(padding, tuple(shape), x.type), x)
    body, positions, conditions = Body(), [], []
    for axis, ((before, after), extent) in enumerate(zip(pairs, x.sizes)):
        index = body.emit(f"linalg.index {axis} : index")
        if before != 0:
            index = body.emit(f"arith.subi {index}, {body.capture(_of(before))} : index")
        if before != 0 or after != 0:
            index, fits = _inside(body, index, extent)
            conditions.append(fits)
        positions.append(index)
    element = _extract(body, x, positions)
    out = scalar.select(body, x.type, _all(body, conditions), element, body.emit(f"arith.constant {padding}"))
    rank = len(shape)
    return make(ir.Generic([], [], [(tuple(shape), x.type)], tuple(range(rank)), rank, body, [out]), x)


def _of(value: Any) -> Size:
    return value.resolved if isinstance(value, SymInt) else int(value)


def _each(value: Any, rank: int, name: str) -> list[int]:
    """An int or sequence as one number per spatial dim."""
    entries = list(value) if isinstance(value, (tuple, list)) else [value]
    entries = entries * rank if len(entries) == 1 else entries
    if len(entries) != rank:
        fail(f"{name} must be one number or {rank}, got {value}")
    return [int(n) for n in entries]


def _window_count(extent: Size, window: int, stride: int, dilation: int, before: int, after: int) -> Size:
    """How many windows fit: floor((extent + before + after - dilation * (window - 1) - 1) / stride) + 1."""
    span = sizes.add(extent, before + after - dilation * (window - 1) - 1)
    dims = active().dims
    if not dims.at_least(span, 0, f"a window of {dilation * (window - 1) + 1} fits into {sizes.show(extent)}"):
        fail(f"a window of {dilation * (window - 1) + 1} does not fit into {sizes.show(extent)}")
    return dims.resolve(sizes.add(dims.resolve(sizes.call("//", dims.resolve(span), stride)), 1))


class _Windows:
    """Geometry of a convolution: how outputs o and window positions k meet inputs, per spatial dim."""

    def __init__(
        self,
        x: Array,
        window: Sequence[int],
        stride: Any,
        padding: Any,
        dilation: Any,
        transposed: bool = False,
        output_padding: Any = 0,
    ) -> None:
        rank = len(window)
        self.window, self.transposed = list(window), transposed
        self.stride = _each(stride, rank, "stride")
        self.padding = _each(padding, rank, "padding")
        self.dilation = _each(dilation, rank, "dilation")
        extra = _each(output_padding, rank, "output_padding")
        self.extents = x.sizes[-rank:]
        self.out: list[Size] = []
        for i, extent in enumerate(self.extents):
            if transposed:
                grown = sizes.mul(sizes.sub(extent, 1), self.stride[i])
                more = self.dilation[i] * (self.window[i] - 1) + 1 + extra[i] - 2 * self.padding[i]
                self.out.append(active().dims.resolve(sizes.add(grown, more)))
            else:
                pad_ = self.padding[i]
                self.out.append(_window_count(extent, window[i], self.stride[i], self.dilation[i], pad_, pad_))

    def position(self, body: Body, i: int, o: str, k: str) -> tuple[str, list[str]]:
        """(input position of output index o and window index k in dim i, moved inside; what must hold)."""
        stride, padding, dilation = self.stride[i], self.padding[i], self.dilation[i]

        def scaled(index: str, factor: int) -> str:
            return index if factor == 1 else body.emit(f"arith.muli {index}, {body.capture(factor)} : index")

        conditions = []
        if self.transposed:
            at = body.emit(f"arith.addi {o}, {body.capture(padding)} : index") if padding else o
            at = body.emit(f"arith.subi {at}, {scaled(k, dilation)} : index")
            if stride != 1:
                whole = body.emit(f"arith.floordivsi {at}, {body.capture(stride)} : index")
                back = body.emit(f"arith.muli {whole}, {body.capture(stride)} : index")
                conditions.append(body.emit(f"arith.cmpi eq, {at}, {back} : index"))
                at = whole
        else:
            at = body.emit(f"arith.addi {scaled(o, stride)}, {scaled(k, dilation)} : index")
            if not padding:
                return at, []
            at = body.emit(f"arith.subi {at}, {body.capture(padding)} : index")
        at, fits = _inside(body, at, self.extents[i])
        return at, [*conditions, fits]


@function
def convolution(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: Any = 0,
) -> Array:
    """Cross-correlation of x [n, c, *spatial] with weight [out, c / groups, *window]: [n, out, *spatial].

    transposed: the gradient of that, weight being [c, out / groups, *window] (Dumoulin & Visin 2016, chapter 4).
    """
    x, weight = as_array(x), as_array(weight)
    dtype = common_type([x, weight])
    x, weight = convert(x, dtype), convert(weight, dtype)
    rank = x.ndim - 2
    if rank < 1 or weight.ndim != x.ndim:
        fail(f"convolution needs [n, c, *spatial] and [out, c, *window], got {describe(x)} and {describe(weight)}")
    channels, count = int(x.shape[1]), int(weight.shape[1]) * groups if transposed else int(weight.shape[0])
    if (
        channels % groups
        or count % groups
        or int(weight.shape[0 if transposed else 1]) * (1 if transposed else groups) != channels
    ):
        fail(f"convolution: channels do not fit: {describe(x)} and {describe(weight)} in {groups} groups")
    windows = _Windows(x, [int(n) for n in weight.shape[2:]], stride, padding, dilation, transposed, output_padding)
    inner = channels // groups
    if transposed:  # [c, out / groups, ...] as [out, c / groups, ...]
        weight = reshape(weight, [groups, inner, count // groups, *windows.window])
        weight = reshape(transpose(weight, [0, 2, 1, *range(3, 3 + rank)]), [count, inner, *windows.window])
    steps = inner * math.prod(windows.window)
    if groups == 1 and steps >= _FEW_STEPS:
        out = _as_product(x, weight, bias, windows, dtype)
    else:
        out = _in_place(x, weight, windows, groups)
        if bias is not None:
            shape = [1, count, *[1] * rank]
            out = elementwise.add(out, reshape(convert(as_array(bias), dtype), shape))
    return convert(out, dtype)


def _patches(x: Array, windows: _Windows) -> Array:
    """[n, c, *window, *out]: what each window position sees, zero outside."""
    rank = len(windows.window)
    body, positions, conditions = Body(), [], []
    loops = [body.emit(f"linalg.index {d} : index") for d in range(2 + 2 * rank)]
    for i in range(rank):
        at, needed = windows.position(body, i, loops[2 + rank + i], loops[2 + i])
        positions.append(at)
        conditions += needed
    out = _extract(body, x, [*loops[:2], *positions])
    if conditions:
        out = scalar.select(body, x.type, _all(body, conditions), out, constant(body, 0, x.type))
    shape = (*x.sizes[:2], *windows.window, *windows.out)
    return make(ir.Generic([], [], [(shape, x.type)], tuple(range(len(shape))), len(shape), body, [out]), x)


def _as_product(x: Array, weight: Array, bias: Any, windows: _Windows, dtype: Any) -> Array:
    """Patches times weights (Chellapilla et al. 2006), outputs as rows."""
    rank = len(windows.window)
    count, steps = int(weight.shape[0]), math.prod(int(n) for n in weight.shape[1:])
    batch, outs = x.shape[0], [_shown(n) for n in windows.out]
    area: Any = 1
    for n in outs:
        area = n * area
    plain = not windows.transposed and all(
        w == s == d == 1 and p == 0
        for w, s, d, p in zip(windows.window, windows.stride, windows.dilation, windows.padding)
    )
    patches = x if plain else _patches(x, windows)
    rows = reshape(patches, [batch, steps, area])
    rows = matmul(rows, reshape(weight, [count, steps]), bias=bias, transpose_lhs=True, transpose_rhs=True)
    return reshape(transpose(rows, [0, 2, 1]), [batch, count, *outs[:rank]])


def _in_place(x: Array, weight: Array, windows: _Windows, groups: int) -> Array:
    """Every output element sums its products: for few steps and many groups."""
    rank = len(windows.window)
    n, channels = x.sizes[0], int(x.shape[1])
    count, inner = int(weight.shape[0]), channels // groups
    dtype, wide = x.type, x.type.compute
    # Loops: n, group, output channel of the group, *out, then channel of the group, *window.
    body = Body()
    loops = [body.emit(f"linalg.index {d} : index") for d in range(4 + 2 * rank)]
    channel = loops[1]
    if inner > 1:
        channel = body.emit(f"arith.muli {channel}, {body.capture(inner)} : index")
        channel = body.emit(f"arith.addi {channel}, {loops[3 + rank]} : index")
    positions, conditions = [], []
    for i in range(rank):
        at, needed = windows.position(body, i, loops[3 + i], loops[4 + rank + i])
        positions.append(at)
        conditions += needed
    value = _extract(body, x, [loops[0], channel, *positions])
    if conditions:
        value = scalar.select(body, dtype, _all(body, conditions), value, constant(body, 0, dtype))
    value, factor = cast(body, value, dtype, wide), cast(body, "%in0", dtype, wide)
    product = scalar.simple("mulf", "muli", "andi")(body, wide, value, factor)
    total = scalar.simple("addf", "addi", "ori")(body, wide, "%out0", product)
    grouped = reshape(weight, [groups, count // groups, inner, *windows.window])
    weight_map = (1, 2, *range(3 + rank, 4 + 2 * rank))
    shape = (n, groups, count // groups, *windows.out)
    node = ir.Generic(
        [grouped.acg_value], [weight_map], [(shape, wide)], tuple(range(3 + rank)), 4 + 2 * rank,
        body, [total], [literal(0, wide)],
    )  # fmt: skip
    out = make(node, x)
    return convert(reshape(out, [x.shape[0], count, *map(_shown, windows.out)]), dtype)


def _pool_windows(
    x: Array, window: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], ceil: bool
) -> tuple[list[Size], list[int]]:
    """(output sizes, padding behind) of a pool; with `ceil` a last window may hang over, but not begin, outside."""
    dims, out, behind = active().dims, [], []
    rank = len(window)
    for i, extent in enumerate(x.sizes[-rank:]):
        count = _window_count(extent, window[i], stride[i], dilation[i], padding[i], padding[i])
        after = padding[i]
        if ceil:
            reach = stride[i] - 1
            larger = _window_count(extent, window[i], stride[i], dilation[i], padding[i], padding[i] + reach)
            # The last window must begin inside of the input or what is before it.
            begin = sizes.mul(sizes.sub(larger, 1), stride[i])
            if dims.at_least(begin, sizes.add(extent, padding[i])):
                larger = sizes.sub(larger, 1)
            count, after = dims.resolve(larger), padding[i] + reach
        out.append(count)
        behind.append(after)
    return out, behind


def _padded(x: Array, before: Sequence[int], after: Sequence[int], value: Any) -> Array:
    lead = [(0, 0)] * (x.ndim - len(before))
    return pad(x, [*lead, *zip(before, after)], value)


def _window_reduction(
    x: Array, out: list[Size], window: Sequence[int], stride: Sequence[int], dilation: Sequence[int],
    step: Any, starts: list[tuple[Any, str]],
) -> list[Array]:  # fmt: skip
    """step(body, element, loop indices of the window) over every window of x."""
    rank, lead = len(window), x.ndim - len(window)
    body = Body()
    entries = [f"d{lead + i} * {stride[i]} + d{lead + rank + i} * {dilation[i]}" for i in range(rank)]
    shape = make(Fill(literal(0, I8), tuple(window), I8), x)
    yields = step(body, "%in0")
    results = [((*x.sizes[:lead], *out), dtype) for dtype, _ in starts]
    node = ir.Generic(
        [x.acg_value, shape.acg_value], [(*range(lead), *entries), tuple(range(lead + rank, lead + 2 * rank))],
        results, tuple(range(lead + rank)), lead + 2 * rank, body, yields, [text for _, text in starts],
    )  # fmt: skip
    make(node, x)
    return [Array(active(), value, x.kind) for value in node.results]


@function
def max_pool(
    x: Any, window: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False, rank: int = 2
) -> tuple[Array, Array]:
    """(the largest element of every window of the last `rank` dims, its flat position in them); NaN wins."""
    x = as_array(x)
    window, dilation = _each(window, rank, "window"), _each(dilation, rank, "dilation")
    stride = _each(stride, rank, "stride") if stride not in (None, [], ()) else window
    padding = _each(padding, rank, "padding")
    out, behind = _pool_windows(x, window, stride, padding, dilation, ceil)
    compute = I8 if x.type is BOOL else x.type.compute
    lowest = lowest_of(compute)
    padded = _padded(convert(x, compute), padding, behind, lowest)
    lead = x.ndim - rank

    def step(body: Body, element: str) -> list[str]:
        # Row-major position in the input of the element that is looked at.
        flat = None
        for i in range(rank):
            loops = [body.emit(f"linalg.index {d} : index") for d in (lead + i, lead + rank + i)]
            scaled = [
                body.emit(f"arith.muli {index}, {body.capture(by)} : index")
                for index, by in zip(loops, (stride[i], dilation[i]))
            ]
            at = body.emit(f"arith.addi {scaled[0]}, {scaled[1]} : index")
            at = body.emit(f"arith.subi {at}, {body.capture(padding[i])} : index")
            if flat is not None:
                flat = body.emit(f"arith.muli {flat}, {body.capture(x.sizes[lead + i])} : index")
                at = body.emit(f"arith.addi {flat}, {at} : index")
            flat = at
        position = body.emit(f"arith.index_cast {flat} : index to i64")
        larger = scalar.compare(body, compute, "gt", element, "%out0")
        unset = scalar.compare(body, I64, "lt", "%out1", constant(body, 0, I64))
        take = body.emit(f"arith.ori {larger}, {unset} : i1")
        if compute.is_float:
            take = body.emit(f"arith.ori {take}, {scalar.compare(body, compute, 'ne', element, element)} : i1")
        value = scalar.select(body, compute, take, element, "%out0")
        return [value, scalar.select(body, I64, take, position, "%out1")]

    starts = [(compute, literal(lowest, compute)), (I64, literal(-1, I64))]
    values, positions = _window_reduction(padded, out, window, stride, dilation, step, starts)
    return convert(values, x.type), positions


@function
def avg_pool(
    x: Any,
    window: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
    rank: int = 2,
) -> Array:
    """The mean of every window of the last `rank` dims; count_padding: zeros around the input count as elements."""
    x = as_array(x)
    window = _each(window, rank, "window")
    stride = _each(stride, rank, "stride") if stride not in (None, [], ()) else window
    padding, ones = _each(padding, rank, "padding"), [1] * rank
    out, behind = _pool_windows(x, window, stride, padding, ones, ceil)
    compute = x.type.compute

    def total(of: Array) -> Array:
        def step(body: Body, element: str) -> list[str]:
            return [scalar.simple("addf", "addi")(body, compute, "%out0", element)]

        return _window_reduction(of, out, window, stride, ones, step, [(compute, literal(0, compute))])[0]

    sums = total(_padded(convert(x, compute), padding, behind, 0))
    if divisor is not None:
        return convert(elementwise.true_divide(sums, divisor), x.type)
    if not ceil and (count_padding or not any(padding)):
        return convert(elementwise.true_divide(sums, math.prod(window)), x.type)
    # How many elements count: those of the input, and of the padding on both sides of it if asked for.
    counted = make(Fill(literal(1, compute), x.sizes[-rank:], compute), x)
    if count_padding:
        counted = _padded(counted, padding, padding, 1)
        counted = _padded(counted, [0] * rank, [b - p for b, p in zip(behind, padding)], 0)
    else:
        counted = _padded(counted, padding, behind, 0)
    return convert(elementwise.true_divide(sums, broadcast_to(total(counted), sums.shape)), x.type)
