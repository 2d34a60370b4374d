"""The bits of numbers: bitcast, nextafter, frexp."""

from __future__ import annotations

from typing import Any

from .. import dtypes, ir
from ..array import Array, as_array, describe, function, make
from ..dtypes import BOOL, F32, F64, I32, I64, DType
from ..ir import Body
from ..source import fail
from . import elementwise as e
from .pointwise import cast, common_type, convert, operand

# (integer of the same width, bits of the fraction, bias of the exponent): IEEE 754-2019, table 3.5.
_FIELDS = {"f32": (I32, 23, 127), "f64": (I64, 52, 1023), "f16": (dtypes.I16, 10, 15), "bf16": (dtypes.I16, 7, 127)}


@function
def bitcast(x: Any, dtype: Any) -> Array:
    """The same bits read as another type of the same width (numpy's view)."""
    x = as_array(x)
    target = dtypes.parse(dtype)
    if target is x.type:
        return x
    widths = [8 if t is BOOL else t.bits for t in (x.type, target)]
    if widths[0] != widths[1]:
        fail(
            f"bitcast of {describe(x)} to {target.numpy} changes the width of elements",
            "shift and mask integers instead",
        )
    body = Body()
    if BOOL in (x.type, target) or x.type.mlir == target.mlir:
        out = cast(body, "%in0", x.type, target)
    else:
        out = body.emit(f"arith.bitcast %in0 : {x.type.mlir} to {target.mlir}")
    loops = tuple(range(x.ndim))
    return make(ir.Generic([x.acg_value], [loops], [(x.sizes, target)], loops, x.ndim, body, [out]), x)


@function
def nextafter(x: Any, y: Any) -> Array:
    """The next number of x's type from x towards y: one step of the bits, which are ordered like magnitudes."""
    operands = [operand(x), operand(y)]
    dtype = common_type(operands)
    if not dtype.is_float:
        fail("nextafter needs floating-point numbers")
    x, y = (convert(as_array(o), dtype) for o in operands)
    whole, _, _ = _FIELDS[dtype.name]
    away = e.equal(e.less(x, y), e.greater(x, 0.0))
    stepped = bitcast(e.add(bitcast(x, whole), e.where(away, 1, -1).astype(whole)), dtype)
    smallest = bitcast(e.where(e.equal(x, x), 1, 1).astype(whole), dtype)
    stepped = e.where(e.equal(x, 0.0), e.copysign(smallest, y), stepped)
    invalid = e.logical_or(e.isnan(x), e.isnan(y))
    return e.where(e.equal(x, y), y, e.where(invalid, e.add(x, y), stepped))


@function
def frexp(x: Any) -> tuple[Array, Array]:
    """(m, n) with x = m * 2^n and 0.5 <= |m| < 1; (x, 0) for 0, infinities and NaN. n is int32."""
    x = as_array(x)
    kept: DType = x.type
    if not kept.is_float:
        fail(f"frexp needs floating-point numbers, got {describe(x)}")
    wide = x if kept in (F32, F64) else convert(x, F32)
    whole, fraction, bias = _FIELDS[wide.type.name]
    small = e.less(e.abs(wide), 2.0 ** (1 - bias))  # subnormal: scaled into the normal range
    bits = bitcast(e.where(small, e.multiply(wide, 2.0 ** (fraction + 2)), wide), whole)
    mask = 2 * bias + 1
    exponent = e.bitwise_and(e.right_shift(bits, fraction), mask)
    mantissa = bitcast(e.bitwise_or(e.bitwise_and(bits, ~(mask << fraction)), (bias - 1) << fraction), wide.type)
    exponent = e.subtract(exponent, e.where(small, bias - 1 + fraction + 2, bias - 1).astype(whole))
    plain = e.logical_or(e.equal(wide, 0.0), e.logical_not(e.isfinite(wide)))
    return e.where(plain, wide, mantissa).astype(kept), e.where(plain, 0, exponent).astype(I32)
