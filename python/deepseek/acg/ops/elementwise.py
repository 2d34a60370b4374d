"""The elementwise array functions: NumPy's names, broadcasting and promotion (torch's for torch programs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes
from ..array import Array, as_array, describe, function, joint_kind
from ..dtypes import BOOL, I64, DType
from ..source import fail
from . import scalar
from .pointwise import astype, common_type, operand, pointwise, weak_type

function(astype)


def _public(name: str, doc: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = doc
    return function(fn)


_FLOATING = (np.true_divide, np.arctan2, np.copysign)


def _arithmetic(name: str, ufunc: np.ufunc, formula: Callable[..., str], exact: bool = False) -> Callable[..., Any]:
    """A binary function whose operands and result have the type that `ufunc` gives."""

    def apply(a: Any, b: Any) -> Array:
        a, b = operand(a), operand(b)
        kind = joint_kind(a, b)
        if kind == "torch":
            result = common_type([a, b])
            result = dtypes.float_of(result, kind) if ufunc in _FLOATING else result
        else:
            result = dtypes.of_ufunc(ufunc, [weak_type(a), weak_type(b)], kind)
        scalars = exact and kind == "torch"
        compute = result.compute
        return pointwise(
            name, [a, b], [result, result], compute, result, lambda f, x, y: formula(f, compute, x, y), scalars
        )

    return _public(name, f"numpy.{name} of two arrays or numbers, broadcast.", apply)


def _comparison(name: str, predicate: str) -> Callable[..., Any]:
    def apply(a: Any, b: Any) -> Array:
        a, b = operand(a), operand(b)
        loop = common_type([a, b])
        for value in (a, b):
            if isinstance(value, int) and loop.kind in "iu" and not _fits(value, loop):
                loop = I64
        return pointwise(
            name, [a, b], [loop, loop], BOOL, BOOL, lambda f, x, y: scalar.compare(f, loop.compute, predicate, x, y)
        )

    return _public(name, f"numpy.{name}: a boolean array.", apply)


def _fits(value: int, dtype: DType) -> bool:
    info = np.iinfo(dtype.numpy)
    return info.min <= value <= info.max


def _logical(name: str, op: str) -> Callable[..., Any]:
    def apply(a: Any, b: Any) -> Array:
        return pointwise(
            name, [operand(a), operand(b)], [BOOL, BOOL], BOOL, BOOL,
            lambda f, x, y: f.emit(f"arith.{op} {x}, {y} : i1"),
        )  # fmt: skip

    return _public(name, f"numpy.{name}: a boolean array.", apply)


def _bitwise(name: str, ufunc: np.ufunc, formula: Callable[..., str]) -> Callable[..., Any]:
    def apply(a: Any, b: Any) -> Array:
        a, b = operand(a), operand(b)
        for value in (a, b):
            if isinstance(value, Array) and value.type.is_float:
                fail(f"{name} needs integers or booleans, got {describe(value)}")
        kind = joint_kind(a, b)
        result = common_type([a, b]) if kind == "torch" else dtypes.of_ufunc(ufunc, [weak_type(a), weak_type(b)], kind)
        return pointwise(name, [a, b], [result, result], result, result, lambda f, x, y: formula(f, result, x, y))

    return _public(name, f"numpy.{name} of integers or booleans.", apply)


add = _arithmetic("add", np.add, scalar.simple("addf", "addi", "ori"), exact=True)
subtract = _arithmetic("subtract", np.subtract, scalar.simple("subf", "subi"), exact=True)
multiply = _arithmetic("multiply", np.multiply, scalar.simple("mulf", "muli", "andi"), exact=True)
true_divide = _arithmetic("true_divide", np.true_divide, scalar.simple("divf", ""), exact=True)
floor_divide = _arithmetic("floor_divide", np.floor_divide, scalar.floor_divide)
remainder = _arithmetic("remainder", np.remainder, scalar.remainder)
minimum = _arithmetic("minimum", np.minimum, scalar.extreme("min"))
maximum = _arithmetic("maximum", np.maximum, scalar.extreme("max"))
_power = _arithmetic("power", np.power, scalar.power)
fmod = _arithmetic("fmod", np.fmod, scalar.truncated_remainder)
arctan2 = _arithmetic("arctan2", np.arctan2, scalar.binary_math("atan2"))
copysign = _arithmetic("copysign", np.copysign, scalar.binary_math("copysign"))
equal = _comparison("equal", "eq")
not_equal = _comparison("not_equal", "ne")
less = _comparison("less", "lt")
less_equal = _comparison("less_equal", "le")
greater = _comparison("greater", "gt")
greater_equal = _comparison("greater_equal", "ge")
logical_and = _logical("logical_and", "andi")
logical_or = _logical("logical_or", "ori")
logical_xor = _logical("logical_xor", "xori")
bitwise_and = _bitwise("bitwise_and", np.bitwise_and, scalar.simple("", "andi", "andi"))
bitwise_or = _bitwise("bitwise_or", np.bitwise_or, scalar.simple("", "ori", "ori"))
bitwise_xor = _bitwise("bitwise_xor", np.bitwise_xor, scalar.simple("", "xori", "xori"))
left_shift = _bitwise("left_shift", np.left_shift, scalar.left_shift)
right_shift = _bitwise("right_shift", np.right_shift, scalar.right_shift)


@function
def divide(a: Any, b: Any) -> Array:
    """numpy.divide (true division)."""
    return true_divide(a, b)


@function
def mod(a: Any, b: Any) -> Array:
    """numpy.remainder: the sign of the divisor."""
    return remainder(a, b)


@function
def power(a: Any, b: Any) -> Array:
    """a ** b; small integer exponents and 0.5 as multiplications and square roots."""
    if isinstance(a, Array) and isinstance(b, (int, float)) and not isinstance(b, bool):
        if a.type.kind in "iu" and isinstance(b, int) and b < 0:
            fail(f"integers ({describe(a)}) to the negative power {b} have no integer result", "cast with astype first")
        result = common_type([a, b])
        if b in range(-8, 9) and result.kind != "b":
            return _unary_as("power", a, result, scalar.integer_power(int(b)))
        if b == 0.5:
            return _unary_as("power", a, result, scalar.math("sqrt"))
    return _power(a, b)


def _unary_as(name: str, x: Array, dtype: DType, formula: Callable[..., str]) -> Array:
    return pointwise(name, [x], [dtype], dtype.compute, dtype, lambda f, v: formula(f, dtype.compute, v))


def _floating(name: str, formula: Callable[..., str], ufunc: np.ufunc = np.exp) -> Callable[..., Any]:
    """A unary function computed and returned in a float type."""

    def apply(x: Any) -> Array:
        x = as_array(x)
        return _unary_as(name, x, dtypes.float_of(x.type, x.kind, ufunc), formula)

    return _public(name, f"{name} of every element, in a float type.", apply)


exp = _floating("exp", scalar.math("exp"))
log = _floating("log", scalar.math("log"))
sqrt = _floating("sqrt", scalar.math("sqrt"))
sin = _floating("sin", scalar.math("sin"))
cos = _floating("cos", scalar.math("cos"))
tanh = _floating("tanh", scalar.math("tanh"))
erf = _floating("erf", scalar.math("erf"))
erfc = _floating("erfc", scalar.math("erfc"))
cbrt = _floating("cbrt", scalar.math("cbrt"), np.cbrt)
tan = _floating("tan", scalar.math("tan"))
arcsin = _floating("arcsin", scalar.math("asin"))
arccos = _floating("arccos", scalar.math("acos"))
arctan = _floating("arctan", scalar.math("atan"))
sinh = _floating("sinh", scalar.math("sinh"))
cosh = _floating("cosh", scalar.math("cosh"))
arcsinh = _floating("arcsinh", scalar.math("asinh"))
arccosh = _floating("arccosh", scalar.math("acosh"))
arctanh = _floating("arctanh", scalar.math("atanh"))
exp2 = _floating("exp2", scalar.math("exp2"))
expm1 = _floating("expm1", scalar.math("expm1"))
log2 = _floating("log2", scalar.math("log2"))
log10 = _floating("log10", scalar.math("log10"))
log1p = _floating("log1p", scalar.math("log1p"))
rsqrt = _floating("rsqrt", scalar.rsqrt)
reciprocal = _floating("reciprocal", scalar.reciprocal)
sigmoid = _floating("sigmoid", scalar.sigmoid)
silu = _floating("silu", scalar.silu)


@function
def gelu(x: Any, approximate: bool | str = False) -> Array:
    """Gaussian error linear unit; approximate (True or "tanh"): the tanh form."""
    x = as_array(x)
    return _unary_as("gelu", x, dtypes.float_of(x.type, x.kind), scalar.gelu(approximate not in (False, "none")))


@function
def relu(x: Any) -> Array:
    """max(x, 0); NaN stays."""
    return maximum(as_array(x), 0)


def _rounding(name: str, op: str) -> Callable[..., Any]:
    def apply(x: Any) -> Array:
        x = as_array(x)
        return _unary_as(name, x, x.type, scalar.math(op)) if x.type.is_float else x

    return _public(name, f"numpy.{name}; integers stay as they are.", apply)


floor = _rounding("floor", "floor")
ceil = _rounding("ceil", "ceil")
trunc = _rounding("trunc", "trunc")
_round_even = _rounding("rint", "roundeven")


@function
def round(x: Any, decimals: int = 0) -> Array:
    """Rounds half to even, at `decimals` digits as numpy does (scale, round, unscale)."""
    x = as_array(x)
    if not decimals or not x.type.is_float:
        return _round_even(x)
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    if decimals > 0:
        return true_divide(_round_even(multiply(x, scale)), scale)
    return multiply(_round_even(true_divide(x, scale)), scale)


def _signed(name: str, formula: Callable[..., str], ufunc: np.ufunc) -> Callable[..., Any]:
    def apply(x: Any) -> Array:
        x = as_array(x)
        return _unary_as(name, x, dtypes.of_ufunc(ufunc, [x.type], "numpy"), formula)

    return _public(name, f"numpy.{name}.", apply)


negative = _signed("negative", scalar.negative, np.negative)
abs = _signed("abs", scalar.absolute, np.absolute)
sign = _signed("sign", scalar.sign, np.sign)


@function
def square(x: Any) -> Array:
    """x * x."""
    return multiply(x, x)


@function
def bitwise_not(x: Any) -> Array:
    """~x of integers or booleans."""
    x = as_array(x)
    return bitwise_xor(x, True) if x.type is BOOL else bitwise_xor(x, -1 if x.type.kind == "i" else 2**x.type.bits - 1)


@function
def logical_not(x: Any) -> Array:
    """x == 0 as a boolean."""
    return logical_xor(x, True)


def _classify(name: str, formula: Callable[[Any, str, str], str], of_integers: bool) -> Callable[..., Any]:
    """isnan, isinf, isfinite: formula(body, mlir type, x)."""

    def apply(x: Any) -> Array:
        x = as_array(x)
        loop = x.type.compute if x.type.is_float else x.type
        return pointwise(
            name, [x], [x.type], BOOL, BOOL,
            lambda f, v: formula(f, loop, v) if loop.is_float else f.emit(f"arith.constant {str(of_integers).lower()}"),
        )  # fmt: skip

    return _public(name, f"numpy.{name}: a boolean array.", apply)


def _against_infinity(predicate: str) -> Callable[[Any, DType, str], str]:
    def formula(body: Any, dtype: DType, x: str) -> str:
        infinity = scalar.constant(body, float("inf"), dtype)
        return scalar.compare(body, dtype, predicate, scalar.absolute(body, dtype, x), infinity)

    return formula


isnan = _classify("isnan", lambda f, dtype, x: scalar.compare(f, dtype, "ne", x, x), False)
isinf = _classify("isinf", _against_infinity("eq"), False)
isfinite = _classify("isfinite", _against_infinity("lt"), True)


@function
def where(condition: Any, x: Any, y: Any) -> Array:
    """x where the condition holds, else y, broadcast over all three."""
    condition, x, y = operand(condition), operand(x), operand(y)
    result = common_type([x, y])
    narrow = [BOOL, result, result]
    # A choice rounds nothing, so 16-bit floats are not widened.
    return pointwise(
        "where", [condition, x, y], narrow, result.compute, result,
        lambda f, c, a, b: scalar.select(f, result.compute, c, a, b),
    )  # fmt: skip


@function
def clip(x: Any, lo: Any = None, hi: Any = None, *, min: Any = None, max: Any = None) -> Array:
    """min(max(x, lo), hi); None leaves a side open."""
    lo, hi = (min if lo is None else lo), (max if hi is None else hi)
    if lo is not None:
        x = maximum(x, lo)
    return x if hi is None else minimum(x, hi)
