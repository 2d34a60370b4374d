"""Element types as numpy holds them, and when a result is rounded.

Two modes. `float64`: every float is computed and kept in float64 whatever its type; only a
cast that the IR writes rounds. `strict`: every result is rounded to its type (to nearest,
ties to even, subnormals kept; IEEE 754-2019 section 4.3.1). Integers wrap at their width in
both modes. Signless integers are kept sign-extended in the numpy type of their width, i1 as
numpy bool, index as int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

FLOATS = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8E4M3FN": np.dtype(ml_dtypes.float8_e4m3fn),
    "f8E5M2": np.dtype(ml_dtypes.float8_e5m2),
}


@dataclass(frozen=True)
class Element:
    """An element type: `f64 f32 f16 bf16 f8E4M3FN f8E5M2`, `index`, or a signless integer `iN` with N <= 64."""

    name: str

    @property
    def is_float(self) -> bool:
        return self.name in FLOATS

    @property
    def width(self) -> int:
        """Bits of an integer type."""
        return 64 if self.name == "index" else int(self.name[1:])

    @property
    def dtype(self) -> np.dtype:
        """The numpy type that holds the element exactly."""
        if self.is_float:
            return FLOATS[self.name]
        if self.width == 1:
            return np.dtype(bool)
        return np.dtype(f"int{next(w for w in (8, 16, 32, 64) if w >= self.width)}")


def element_of(type_) -> Element:
    """The element type of an MLIR scalar or tensor type; ValueError for a type that is not covered."""
    name = str(getattr(type_, "element_type", type_))
    is_integer = name[0] == "i" and name[1:].isdigit() and int(name[1:]) <= 64
    if name not in FLOATS and name != "index" and not is_integer:
        raise ValueError(f"element type {name} is not covered by the reference interpreter")
    return Element(name)


def round_to(x: np.ndarray, element: Element) -> np.ndarray:
    """Rounds once to `element`, ties to even; returns its own numpy type.

    ml_dtypes converts float64 to its types through float32, which rounds twice; rounding to odd on
    the way keeps the one rounding that is wanted (Boldo and Melquiond 2008).
    """
    x = np.asarray(x)
    with np.errstate(over="ignore", invalid="ignore"):
        if element.dtype.kind != "V" or x.dtype != np.float64:
            return x.astype(element.dtype)
        nearest = x.astype(np.float32)
    back = nearest.astype(np.float64)
    inexact = (back != x) & np.isfinite(x) & np.isfinite(nearest)
    away_from_zero = inexact & (np.abs(back) > np.abs(x))
    bits = nearest.view(np.uint32) - away_from_zero.astype(np.uint32) | inexact.astype(np.uint32)
    return bits.view(np.float32).astype(element.dtype)


def wrap(x: np.ndarray, element: Element) -> np.ndarray:
    """Keeps the low bits of an integer array as the signless `element`."""
    x = np.asarray(x)
    if element.width == 1:
        return (x & 1).astype(bool)
    if element.width in (8, 16, 32, 64):
        return x.astype(element.dtype)
    shift = 64 - element.width
    return (x.astype(np.int64) << shift >> shift).astype(element.dtype)


def signed(x: np.ndarray) -> np.ndarray:
    """The values as int64, read as two's complement (i1: true is -1)."""
    x = np.asarray(x)
    return -x.astype(np.int64) if x.dtype == bool else x.astype(np.int64)


def unsigned(x: np.ndarray, element: Element) -> np.ndarray:
    """The values as uint64, read as unsigned integers of the element's width."""
    bits = np.asarray(x).astype(np.int64).view(np.uint64)
    return bits if element.width == 64 else bits & np.uint64((1 << element.width) - 1)


@dataclass(frozen=True)
class Numerics:
    """When results are rounded."""

    strict: bool

    def storage(self, element: Element) -> np.dtype:
        """The numpy type in which values of `element` are kept between operations."""
        return np.dtype(np.float64) if element.is_float and not self.strict else element.dtype

    def result(self, x: np.ndarray, element: Element) -> np.ndarray:
        """The result of an operation as it is kept: rounded (strict) or float64, integers wrapped."""
        if not element.is_float:
            return wrap(x, element)
        return round_to(x, element) if self.strict else np.asarray(x, np.float64)

    def cast(self, x: np.ndarray, element: Element) -> np.ndarray:
        """A float cast written in the IR: rounded in both modes."""
        return round_to(x, element).astype(self.storage(element))

    def accumulator(self, element: Element) -> np.dtype:
        """The type of inner computations of dsc operations: f32 for f16, bf16 and f32 when strict."""
        return np.dtype(np.float32) if self.strict and element.name != "f64" else np.dtype(np.float64)

    def sum(self, x: np.ndarray, axis: int) -> np.ndarray:
        """Sum along one axis in x's own type: first to last element when strict, else in any order."""
        if not self.strict:
            return np.sum(x, axis=axis)
        if x.shape[axis] == 0:
            return np.zeros(np.delete(x.shape, axis), x.dtype)
        return np.take(np.add.accumulate(x, axis=axis), -1, axis=axis)


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray, element: Element) -> np.ndarray:
    """a * b + c in float64, or rounded such that a second rounding to f32 or below is exact.

    The product of two numbers of at most 24 bits is exact in float64; the sum is rounded to odd
    with the error term of TwoSum (Knuth, TAOCP 2, 4.2.2), see Boldo and Melquiond 2008.
    """
    a, b, c = (np.asarray(v, np.float64) for v in (a, b, c))
    product = a * b
    total = product + c
    if element.name == "f64":
        return total
    virtual = total - product
    error = (product - (total - virtual)) + (c - virtual)
    even = (np.atleast_1d(total).view(np.int64).reshape(total.shape) & 1) == 0
    fix = np.isfinite(total) & np.isfinite(error) & (error != 0) & even
    return np.where(fix, np.nextafter(total, np.copysign(np.inf, error)), total)
