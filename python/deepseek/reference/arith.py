"""The `arith` dialect on arrays (MLIR 22 reference, "arith" dialect).

Where MLIR says poison or undefined, a fixed value is taken: x / 0 is 0 for integers, a float
out of range converts to the nearest integer and NaN to 0 (as llvm.fptosi.sat does), and a
shift by the width or more gives 0 (copies of the sign for shrsi).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepseek.reference.interpreter import Node, constant_array, operation
from deepseek.reference.numerics import Element, round_to, signed, unsigned, wrap


@operation("arith.constant")
def constant(node: Node) -> np.ndarray:
    element = node.result_element()
    return constant_array(node.op.attributes["value"]).astype(node.numerics.storage(element))


# --- floats: computed in float64, rounded once. That equals one rounding in f32, f16 and bf16 for
# --- + - * / (Figueroa 1995: 53 >= 2 p + 2).


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE 754-2019 maximum: NaN wins, +0 is above -0."""
    return np.where((a == 0) & (b == 0), a + b, np.maximum(a, b))


def minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE 754-2019 minimum: NaN wins, -0 is below +0."""
    return -maximum(-a, -b)


def _max_number(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((a == 0) & (b == 0), a + b, np.fmax(a, b))


FLOAT_BINARY: dict[str, Callable] = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.remf": np.fmod,  # C fmod: the sign of the dividend
    "arith.maximumf": maximum,
    "arith.minimumf": minimum,
    "arith.maxnumf": _max_number,
    "arith.minnumf": lambda a, b: -_max_number(-a, -b),
}


@operation(*FLOAT_BINARY)
def float_binary(node: Node) -> np.ndarray:
    a, b = (np.asarray(x, np.float64) for x in node.operands)
    return node.result(FLOAT_BINARY[node.name](a, b))


@operation("arith.negf")
def negf(node: Node) -> np.ndarray:
    return np.negative(node.operands[0])


# --- integers


def divide_toward_zero(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    quotient = np.floor_divide(a, b)
    return quotient + ((np.fmod(a, b) != 0) & ((a < 0) != (b < 0)))


SIGNED: dict[str, Callable] = {
    "arith.addi": np.add,
    "arith.subi": np.subtract,
    "arith.muli": np.multiply,
    "arith.divsi": divide_toward_zero,
    "arith.floordivsi": np.floor_divide,
    "arith.ceildivsi": lambda a, b: -np.floor_divide(-a, b),
    "arith.remsi": np.fmod,
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.shli": np.left_shift,
    "arith.shrsi": np.right_shift,
}

UNSIGNED: dict[str, Callable] = {
    "arith.divui": np.floor_divide,
    "arith.ceildivui": lambda a, b: np.floor_divide(a, b) + (np.remainder(a, b) != 0),
    "arith.remui": np.remainder,
    "arith.maxui": np.maximum,
    "arith.minui": np.minimum,
    "arith.shrui": np.right_shift,
}


@operation(*SIGNED)
def signed_binary(node: Node) -> np.ndarray:
    a, b = (signed(x) for x in node.operands)
    return node.result(SIGNED[node.name](a, b))


@operation(*UNSIGNED)
def unsigned_binary(node: Node) -> np.ndarray:
    element = node.result_element()
    a, b = (unsigned(x, element) for x in node.operands)
    return node.result(UNSIGNED[node.name](a, b))


@operation("arith.addui_extended", "arith.mului_extended", "arith.mulsi_extended")
def extended(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Sum and carry, or low and high half of the product, in Python integers of any size."""
    element = node.result_element()
    read = signed if node.name.endswith("mulsi_extended") else lambda x: unsigned(x, element)
    a, b = (read(x).astype(object) for x in node.operands)
    whole = np.asarray(a + b if "add" in node.name else a * b, object)
    mask = (1 << 64) - 1
    low, high = ((np.asarray(x & mask, object)).astype(np.uint64) for x in (whole, whole >> element.width))
    return node.result(low), node.result(high, 1)


# --- comparisons and selection; the order is that of the dialect's predicate enumerations

