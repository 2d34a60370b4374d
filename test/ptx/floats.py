"""Float formats and roundings in numpy: what numpy rounds right is left to it, the rest is done on float64.

bfloat16 values travel as uint16, fp8 values as uint8. Sources: PTX ISA, 'cvt' and 'Floating Point Instructions'; the
fp8 encodings are those of Micikevicius et al. 2022, 'FP8 Formats for Deep Learning', table 1.
"""

from __future__ import annotations

import numpy as np

# name: (explicit mantissa bits, smallest normal exponent, largest finite value)
FORMATS = {
    "f16": (10, -14, 65504.0),
    "bf16": (7, -126, (2 - 2.0**-7) * 2.0**127),
    "tf32": (10, -126, (2 - 2.0**-10) * 2.0**127),
    "f32": (23, -126, float(np.finfo(np.float32).max)),
    "e4m3": (3, -6, 448.0),
    "e5m2": (2, -14, 57344.0),
}
ROUNDERS = {"rn": np.rint, "rz": np.trunc, "rm": np.floor, "rp": np.ceil}


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(value: np.ndarray) -> np.ndarray:
    """Round to nearest even; NaN becomes 0x7FFF."""
    bits = value.view(np.uint32)
    out = ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(value)
    if nan.any():
        out[nan] = 0x7FFF
    return out


def odd_to_f32(value: np.ndarray) -> np.ndarray:
    """float64 to float32, inexact results made odd, so that a second rounding to fewer bits is right."""
    out = value.astype(np.float32)
    off = out.astype(np.float64) != value
    off &= np.isfinite(value)
    if off.any():
        bits = out.view(np.uint32)
        away = off & (np.abs(out.astype(np.float64)) > np.abs(value))
        out = ((bits - away.astype(np.uint32)) | off.astype(np.uint32)).view(np.float32)
    return out


def f64_to_bf16(value: np.ndarray) -> np.ndarray:
    return f32_to_bf16(odd_to_f32(value))


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float64 values whose product is exact, rounded to odd: a second rounding gives the fused result."""
    product = a * b
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)  # Knuth's two-sum
    off = (error != 0) & np.isfinite(total)
    if off.any():
        bits = total.view(np.uint64)
        toward = off & ((error > 0) != (total > 0))  # the exact value is nearer to zero
        total = ((bits - toward.astype(np.uint64)) | off.astype(np.uint64)).view(np.float64)
    return total


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Fused multiply-add of float32, rounded once to nearest even."""
    x, y, z = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    total = x * y
    total += z
    out = total.astype(np.float32)
    # Twice rounded is wrong only if the first result lies half way between two float32, or below the normal range.
    risk = (total.view(np.uint64) & np.uint64(0x1FFFFFFF)) == np.uint64(0x10000000)
    risk |= np.abs(out) < np.float32(2.0**-125)
    if np.count_nonzero(risk):
        out[risk] = fma64(x[risk], y[risk], z[risk]).astype(np.float32)
    return out


def quantize(value: np.ndarray, name: str, mode: str = "rn") -> np.ndarray:
    """Rounds float64 values to a format, still as float64; overflow follows IEEE 754 (infinity, or the largest)."""
    mantissa, low, largest = FORMATS[name]
    _, exponent = np.frexp(value)
    quantum = np.ldexp(1.0, np.maximum(exponent - 1, low) - mantissa)
    finite = np.isfinite(value)
    out = np.where(finite, ROUNDERS[mode](np.where(finite, value, 0) / quantum) * quantum, value)
    over = finite & (np.abs(out) > largest)
    if over.any():
        down = {"rn": False, "rz": True}.get(mode)
        keeps = (value < 0) == (mode == "rp") if down is None else down
        out = np.where(over, np.copysign(np.where(keeps, largest, np.inf), value), out)
    return np.copysign(out, value)


def encode_float(value: np.ndarray, name: str) -> np.ndarray:
    """Bits of float64 values that the format represents; NaN becomes the canonical NaN."""
    nan = np.isnan(value)
    if name == "f16":
        return np.where(nan, np.uint16(0x7FFF), value.astype(np.float16).view(np.uint16))
    if name in ("bf16", "tf32", "f32"):
        bits = np.where(nan, np.uint32(0x7FFFFFFF), value.astype(np.float32).view(np.uint32))
        return (bits >> np.uint32(16)).astype(np.uint16) if name == "bf16" else bits
    mantissa, low, largest = FORMATS[name]
    sign = np.signbit(value).astype(np.uint8) << np.uint8(7)
    size = np.abs(np.where(np.isfinite(value), value, 0))
    _, exponent = np.frexp(size)
    scale = np.maximum(exponent - 1, low)
    steps = (size / np.ldexp(1.0, scale - mantissa)).astype(np.int64)
    code = steps + np.where(steps >= 1 << mantissa, (scale - low) << mantissa, 0)
    infinite = 0x7F if name == "e4m3" else 0x7C
    code = np.where(np.isinf(value), infinite, code)
    return np.where(nan, np.uint8(0x7F), code.astype(np.uint8) | sign)


def decode_table(name: str) -> np.ndarray:
    """The 256 values of an fp8 format."""
    mantissa, low, _ = FORMATS[name]
    codes = np.arange(256)
    exponent, fraction = codes >> mantissa & (0x7F >> mantissa), codes & ((1 << mantissa) - 1)
    scaled = np.where(exponent > 0, fraction + (1 << mantissa), fraction)
    value = np.ldexp(scaled.astype(np.float64), np.maximum(exponent, 1) - 1 + low - mantissa)
    value = np.where(codes & 0x80, -value, value)
    if name == "e4m3":
        return np.where((codes & 0x7F) == 0x7F, np.nan, value)
    top = exponent == 0x7F >> mantissa
    return np.where(top, np.where(fraction > 0, np.nan, np.copysign(np.inf, value)), value)


TABLES = {name: decode_table(name) for name in ("e4m3", "e5m2")}


def flush(value: np.ndarray) -> np.ndarray:
    """Subnormal float32 values as zeros of their sign."""
    small = np.abs(value) < np.float32(2.0**-126)
    return np.where(small, np.copysign(np.float32(0), value), value) if np.count_nonzero(small) else value
