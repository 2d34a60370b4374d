"""Scalar formulas of the elementwise operations, written into linalg bodies: f(body, dtype, *operands) -> name.

`dtype` is the type computed in (f16 and bf16 arrive as f32). No arith.remf, no fmod: objects import no libm.
"""

from __future__ import annotations

from collections.abc import Callable

from ..dtypes import F64, DType
from ..ir import Body
from .pointwise import cast, constant


def compare(body: Body, dtype: DType, predicate: str, x: str, y: str) -> str:
    """predicate: eq ne lt le gt ge; ordered for floats but ne (NaN != anything)."""
    if dtype.is_float:
        return body.emit(f"arith.cmpf {'une' if predicate == 'ne' else 'o' + predicate}, {x}, {y} : {dtype.mlir}")
    sign = "" if predicate in ("eq", "ne") else "s" if dtype.kind == "i" else "u"
    return body.emit(f"arith.cmpi {sign}{predicate}, {x}, {y} : {dtype.mlir}")


def select(body: Body, dtype: DType, condition: str, x: str, y: str) -> str:
    return body.emit(f"arith.select {condition}, {x}, {y} : {dtype.mlir}")


def simple(float_op: str, int_op: str, bool_op: str = "") -> Callable[..., str]:
    """One arith op, by kind of element."""

    def formula(body: Body, dtype: DType, x: str, y: str) -> str:
        op = float_op if dtype.is_float else bool_op if dtype.kind == "b" else int_op
        return body.emit(f"arith.{op} {x}, {y} : {dtype.mlir}")

    return formula


def extreme(name: str) -> Callable[..., str]:
    """minimum or maximum; NaN wins, as in numpy."""

    def formula(body: Body, dtype: DType, x: str, y: str) -> str:
        op = f"{name}imumf" if dtype.is_float else f"{name}{'s' if dtype.kind == 'i' else 'u'}i"
        return body.emit(f"arith.{op} {x}, {y} : {dtype.mlir}")

    return formula


def math(op: str) -> Callable[..., str]:
    return lambda body, dtype, x: body.emit(f"math.{op} {x} : {dtype.mlir}")


def binary_math(op: str) -> Callable[..., str]:
    return lambda body, dtype, x, y: body.emit(f"math.{op} {x}, {y} : {dtype.mlir}")


def _any(body: Body, x: str, y: str) -> str:
    return body.emit(f"arith.ori {x}, {y} : i1")


def _safe_divisor(body: Body, dtype: DType, y: str) -> tuple[str, str, str]:
    """(divisor without 0 and -1, is zero, is minus one): division by 0 and MIN / -1 trap on x86."""
    zero, one = constant(body, 0, dtype), constant(body, 1, dtype)
    is_zero = compare(body, dtype, "eq", y, zero)
    is_minus = is_zero
    if dtype.kind == "i":
        is_minus = compare(body, dtype, "eq", y, constant(body, -1, dtype))
    return select(body, dtype, _any(body, is_zero, is_minus), one, y), is_zero, is_minus


def _integer_divmod(body: Body, dtype: DType, x: str, y: str) -> tuple[str, str]:
    """Python's floor quotient and remainder; both 0 for a divisor of 0, as in numpy."""
    safe, is_zero, is_minus = _safe_divisor(body, dtype, y)
    sign = "s" if dtype.kind == "i" else "u"
    zero = constant(body, 0, dtype)
    quotient = body.emit(f"arith.div{sign}i {x}, {safe} : {dtype.mlir}")
    whole = body.emit(f"arith.muli {quotient}, {safe} : {dtype.mlir}")
    remainder = body.emit(f"arith.subi {x}, {whole} : {dtype.mlir}")
    if dtype.kind == "i":
        differs = compare(body, dtype, "lt", body.emit(f"arith.xori {remainder}, {safe} : {dtype.mlir}"), zero)
        inexact = compare(body, dtype, "ne", remainder, zero)
        fix = body.emit(f"arith.andi {differs}, {inexact} : i1")
        less = body.emit(f"arith.subi {quotient}, {constant(body, 1, dtype)} : {dtype.mlir}")
        quotient = select(body, dtype, fix, less, quotient)
        more = body.emit(f"arith.addi {remainder}, {safe} : {dtype.mlir}")
        remainder = select(body, dtype, fix, more, remainder)
        negated = body.emit(f"arith.subi {zero}, {x} : {dtype.mlir}")
        quotient = select(body, dtype, is_minus, negated, quotient)
    # With the divisor replaced by 1 the remainder is 0 already.
    return select(body, dtype, is_zero, zero, quotient), remainder


