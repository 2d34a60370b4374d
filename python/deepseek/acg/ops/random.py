"""Random arrays from a seed: the same seed gives the same numbers for any number of threads and on any target.

Element i of stream k is a hash of (seed, k, i): SplitMix64 (Steele, Lea and Flood 2014), whose output function is
applied to a counter.
"""

from __future__ import annotations

import math
from typing import Any

from ..array import Array, as_array, describe, function
from ..dtypes import F32, F64, I64, U64, DType, parse
from ..source import fail
from . import elementwise
from .create import arange
from .layout import broadcast_to, reshape
from .pointwise import convert

_GAMMA = 0x9E3779B97F4A7C15


def _mix(z: Array) -> Array:
    """The output function of SplitMix64."""
    z = elementwise.multiply(elementwise.bitwise_xor(z, elementwise.right_shift(z, 30)), _wide(0xBF58476D1CE4E5B9))
    z = elementwise.multiply(elementwise.bitwise_xor(z, elementwise.right_shift(z, 27)), _wide(0x94D049BB133111EB))
    return elementwise.bitwise_xor(z, elementwise.right_shift(z, 31))


def _wide(value: int) -> Array:
    import numpy as np

    return as_array(np.uint64(value & (2**64 - 1)))


@function
def random_bits(seed: Any, shape: Any, stream: int = 0) -> Array:
    """uint64 of a shape, each value as likely. seed: an int64 array of no dims; streams are independent."""
    seed = as_array(seed)
    if seed.ndim or seed.type.kind not in "iu":
        fail(f"a seed must be one integer, got {describe(seed)}")
    key = _mix(elementwise.add(convert(seed, U64), _wide((stream + 1) * _GAMMA)))
    count: Any = 1
    for n in shape:
        count = n * count
    counter = elementwise.multiply(convert(arange(count), U64), _wide(_GAMMA))
    return reshape(_mix(elementwise.add(counter, broadcast_to(key, (count,)))), tuple(shape))


@function
def random_uniform(seed: Any, shape: Any, dtype: Any = "f32", stream: int = 0) -> Array:
    """Floats in [0, 1), multiples of 2^-24 (of 2^-53 in float64)."""
    wanted = parse(dtype)
    inner = F64 if wanted is F64 else F32
    digits = 53 if inner is F64 else 24
    bits = elementwise.right_shift(random_bits(seed, shape, stream), 64 - digits)
    return convert(elementwise.multiply(convert(convert(bits, I64), inner), 2.0**-digits), wanted)


@function
def random_normal(seed: Any, shape: Any, dtype: Any = "f32", stream: int = 0) -> Array:
    """Floats of the standard normal distribution (Box and Muller 1958)."""
    wanted = parse(dtype)
    inner: DType = F64 if wanted is F64 else F32
    radius, angle = (random_uniform(seed, shape, inner, 2 * stream + i + (1 << 32)) for i in (0, 1))
    length = elementwise.sqrt(elementwise.multiply(elementwise.log(elementwise.subtract(1.0, radius)), -2.0))
    return convert(elementwise.multiply(length, elementwise.cos(elementwise.multiply(angle, 2 * math.pi))), wanted)


@function
def random_integers(seed: Any, low: int, high: int, shape: Any, dtype: Any = "i64", stream: int = 0) -> Array:
    """Integers in [low, high)."""
    if not low < high:
        fail(f"random_integers needs low < high, got {low} and {high}")
    bits = elementwise.right_shift(random_bits(seed, shape, stream), 1)  # a remainder is off by 2^-31 for 2^32 values
    return convert(elementwise.add(elementwise.remainder(convert(bits, I64), high - low), low), parse(dtype))
