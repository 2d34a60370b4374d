"""Orthogonal polynomials in f64: DLMF chapter 18."""

from __future__ import annotations

import math
from typing import Any

from deepseek.acg.ops.formula import Scalar

from .special import register

_NAN = math.nan


def _chebyshev(kind: str) -> Any:
    """DLMF 18.5.1 to 18.5.4, continued outside of [-1, 1] by hyperbolic functions; 0 for a negative degree."""

    def polynomials(x: Scalar, n: Scalar) -> Scalar:
        n = n.trunc()
        clipped = (abs(x) < 1.0).select(x, 0.0)
        angle = clipped.acos()
        size = (abs(x) > 1.0).select(abs(x), 2.0)
        grown = size.acosh()
        odd = (n * 0.5 - (n * 0.5).floor()) > 0.0
        flipped = (x < 0.0) & odd
        half, sign = n + 0.5, flipped.select(-1.0, n - n + 1.0)
        if kind == "t":
            inside, outside = (n * angle).cos(), sign * (n * grown).cosh()
            edge = sign
        elif kind == "u":
            inside = ((n + 1.0) * angle).sin() / angle.sin()
            outside = sign * ((n + 1.0) * grown).sinh() / grown.sinh()
            edge = sign * (n + 1.0)
        else:
            first = (half * angle).cos() / (angle * 0.5).cos()
            second = (half * angle).sin() / (angle * 0.5).sin()
            inside = first if kind == "v" else second
            low = (half * grown).cosh() / (grown * 0.5).cosh()
            high = (half * grown).sinh() / (grown * 0.5).sinh()
            right, left = (low, high) if kind == "v" else (high, low)
            outside = (x > 0.0).select(right, sign * left)
            one, many = n - n + 1.0, 2.0 * n + 1.0
            right, left = (one, many) if kind == "v" else (many, one)
            edge = (x > 0.0).select(right, sign * left)
        found = (abs(x) == 1.0).select(edge, (abs(x) < 1.0).select(inside, outside))
        return (n < 0.0).select(0.0, found)

    return polynomials


def _shifted_chebyshev(kind: str) -> Any:
    """Of 2 x - 1: DLMF 18.1.3."""
    plain = _chebyshev(kind)

    def polynomials(x: Scalar, n: Scalar) -> Scalar:
        return plain(2.0 * x - 1.0, n)

    return polynomials


_MOST_STEPS = 64


def _recurrence(first: Any, step: Any) -> Any:
    """Orthogonal polynomials by their three-term recurrence (DLMF 18.9.1), for degrees up to 64."""

    def polynomials(x: Scalar, n: Scalar) -> Scalar:
        n = n.trunc()
        before, value = x - x + 1.0, first(x)
        found = (n == 0.0).select(before, (n == 1.0).select(value, x - x))
        for k in range(1, _MOST_STEPS):
            before, value = value, step(x, float(k), before, value)
            found = (n == k + 1.0).select(value, found)
        return (n > float(_MOST_STEPS)).select(_NAN, found)

    return polynomials


_hermite_h = _recurrence(lambda x: 2.0 * x, lambda x, k, p, q: 2.0 * x * q - 2.0 * k * p)
_hermite_he = _recurrence(lambda x: x, lambda x, k, p, q: x * q - k * p)
_laguerre = _recurrence(lambda x: 1.0 - x, lambda x, k, p, q: ((2 * k + 1.0 - x) * q - k * p) / (k + 1.0))
_legendre = _recurrence(lambda x: x, lambda x, k, p, q: ((2 * k + 1.0) * x * q - k * p) / (k + 1.0))

for _kind in "tuvw":
    register((f"special_chebyshev_polynomial_{_kind}",), _chebyshev(_kind), 2)
    register((f"special_shifted_chebyshev_polynomial_{_kind}",), _shifted_chebyshev(_kind), 2)
register(("special_hermite_polynomial_h",), _hermite_h, 2)
register(("special_hermite_polynomial_he",), _hermite_he, 2)
register(("special_laguerre_polynomial_l",), _laguerre, 2)
register(("special_legendre_polynomial_p",), _legendre, 2)