def _float_divmod(body: Body, dtype: DType, x: str, y: str) -> tuple[str, str]:
    """numpy's divmod of floats. The remainder is exact while |x / y| < 2**53 (the quotient is taken in f64)."""
    a, b = cast(body, x, dtype, F64), cast(body, y, dtype, F64)
    zero, infinity = constant(body, 0.0, F64), constant(body, float("inf"), F64)
    ratio = body.emit(f"arith.divf {a}, {b} : f64")
    minus = body.emit(f"arith.negf {body.emit(f'math.trunc {ratio} : f64')} : f64")
    rest = body.emit(f"math.fma {minus}, {b}, {a} : f64")
    # The rounded quotient may be one too large: the rest then has the wrong sign.
    step = body.emit(f"math.copysign {b}, {a} : f64")
    wrong = compare(body, F64, "lt", body.emit(f"arith.mulf {rest}, {a} : f64"), zero)
    rest = select(body, F64, wrong, body.emit(f"arith.addf {rest}, {step} : f64"), rest)
    size_a, size_b = body.emit(f"math.absf {a} : f64"), body.emit(f"math.absf {b} : f64")
    # A smaller dividend is its own remainder; this also covers an infinite divisor.
    rest = select(body, F64, compare(body, F64, "lt", size_a, size_b), a, rest)
    rest = select(body, F64, compare(body, F64, "eq", size_a, infinity), constant(body, float("nan"), F64), rest)
    negative_b = compare(body, F64, "lt", b, zero)
    negative_rest = compare(body, F64, "lt", rest, zero)
    inexact = compare(body, F64, "ne", rest, zero)
    differs = body.emit(f"arith.xori {negative_b}, {negative_rest} : i1")
    fix = body.emit(f"arith.andi {differs}, {inexact} : i1")
    modulo = select(body, F64, fix, body.emit(f"arith.addf {rest}, {b} : f64"), rest)
    modulo = select(body, F64, inexact, modulo, body.emit(f"math.copysign {zero}, {b} : f64"))
    exact = body.emit(f"arith.divf {body.emit(f'arith.subf {a}, {modulo} : f64')}, {b} : f64")
    quotient = body.emit(f"math.roundeven {exact} : f64")
    by_zero = compare(body, F64, "eq", b, zero)
    quotient = select(body, F64, by_zero, ratio, quotient)
    return cast(body, quotient, F64, dtype), cast(body, modulo, F64, dtype)


def floor_divide(body: Body, dtype: DType, x: str, y: str) -> str:
    return (_float_divmod if dtype.is_float else _integer_divmod)(body, dtype, x, y)[0]


def remainder(body: Body, dtype: DType, x: str, y: str) -> str:
    return (_float_divmod if dtype.is_float else _integer_divmod)(body, dtype, x, y)[1]


def truncated_remainder(body: Body, dtype: DType, x: str, y: str) -> str:
    """C's fmod and %: the sign of the dividend; integers by 0 give 0."""
    if dtype.is_float:
        return body.emit(f"arith.remf {x}, {y} : {dtype.mlir}")
    safe, _, _ = _safe_divisor(body, dtype, y)
    return body.emit(f"arith.rem{'s' if dtype.kind == 'i' else 'u'}i {x}, {safe} : {dtype.mlir}")


def power(body: Body, dtype: DType, x: str, y: str) -> str:
    """math.powf; integers by squaring over all bits of the exponent."""
    if dtype.is_float:
        return body.emit(f"math.powf {x}, {y} : {dtype.mlir}")
    one = constant(body, 1, dtype)
    total, bits = one, dtype.bits - (dtype.kind == "i")
    for bit in range(bits):
        shifted = body.emit(f"arith.shrui {y}, {constant(body, bit, dtype)} : {dtype.mlir}")
        is_set = body.emit(f"arith.trunci {shifted} : {dtype.mlir} to i1")
        more = body.emit(f"arith.muli {total}, {x} : {dtype.mlir}")
        total = select(body, dtype, is_set, more, total)
        if bit + 1 < bits:
            x = body.emit(f"arith.muli {x}, {x} : {dtype.mlir}")
    return total


def integer_power(exponent: int) -> Callable[..., str]:
    """x ** exponent for a small known exponent, by multiplications."""

    def formula(body: Body, dtype: DType, x: str) -> str:
        op = "arith.mulf" if dtype.is_float else "arith.muli"
        total, n = None, abs(exponent)
        while n:
            if n & 1:
                total = x if total is None else body.emit(f"{op} {total}, {x} : {dtype.mlir}")
            n >>= 1
            x = body.emit(f"{op} {x}, {x} : {dtype.mlir}") if n else x
        total = total or constant(body, 1, dtype)
        return total if exponent >= 0 else reciprocal(body, dtype, total)

    return formula