_INTEGER = [np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal]
INTEGER_PREDICATES = [(f, signed) for f in _INTEGER] + [(f, unsigned) for f in _INTEGER[2:]]
# Ordered predicates are false, unordered ones true when an operand is NaN.
FLOAT_PREDICATES: list[Callable] = [
    lambda a, b, nan: np.zeros_like(nan),
    lambda a, b, nan: (a == b) & ~nan,
    lambda a, b, nan: (a > b) & ~nan,
    lambda a, b, nan: (a >= b) & ~nan,
    lambda a, b, nan: (a < b) & ~nan,
    lambda a, b, nan: (a <= b) & ~nan,
    lambda a, b, nan: (a != b) & ~nan,
    lambda a, b, nan: ~nan,
    lambda a, b, nan: (a == b) | nan,
    lambda a, b, nan: (a > b) | nan,
    lambda a, b, nan: (a >= b) | nan,
    lambda a, b, nan: (a < b) | nan,
    lambda a, b, nan: (a <= b) | nan,
    lambda a, b, nan: (a != b) | nan,
    lambda a, b, nan: nan,
    lambda a, b, nan: np.ones_like(nan),
]


@operation("arith.cmpi")
def cmpi(node: Node) -> np.ndarray:
    compare, read = INTEGER_PREDICATES[node.attribute("predicate")]
    element = node.operand_element(0)
    a, b = (signed(x) if read is signed else unsigned(x, element) for x in node.operands)
    return np.asarray(compare(a, b))


@operation("arith.cmpf")
def cmpf(node: Node) -> np.ndarray:
    a, b = (np.asarray(x, np.float64) for x in node.operands)
    return np.asarray(FLOAT_PREDICATES[node.attribute("predicate")](a, b, np.isnan(a) | np.isnan(b)))


@operation("arith.select")
def select(node: Node) -> np.ndarray:
    condition, a, b = node.operands
    return np.where(condition, a, b)


# --- casts


@operation("arith.truncf", "arith.extf")
def float_cast(node: Node) -> np.ndarray:
    """Rounds to the written type in both modes; an extension is exact on a value of its operand's type."""
    return node.numerics.cast(node.operands[0], node.result_element())


@operation("arith.extsi", "arith.trunci", "arith.index_cast")
def signed_cast(node: Node) -> np.ndarray:
    return node.result(signed(node.operands[0]))


@operation("arith.extui", "arith.index_castui")
def unsigned_cast(node: Node) -> np.ndarray:
    return node.result(unsigned(node.operands[0], node.operand_element(0)))


@operation("arith.sitofp", "arith.uitofp")
def to_float(node: Node) -> np.ndarray:
    """Integers of up to 53 bits are exact in float64; longer ones go to f32 in one rounding."""
    x, element = node.operands[0], node.result_element()
    x = signed(x) if node.name == "arith.sitofp" else unsigned(x, node.operand_element(0))
    if node.numerics.strict and element.name == "f32":
        return x.astype(np.float32)
    return node.result(x.astype(np.float64))


def saturate(x: np.ndarray, element: Element, low: int, high: int) -> np.ndarray:
    """Truncates toward zero and clamps to [low, high]; NaN is 0."""
    x = np.trunc(np.asarray(x, np.float64))
    inside = (x >= low) & (x < high + 1)
    exact = np.where(inside, x, 0.0)
    # 2^63 and above do not fit int64: they go through uint64, whose bits are then read.
    whole = np.where(exact < 0, exact, 0).astype(np.int64).view(np.uint64) + np.where(exact > 0, exact, 0).astype(
        np.uint64
    )
    mask = (1 << 64) - 1
    whole = np.where(x >= high + 1, np.uint64(high & mask), np.where(x < low, np.uint64(low & mask), whole))
    return wrap(np.asarray(whole, np.uint64).view(np.int64), element)


@operation("arith.fptosi")
def fptosi(node: Node) -> np.ndarray:
    element = node.result_element()
    half = 1 << (element.width - 1)
    return saturate(node.operands[0], element, -half, half - 1)


@operation("arith.fptoui")
def fptoui(node: Node) -> np.ndarray:
    element = node.result_element()
    return saturate(node.operands[0], element, 0, (1 << element.width) - 1)


@operation("arith.bitcast")
def bitcast(node: Node) -> np.ndarray:
    """Reads the bits of a value (as its type stores it) as another type."""
    x = round_to(node.operands[0], node.operand_element(0))
    element = node.result_element()
    bits = np.ascontiguousarray(x).view(element.dtype).reshape(x.shape)
    return bits.astype(node.numerics.storage(element))
