"""Reductions over axes: one linalg.generic on a filled accumulator; 16-bit floats accumulate in f32, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes, ir, sizes
from ..array import Array, as_array, describe, function, make
from ..dtypes import BOOL, F32, F64, I64, U64, DType
from ..ir import Body
from ..source import fail
from ..symint import SymInt, max_dim
from ..tracing import active
from . import elementwise, scalar
from .pointwise import cast, constant, convert, literal

Axes = Any


def normalize_axis(axis: int, rank: int) -> int:
    """A non-negative axis; an error outside the rank."""
    axis = int(axis)
    if not -rank <= axis < rank:
        fail(f"axis {axis} is out of range for an array of rank {rank}")
    return axis % rank


def normalize_axes(axis: Axes, rank: int) -> tuple[int, ...]:
    """Sorted axes; None means all."""
    if axis is None:
        return tuple(range(rank))
    axes = sorted(normalize_axis(a, rank) for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    if len(set(axes)) != len(axes):
        fail(f"an axis is named twice in {axis}")
    return tuple(axes)


def reduce(
    x: Array,
    axes: tuple[int, ...],
    keepdims: bool,
    accumulator: DType,
    start: str,
    step: Callable[[Body, str, str], str],
) -> Array:
    """step(body, element, accumulator) over `axes`, elements cast to `accumulator` first."""
    kept = tuple(a for a in range(x.ndim) if a not in axes)
    body = Body()
    out = step(body, cast(body, "%in0", x.type, accumulator), "%out0")
    shape = tuple(x.sizes[a] for a in kept)
    node = ir.Generic([x.acg_value], [tuple(range(x.ndim))], [(shape, accumulator)], kept, x.ndim, body, [out], [start])
    return _restore(make(node, x), x, axes, keepdims)


def _restore(reduced: Array, x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    from .layout import expand_dims

    return expand_dims(reduced, axes) if keepdims and axes else reduced


def count(x: Array, axes: tuple[int, ...]) -> Any:
    """The number of elements reduced: an int or a symbolic one."""
    total = active().dims.resolve(sizes.product(x.sizes[a] for a in axes))
    return total if isinstance(total, int) else SymInt(active().dims, total)


def _sum_type(x: Array) -> DType:
    """The result type of sum and prod: integers widen to 64 bits."""
    if x.type.is_float:
        return x.type
    return U64 if x.type.kind == "u" and x.kind == "numpy" else I64


def accumulation_type(x: Array, dtype: Any = None) -> DType:
    """The type that sums and products of `x` have: `dtype` if it is given."""
    return dtypes.parse(dtype) if dtype is not None else _sum_type(x)


def _folded(x: Any, axis: Axes, keepdims: bool, dtype: Any, start: int, op: tuple[str, str]) -> Array:
    x = as_array(x)
    result = accumulation_type(x, dtype)
    accumulator = result.compute
    formula = scalar.simple(*op)
    out = reduce(
        x if result.is_float or x.type.kind != "f" else convert(x, result),
        normalize_axes(axis, x.ndim), keepdims, accumulator, literal(start, accumulator),
        lambda f, e, a: formula(f, accumulator, a, e),
    )  # fmt: skip
    return convert(out, result)


@function
def sum(x: Any, axis: Axes = None, keepdims: bool = False, dtype: Any = None) -> Array:
    """Sum over axes; 0 where nothing is summed. Integers give 64-bit integers."""
    return _folded(x, axis, keepdims, dtype, 0, ("addf", "addi"))


@function
def prod(x: Any, axis: Axes = None, keepdims: bool = False, dtype: Any = None) -> Array:
    """Product over axes; 1 where nothing is multiplied."""
    return _folded(x, axis, keepdims, dtype, 1, ("mulf", "muli"))


def _mean_type(x: Array) -> DType:
    return x.type if x.type.is_float else F32 if x.kind == "torch" else F64


def _wide_mean(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """The mean in f32 or f64, before rounding to a 16-bit type."""
    total = _folded(x, axes, keepdims, _mean_type(x).compute, 0, ("addf", "addi"))
    return elementwise.true_divide(total, count(x, axes))


@function
def mean(x: Any, axis: Axes = None, keepdims: bool = False) -> Array:
    """Mean over axes; integers give the default float type, NaN where there is nothing."""
    x = as_array(x)
    return convert(_wide_mean(x, normalize_axes(axis, x.ndim), keepdims), _mean_type(x))


@function
def var(x: Any, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Array:
    """Variance over axes, divided by count - ddof; computed in two passes, f32 for 16-bit floats."""
    x = as_array(x)
    return convert(_wide_var(x, normalize_axes(axis, x.ndim), keepdims, ddof), _mean_type(x))


def _wide_var(x: Array, axes: tuple[int, ...], keepdims: bool, ddof: int) -> Array:
    wide = convert(x, _mean_type(x).compute)
    centered = elementwise.subtract(wide, _wide_mean(wide, axes, True))
    total = sum(elementwise.square(centered), axes, keepdims)
    n = count(x, axes)
    return elementwise.true_divide(total, max_dim(n - ddof, 0) if ddof else n)


@function
def std(x: Any, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Array:
    """Standard deviation over axes."""
    x = as_array(x)
    return convert(elementwise.sqrt(_wide_var(x, normalize_axes(axis, x.ndim), keepdims, ddof)), _mean_type(x))


def lowest(dtype: DType) -> Any:
    """What is not above any value of the type."""
    return float("-inf") if dtype.is_float else np.iinfo(dtype.numpy).min if dtype is not BOOL else False


def highest(dtype: DType) -> Any:
    """What is not below any value of the type."""
    return float("inf") if dtype.is_float else np.iinfo(dtype.numpy).max if dtype is not BOOL else True


def _not_empty(name: str, x: Array, axes: tuple[int, ...]) -> None:
    if 0 in [x.sizes[a] for a in axes]:
        fail(f"{name} of an empty array {describe(x)} has no value")


def _extreme(name: str, formula: str, start: Callable[[DType], Any]) -> Callable[..., Any]:
    def apply(x: Any, axis: Axes = None, keepdims: bool = False) -> Array:
        x = as_array(x)
        axes = normalize_axes(axis, x.ndim)
        _not_empty(name, x, axes)
        compute = x.type.compute
        out = reduce(
            x, axes, keepdims, compute, literal(start(compute), compute),
            lambda f, e, a: scalar.extreme(formula)(f, compute, a, e),
        )  # fmt: skip
        return convert(out, x.type)

    apply.__name__ = name
    apply.__doc__ = f"The {formula}imum over axes; NaN wins. An array that is empty by its type is an error."
    return function(apply)


max = _extreme("max", "max", lowest)
min = _extreme("min", "min", highest)


def _truth(name: str, op: str, start: bool) -> Callable[..., Any]:
    def apply(x: Any, axis: Axes = None, keepdims: bool = False) -> Array:
        x = as_array(x)
        return reduce(
            x, normalize_axes(axis, x.ndim), keepdims, BOOL, literal(start, BOOL),
            lambda f, e, a: f.emit(f"arith.{op} {a}, {e} : i1"),
        )  # fmt: skip

    apply.__name__ = name
    apply.__doc__ = f"numpy.{name} over axes: a boolean array; {start} where there is nothing."
    return function(apply)


any = _truth("any", "ori", False)
all = _truth("all", "andi", True)


def _arg(name: str, predicate: str, start: Callable[[DType], Any]) -> Callable[..., Any]:
    def apply(x: Any, axis: int | None = None, keepdims: bool = False) -> Array:
        from .layout import reshape

        x = as_array(x)
        rank = x.ndim
        source = reshape(x, (-1,)) if axis is None else x
        over = 0 if axis is None else normalize_axis(axis, rank)
        _not_empty(name, source, (over,))
        compute = I64 if source.type is BOOL else source.type.compute
        body = Body()
        element = cast(body, "%in0", source.type, compute)
        index = body.emit(f"linalg.index {over} : index")
        position = body.emit(f"arith.index_cast {index} : index to i64")
        take = scalar.compare(body, compute, predicate, element, "%out0")
        # The first of equals wins in whatever order the loop runs.
        same = scalar.compare(body, compute, "eq", element, "%out0")
        earlier = body.emit(f"arith.cmpi slt, {position}, %out1 : i64")
        take = body.emit(f"arith.ori {take}, {body.emit(f'arith.andi {same}, {earlier} : i1')} : i1")
        if compute.is_float:
            take = _prefer_nan(body, compute, element, earlier, take)
        value = scalar.select(body, compute, take, element, "%out0")
        best = scalar.select(body, I64, take, position, "%out1")
        kept = tuple(a for a in range(source.ndim) if a != over)
        shape = tuple(source.sizes[a] for a in kept)
        node = ir.Generic(
            [source.acg_value], [tuple(range(source.ndim))], [(shape, compute), (shape, I64)], kept, source.ndim,
            body, [value, best], [literal(start(compute), compute), literal(0, I64)],
        )  # fmt: skip
        make(node, source)
        out = Array(active(), node.results[1], source.kind)
        return _restore(out, x, tuple(range(rank)) if axis is None else (over,), keepdims)

    apply.__name__ = name
    apply.__doc__ = f"numpy.{name}: the first position (int64), of a NaN if there is one; axis None flattens."
    return function(apply)


def _prefer_nan(body: Body, dtype: DType, element: str, earlier: str, take: str) -> str:
    """The first NaN wins over every number."""
    is_nan = scalar.compare(body, dtype, "ne", element, element)
    had_nan = scalar.compare(body, dtype, "ne", "%out0", "%out0")
    new = body.emit(
        f"arith.ori {body.emit(f'arith.xori {had_nan}, {constant(body, True, BOOL)} : i1')}, {earlier} : i1"
    )
    nan = body.emit(f"arith.andi {is_nan}, {new} : i1")
    return body.emit(f"arith.ori {nan}, {take} : i1")


argmax = _arg("argmax", "gt", lowest)
argmin = _arg("argmin", "lt", highest)


@function
def logsumexp(x: Any, axis: Axes = None, keepdims: bool = False) -> Array:
    """log(sum(exp(x))) over axes, from the maximum down so that it does not overflow."""
    x = as_array(x)
    result = dtypes.float_of(x.type, x.kind)
    axes = normalize_axes(axis, x.ndim)
    wide = convert(x, result.compute)
    top = max(wide, axes, True)
    # An infinite maximum would give inf - inf.
    top = elementwise.where(elementwise.isfinite(top), top, 0.0)
    total = elementwise.log(sum(elementwise.exp(elementwise.subtract(wide, top)), axes, True))
    out = elementwise.add(total, top)
    if not keepdims:
        from .layout import squeeze

        out = squeeze(out, axes)
    return convert(out, result)