def reciprocal(body: Body, dtype: DType, x: str) -> str:
    return body.emit(f"arith.divf {constant(body, 1.0, dtype)}, {x} : {dtype.mlir}")


def rsqrt(body: Body, dtype: DType, x: str) -> str:
    return reciprocal(body, dtype, math("sqrt")(body, dtype, x))


def left_shift(body: Body, dtype: DType, x: str, y: str) -> str:
    """0 when all bits are shifted out (arith.shli is undefined there)."""
    zero, bits = constant(body, 0, dtype), constant(body, dtype.bits - 1, dtype)
    inside = body.emit(f"arith.cmpi ule, {y}, {bits} : {dtype.mlir}")
    shifted = body.emit(f"arith.shli {x}, {select(body, dtype, inside, y, zero)} : {dtype.mlir}")
    return select(body, dtype, inside, shifted, zero)


def right_shift(body: Body, dtype: DType, x: str, y: str) -> str:
    """0 or -1 when all bits are shifted out."""
    zero, bits = constant(body, 0, dtype), constant(body, dtype.bits - 1, dtype)
    inside = body.emit(f"arith.cmpi ule, {y}, {bits} : {dtype.mlir}")
    amount = select(body, dtype, inside, y, bits)
    op = "shrsi" if dtype.kind == "i" else "shrui"
    shifted = body.emit(f"arith.{op} {x}, {amount} : {dtype.mlir}")
    return shifted if dtype.kind == "i" else select(body, dtype, inside, shifted, zero)


def negative(body: Body, dtype: DType, x: str) -> str:
    if dtype.is_float:
        return body.emit(f"arith.negf {x} : {dtype.mlir}")
    return body.emit(f"arith.subi {constant(body, 0, dtype)}, {x} : {dtype.mlir}")


def absolute(body: Body, dtype: DType, x: str) -> str:
    if dtype.is_float:
        return math("absf")(body, dtype, x)
    if dtype.kind in "ub":
        return x
    return select(body, dtype, compare(body, dtype, "lt", x, constant(body, 0, dtype)), negative(body, dtype, x), x)


def sign(body: Body, dtype: DType, x: str) -> str:
    """-1, 0 or 1; NaN stays NaN."""
    zero, one = constant(body, 0, dtype), constant(body, 1, dtype)
    out = select(body, dtype, compare(body, dtype, "gt", x, zero), one, zero)
    if dtype.kind == "u":
        return out
    out = select(body, dtype, compare(body, dtype, "lt", x, zero), constant(body, -1, dtype), out)
    return select(body, dtype, compare(body, dtype, "ne", x, x), x, out) if dtype.is_float else out


def sigmoid(body: Body, dtype: DType, x: str) -> str:
    grown = math("exp")(body, dtype, negative(body, dtype, x))
    return reciprocal(body, dtype, body.emit(f"arith.addf {grown}, {constant(body, 1.0, dtype)} : {dtype.mlir}"))


def silu(body: Body, dtype: DType, x: str) -> str:
    return body.emit(f"arith.mulf {x}, {sigmoid(body, dtype, x)} : {dtype.mlir}")


def _scale(body: Body, dtype: DType, x: str, factor: float) -> str:
    return body.emit(f"arith.mulf {x}, {constant(body, factor, dtype)} : {dtype.mlir}")


def gelu(approximate: bool) -> Callable[..., str]:
    """x/2 (1 + erf(x/sqrt 2)), or its tanh form (Hendrycks & Gimpel 2016, sections 1 and 2)."""

    def formula(body: Body, dtype: DType, x: str) -> str:
        if approximate:
            cubed = body.emit(f"arith.mulf {integer_power(2)(body, dtype, x)}, {x} : {dtype.mlir}")
            inner = body.emit(f"arith.addf {x}, {_scale(body, dtype, cubed, 0.044715)} : {dtype.mlir}")
            gate = math("tanh")(body, dtype, _scale(body, dtype, inner, 0.7978845608028654))
        else:
            gate = math("erf")(body, dtype, _scale(body, dtype, x, 0.7071067811865476))
        gate = body.emit(f"arith.addf {gate}, {constant(body, 1.0, dtype)} : {dtype.mlir}")
        return body.emit(f"arith.mulf {_scale(body, dtype, x, 0.5)}, {gate} : {dtype.mlir}")

    return formula
