"""The comparison that all tolerances of this project are stated in."""

from __future__ import annotations

import numpy as np


def compare(actual: np.ndarray, expected: np.ndarray, r: float) -> None:
    """Asserts that `actual` is within `r` of `expected`: max|a - b| <= r * max|b| per tensor.

    Shapes must be equal, NaN must stand at the same positions, infinities must be equal. The
    maxima are over the finite values. Pass r = 0 for integers and for exact results.
    Raises AssertionError that names the worst position and both values there.
    """
    a, b = np.asarray(actual), np.asarray(expected)
    if a.shape != b.shape:
        raise AssertionError(f"shapes differ: {list(a.shape)}, expected {list(b.shape)}")
    if a.size == 0:
        return
    if not _is_float(a) and not _is_float(b) and r == 0:
        _fail_at(a, b, a != b, "values differ")
        return
    a, b = a.astype(np.float64), b.astype(np.float64)
    _fail_at(a, b, np.isnan(a) != np.isnan(b), "NaN positions differ")
    infinite = np.isinf(a) | np.isinf(b)
    _fail_at(a, b, infinite & (a != b), "infinities differ")
    finite = np.isfinite(a) & np.isfinite(b)
    difference = np.abs(np.where(finite, a, 0.0) - np.where(finite, b, 0.0))
    largest = float(np.max(np.abs(np.where(finite, b, 0.0))))
    limit = r * largest
    worst = np.unravel_index(int(np.argmax(difference)), a.shape)
    if difference[worst] > limit:
        raise AssertionError(
            f"max|a - b| = {difference[worst]:.6g} > {limit:.6g} = {r:g} * max|b| ({largest:.6g}) "
            f"at index {[int(i) for i in worst]}: {float(a[worst])!r}, expected {float(b[worst])!r}; "
            f"{int(np.sum(difference > limit))} of {a.size} values are off"
        )


def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind not in "biu"


def _fail_at(a: np.ndarray, b: np.ndarray, wrong: np.ndarray, what: str) -> None:
    if not wrong.any():
        return
    index = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    raise AssertionError(
        f"{what} at index {[int(i) for i in index]}: {a[index]}, expected {b[index]}; "
        f"{int(wrong.sum())} of {wrong.size} values are off"
    )
