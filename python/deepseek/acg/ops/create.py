"""Arrays that depend on no operand: constants, ranges, masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import dtypes, ir, sizes
from ..array import Array, as_array, describe, function, make, to_sizes
from ..dtypes import BOOL, I64, DType
from ..ir import Body
from ..sizes import Size
from ..source import fail
from ..symint import SymInt, as_size
from ..tracing import active
from .layout import broadcast_to
from .pointwise import cast, constant, convert, literal, size_scalar
from .scalar import compare, select


class Fill(ir.Node):
    """An array whose elements are all `text`, e.g. "0.0 : f32"."""

    def __init__(self, text: str, shape: tuple[Size, ...], dtype: DType) -> None:
        super().__init__([], [(shape, dtype)])
        self.text = text

    def write(self, p: ir.Printer) -> None:
        (result,) = self.results
        value = p.assign(f"arith.constant {self.text}")
        empty = p.empty(result.shape, result.dtype)
        kind = p.type(result)
        p.assign(f"linalg.fill ins({value} : {result.dtype.mlir}) outs({empty} : {kind}) -> {kind}", result)


def generate(shape: tuple[Size, ...], dtype: DType, body: Body, out: str) -> Array:
    """An array computed from its indices alone."""
    return make(ir.Generic([], [], [(shape, dtype)], tuple(range(len(shape))), len(shape), body, [out]))


def _default_type(values: list[Any], dtype: Any) -> DType:
    if dtype is not None:
        return dtypes.parse(dtype)
    if all(isinstance(v, bool) for v in values):
        return BOOL
    integers = all(isinstance(v, (int, SymInt, np.integer)) for v in values)
    return I64 if integers else dtypes.default_float(active().kind)


@function
def asarray(x: Any, dtype: Any = None) -> Array:
    """numpy arrays, tensors, numbers and lists as arrays of the program (constants)."""
    found = as_array(x)
    return found if dtype is None else convert(found, dtypes.parse(dtype))


@function
def full(shape: Any, value: Any, dtype: Any = None) -> Array:
    """An array of `value` (a number or an array that broadcasts)."""
    wanted = to_sizes(shape)
    if isinstance(value, (bool, int, float, np.generic)):
        target = dtypes.parse(value.dtype) if isinstance(value, np.generic) and dtype is None else None
        target = target or _default_type([value], dtype)
        return make(Fill(literal(value, target), wanted, target))
    return broadcast_to(asarray(value, dtype), shape)


@function
def zeros(shape: Any, dtype: Any = None) -> Array:
    """An array of zeros; the default dtype is float64, float32 in programs of torch tensors."""
    return full(shape, 0.0 if dtype is None else 0, dtype)


@function
def ones(shape: Any, dtype: Any = None) -> Array:
    """An array of ones; the default dtype is float64, float32 in programs of torch tensors."""
    return full(shape, 1.0 if dtype is None else 1, dtype)


@function
def full_like(x: Any, value: Any, dtype: Any = None) -> Array:
    """`full` with the shape and dtype of x."""
    x = as_array(x)
    return full(x.shape, value, dtype or x.type)


@function
def zeros_like(x: Any, dtype: Any = None) -> Array:
    """Zeros with the shape and dtype of x."""
    return full_like(x, 0, dtype)


@function
def ones_like(x: Any, dtype: Any = None) -> Array:
    """Ones with the shape and dtype of x."""
    return full_like(x, 1, dtype)


@function
def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Array:
    """start, start + step, ... below stop; bounds may be symbolic sizes, the step is a number."""
    if stop is None:
        start, stop = 0, start
    values = [start, stop, step]
    if any(isinstance(v, Array) for v in values):
        fail("arange needs numbers or sizes, not arrays: the result's size would depend on values")
    target = _default_type(values, dtype)
    if step == 0:
        fail("the step of arange is 0")
    if any(isinstance(v, SymInt) for v in values):
        first, last, by = as_size(start), as_size(stop), int(step)
        if first is None or last is None:
            fail("arange with symbolic sizes needs integers")
        span = sizes.sub(last, first) if by > 0 else sizes.sub(first, last)
        if not active().dims.at_least(span, 0):
            span = 0
        length = by if by > 0 else -by
        count = active().dims.resolve(sizes.call("//", sizes.add(span, length - 1), length))
    else:
        first, by = start, step
        count = max(0, math.ceil((stop - start) / step))
    body = Body()
    index = body.emit(f"arith.index_cast {body.emit('linalg.index 0 : index')} : index to i64")
    inner = target.compute if target.is_float else I64
    x = cast(body, index, I64, inner)
    ops = ("arith.mulf", "arith.addf") if inner.is_float else ("arith.muli", "arith.addi")
    if by != 1:
        x = body.emit(f"{ops[0]} {x}, {constant(body, by, inner)} : {inner.mlir}")
    if first != 0:
        offset = size_scalar(body, first, inner) if isinstance(first, sizes.Expr) else constant(body, first, inner)
        x = body.emit(f"{ops[1]} {x}, {offset} : {inner.mlir}")
    return generate((count,), target, body, cast(body, x, inner, target))


@function
def iota(shape: Any, axis: int = 0, dtype: Any = None) -> Array:
    """Every element is its own position along `axis`."""
    wanted = to_sizes(shape)
    target = _default_type([0], dtype)
    body = Body()
    index = body.emit(f"linalg.index {axis % len(wanted)} : index")
    position = body.emit(f"arith.index_cast {index} : index to i64")
    return generate(wanted, target, body, cast(body, position, I64, target))


def _distance(body: Body, rows: int, columns: int) -> str:
    """column - row of the element, as i64."""
    parts = []
    for axis in (columns, rows):
        index = body.emit(f"linalg.index {axis} : index")
        parts.append(body.emit(f"arith.index_cast {index} : index to i64"))
    return body.emit(f"arith.subi {parts[0]}, {parts[1]} : i64")


@function
def eye(n: Any, m: Any = None, k: int = 0, dtype: Any = None) -> Array:
    """Ones on the k-th diagonal of an [n, m] array of zeros."""
    target = _default_type([0.0], dtype)
    body = Body()
    on = compare(body, I64, "eq", _distance(body, 0, 1), constant(body, k, I64))
    out = select(body, target, on, constant(body, 1, target), constant(body, 0, target))
    return generate(to_sizes((n, n if m is None else m)), target, body, out)


def _triangle(x: Any, k: int, predicate: str) -> Array:
    x = as_array(x)
    if x.ndim < 2:
        fail(f"tril and triu need at least two dims, got {describe(x)}")
    body = Body()
    inside = compare(body, I64, predicate, _distance(body, x.ndim - 2, x.ndim - 1), constant(body, k, I64))
    out = select(body, x.type, inside, "%in0", constant(body, 0, x.type))
    loops = tuple(range(x.ndim))
    return make(ir.Generic([x.acg_value], [loops], [(x.sizes, x.type)], loops, x.ndim, body, [out]), x)


@function
def tril(x: Any, k: int = 0) -> Array:
    """The elements on and below the k-th diagonal of the last two dims, zeros above."""
    return _triangle(x, k, "le")


@function
def triu(x: Any, k: int = 0) -> Array:
    """The elements on and above the k-th diagonal of the last two dims, zeros below."""
    return _triangle(x, k, "ge")


@function
def _size_array(size: SymInt) -> Array:
    """A symbolic size as a 0-d int64 array."""
    body = Body()
    return generate((), I64, body, size_scalar(body, size.resolved, I64))
