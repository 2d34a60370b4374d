"""Elementwise operations of ATen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek import ACG

from ..pairs import PARTS, Complex
from ..registry import aten

_UNARY = {
    "abs": "abs", "neg": "negative", "negative": "negative", "exp": "exp", "exp2": "exp2", "expm1": "expm1",
    "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "reciprocal": "reciprocal", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "arcsin": "arcsin",
    "acos": "arccos", "arccos": "arccos", "atan": "arctan", "arctan": "arctan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "asinh": "arcsinh", "arcsinh": "arcsinh", "acosh": "arccosh", "arccosh": "arccosh",
    "atanh": "arctanh", "arctanh": "arctanh", "erf": "erf", "special_erf": "erf", "erfc": "erfc",
    "special_erfc": "erfc", "sigmoid": "sigmoid", "special_expit": "sigmoid", "silu": "silu", "relu": "relu",
    "floor": "floor", "ceil": "ceil", "trunc": "trunc", "fix": "trunc", "sign": "sign", "sgn": "sign",
    "square": "square", "isnan": "isnan", "isinf": "isinf", "isfinite": "isfinite", "bitwise_not": "bitwise_not",
    "logical_not": "logical_not", "special_exp2": "exp2", "special_expm1": "expm1", "special_log1p": "log1p",
}  # fmt: skip

_BINARY = {
    "mul": "multiply", "multiply": "multiply", "true_divide": "true_divide",
    "remainder": "remainder", "fmod": "fmod", "floor_divide": "floor_divide", "maximum": "maximum",
    "minimum": "minimum", "atan2": "arctan2", "arctan2": "arctan2", "copysign": "copysign", "eq": "equal",
    "ne": "not_equal", "not_equal": "not_equal", "lt": "less", "less": "less", "le": "less_equal",
    "less_equal": "less_equal", "gt": "greater", "greater": "greater", "ge": "greater_equal",
    "greater_equal": "greater_equal", "logical_and": "logical_and", "logical_or": "logical_or",
    "logical_xor": "logical_xor", "bitwise_and": "bitwise_and", "bitwise_or": "bitwise_or",
    "bitwise_xor": "bitwise_xor", "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor",
    "bitwise_left_shift": "left_shift", "bitwise_right_shift": "right_shift", "__lshift__": "left_shift",
    "__rshift__": "right_shift",
}  # fmt: skip


def _register_simple() -> None:
    def unary(fn: Any) -> Any:
        return lambda self: fn(self)

    def binary(fn: Any) -> Any:
        return lambda self, other: fn(self, other)

    for name, function in _UNARY.items():
        aten(name)(unary(getattr(ACG, function)))
    for name, function in _BINARY.items():
        aten(name)(binary(getattr(ACG, function)))


_register_simple()


@aten("add")
def add(self: Any, other: Any, alpha: Any = 1) -> Any:
    return ACG.add(self, other if alpha == 1 else ACG.multiply(other, alpha))


@aten("sub", "subtract")
def sub(self: Any, other: Any, alpha: Any = 1) -> Any:
    return ACG.subtract(self, other if alpha == 1 else ACG.multiply(other, alpha))


@aten("rsub")
def rsub(self: Any, other: Any, alpha: Any = 1) -> Any:
    return sub(other, self, alpha)


@aten("div", "divide")
def div(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return ACG.floor_divide(self, other)
    if rounding_mode == "trunc":
        if not _is_float(self) and not _is_float(other):
            rest = ACG.fmod(self, other)
            return ACG.floor_divide(ACG.subtract(self, rest), other)
        return ACG.trunc(ACG.true_divide(self, other))
    return ACG.true_divide(self, other)


def _is_float(x: Any) -> bool:
    return x.type.is_float if isinstance(x, ACG.Array) else isinstance(x, float)


@aten("pow")
def power(self: Any, exponent: Any) -> Any:
    return ACG.power(self, exponent)


@aten("float_power")
def float_power(self: Any, exponent: Any) -> Any:
    return ACG.power(*(v.astype("float64") if isinstance(v, ACG.Array) else float(v) for v in (self, exponent)))


@aten("round")
def round_(self: Any, decimals: int = 0) -> Any:
    return ACG.round(self, decimals)


@aten("fmax")
def fmax(self: Any, other: Any) -> Any:
    return ACG.where(ACG.isnan(self), other, ACG.where(ACG.isnan(other), self, ACG.maximum(self, other)))


@aten("fmin")
def fmin(self: Any, other: Any) -> Any:
    return ACG.where(ACG.isnan(self), other, ACG.where(ACG.isnan(other), self, ACG.minimum(self, other)))


@aten("hypot")
def hypot(self: Any, other: Any) -> Any:
    """Scaled by the larger side, so that nothing overflows on the way."""
    a, b = ACG.abs(self), ACG.abs(other)
    top, low = ACG.maximum(a, b), ACG.minimum(a, b)
    ratio = ACG.true_divide(low, ACG.where(ACG.logical_or(ACG.equal(top, 0), ACG.isinf(top)), 1.0, top))
    return ACG.where(ACG.isinf(top), top, ACG.multiply(top, ACG.sqrt(ACG.add(ACG.multiply(ratio, ratio), 1))))


@aten("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def where(condition: Any, self: Any, other: Any) -> Any:
    return ACG.where(condition, self, other)


@aten("masked_fill")
def masked_fill(self: Any, mask: Any, value: Any) -> Any:
    if isinstance(value, ACG.Array):
        value = value.astype(self.type)
    elif not self.type.is_float:
        value = int(value)
    return ACG.where(mask, value, self).astype(self.type)


@aten("clamp", "clip")
def clamp(self: Any, min: Any = None, max: Any = None) -> Any:
    return ACG.clip(self, min, max)


@aten("clamp_min")
def clamp_min(self: Any, min: Any) -> Any:
    return ACG.maximum(self, min)


@aten("clamp_max")
def clamp_max(self: Any, max: Any) -> Any:
    return ACG.minimum(self, max)


@aten("gelu")
def gelu(self: Any, approximate: str = "none") -> Any:
    return ACG.gelu(self, approximate)


@aten("signbit")
def signbit(self: Any) -> Any:
    if not self.type.is_float:
        return ACG.less(self, 0)
    return ACG.less(ACG.copysign(ACG.ones_like(self), self), 0)


@aten("frac")
def frac(self: Any) -> Any:
    return ACG.subtract(self, ACG.trunc(self))


@aten("logit")
def logit(self: Any, eps: float | None = None) -> Any:
    x = self if eps is None else ACG.clip(self, eps, 1 - eps)
    return ACG.log(ACG.true_divide(x, ACG.subtract(1, x)))


def _of_dtype(x: Any, dtype: Any) -> Any:
    return Complex.of(x.astype(PARTS[dtype])) if dtype in PARTS else x.astype(dtype)


@aten("_to_copy", "to.dtype", "to.device", "to.dtype_layout", "to.other", "to.prim_dtype", "type_as")
def to(self: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    for value in (dtype, *args):
        if isinstance(value, ACG.Array):
            return self.astype(value.type)
        if type(value).__name__ == "dtype":
            return _of_dtype(self, value)
    return self


@aten(
    "clone", "alias", "alias_copy", "contiguous", "detach", "detach_copy", "lift", "lift_fresh", "lift_fresh_copy",
    "conj", "_conj", "conj_physical", "resolve_conj", "resolve_neg", "real", "positive", "prims::view_of",
)  # fmt: skip
def same(self: Any, **options: Any) -> Any:
    return self


@aten("copy")
def copy(self: Any, src: Any, non_blocking: bool = False) -> Any:
    return ACG.broadcast_to(src.astype(self.type), self.shape)


@aten("prims::convert_element_type")
def convert_element_type(a: Any, dtype: Any) -> Any:
    return _of_dtype(a, dtype)


@aten("nextafter")
def nextafter(self: Any, other: Any) -> Any:
    return ACG.nextafter(self, other)


@aten("frexp", "prims::frexp")
def frexp(self: Any) -> Any:
    return ACG.frexp(self)


@aten("angle")
def angle(self: Any) -> Any:
    """Of real numbers: 0, pi for negative ones, NaN for NaN."""
    x = self if self.type.is_float else self.astype("float32")
    return ACG.where(ACG.isnan(x), x, ACG.where(ACG.less(x, 0), math.pi, 0.0).astype(x.type))


@aten("isposinf")
def isposinf(self: Any) -> Any:
    return ACG.equal(self, math.inf) if self.type.is_float else ACG.zeros_like(self, np.bool_)


@aten("isneginf")
def isneginf(self: Any) -> Any:
    return ACG.equal(self, -math.inf) if self.type.is_float else ACG.zeros_like(self, np.bool_)
