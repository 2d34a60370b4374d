"""The `math` dialect on arrays: float64 functions of numpy and C, rounded once when strict.

The error of a float64 function is far below half an ulp of f32, so a strict f32 result is the
correctly rounded one but for ties closer than that error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from deepseek.reference.arith import maximum, minimum
from deepseek.reference.interpreter import Node, operation
from deepseek.reference.numerics import fused_multiply_add, signed, unsigned


def _elementwise(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the C library that numpy lacks."""
    table = np.frompyfunc(function, 1, 1)
    return lambda x: np.asarray(table(x)).astype(np.float64)


UNARY: dict[str, Callable] = {
    "math.absf": np.abs,
    "math.acos": np.arccos,
    "math.acosh": np.arccosh,
    "math.asin": np.arcsin,
    "math.asinh": np.arcsinh,
    "math.atan": np.arctan,
    "math.atanh": np.arctanh,
    "math.cbrt": np.cbrt,
    "math.ceil": np.ceil,
    "math.cos": np.cos,
    "math.cosh": np.cosh,
    "math.erf": _elementwise(math.erf),
    "math.erfc": _elementwise(math.erfc),
    "math.exp": np.exp,
    "math.exp2": np.exp2,
    "math.expm1": np.expm1,
    "math.floor": np.floor,
    "math.log": np.log,
    "math.log10": np.log10,
    "math.log1p": np.log1p,
    "math.log2": np.log2,
    "math.round": lambda x: np.copysign(np.floor(np.abs(x)) + (np.abs(x) - np.floor(np.abs(x)) >= 0.5), x),
    "math.roundeven": np.rint,
    "math.rsqrt": lambda x: 1.0 / np.sqrt(x),
    "math.sin": np.sin,
    "math.sinh": np.sinh,
    "math.sqrt": np.sqrt,
    "math.tan": np.tan,
    "math.tanh": np.tanh,
    "math.trunc": np.trunc,
}

BINARY: dict[str, Callable] = {
    "math.atan2": np.arctan2,
    "math.copysign": np.copysign,
    "math.powf": np.power,
}


@operation(*UNARY)
def unary(node: Node) -> np.ndarray:
    return node.result(UNARY[node.name](np.asarray(node.operands[0], np.float64)))


@operation(*BINARY)
def binary(node: Node) -> np.ndarray:
    a, b = (np.asarray(x, np.float64) for x in node.operands)
    return node.result(BINARY[node.name](a, b))


@operation("math.sincos")
def sincos(node: Node) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(node.operands[0], np.float64)
    return node.result(np.sin(x)), node.result(np.cos(x), 1)


@operation("math.fma")
def fma(node: Node) -> np.ndarray:
    return node.result(fused_multiply_add(*node.operands, node.result_element()))


@operation("math.clampf")
def clampf(node: Node) -> np.ndarray:
    value, low, high = (np.asarray(x, np.float64) for x in node.operands)
    return node.result(minimum(maximum(value, low), high))


@operation("math.fpowi")
def fpowi(node: Node) -> np.ndarray:
    base, exponent = node.operands
    return node.result(np.power(np.asarray(base, np.float64), signed(exponent).astype(np.float64)))


@operation("math.ipowi")
def ipowi(node: Node) -> np.ndarray:
    """Integer power, wrapping; a negative exponent gives 1 / base^|exponent| truncated to an integer."""
    base, exponent = (signed(x) for x in node.operands)
    base, exponent = np.broadcast_arrays(base, exponent)
    result, square, rest = np.ones_like(base), base.copy(), np.maximum(exponent, 0)
    while np.any(rest):
        result = np.where(rest & 1, result * square, result)
        square, rest = square * square, rest >> 1
    odd_sign = np.where(exponent & 1, -1, 1)
    inverse = np.where(base == 1, 1, np.where(base == -1, odd_sign, 0))
    return node.result(np.where(exponent < 0, inverse, result))


@operation("math.absi")
def absi(node: Node) -> np.ndarray:
    return node.result(np.abs(signed(node.operands[0])))


@operation("math.ctpop", "math.ctlz", "math.cttz")
def count_bits(node: Node) -> np.ndarray:
    element = node.result_element()
    counts = {
        "math.ctpop": lambda v: v.bit_count(),
        "math.ctlz": lambda v: element.width - v.bit_length(),
        "math.cttz": lambda v: (v & -v).bit_length() - 1 if v else element.width,
    }
    table = np.frompyfunc(lambda v: counts[node.name](int(v)), 1, 1)
    return node.result(np.asarray(table(unsigned(node.operands[0], element))).astype(np.int64))


CLASSES: dict[str, Callable] = {
    "math.isfinite": np.isfinite,
    "math.isinf": np.isinf,
    "math.isnan": np.isnan,
}


@operation(*CLASSES)
def classify(node: Node) -> np.ndarray:
    return np.asarray(CLASSES[node.name](np.asarray(node.operands[0], np.float64)))
