"""Incomplete gamma functions in f64: DLMF chapter 8."""

from __future__ import annotations

import math
from typing import Any

from deepseek import ACG
from deepseek.acg.ops.formula import Scalar

from ..registry import aten
from .special import lgamma

# Terms of the series and the fraction. Near x = a both need about 6 sqrt(a) of them; larger a are asymptotic.
_TERMS = 128
_LARGE = 300.0


def _both(a: Scalar, x: Scalar) -> tuple[Scalar, Scalar]:
    """(P(a, x), Q(a, x)) for positive finite a and x."""
    scale = (a * x.log() - x - lgamma(a)).exp()
    rising = x < a + 1.0
    term = 1.0 / a  # DLMF 8.7.1 (with 8.2.4)
    series = term
    inner = rising.select(x, 0.0)
    for k in range(1, _TERMS):
        term = term * inner / (a + float(k))
        series = series + term
    outer = rising.select(a + 2.0, x)  # DLMF 8.9.2
    tail = outer - a + (2.0 * _TERMS + 1.0)
    for k in range(_TERMS, 0, -1):
        tail = outer - a + (2.0 * k - 1.0) - float(k) * (float(k) - a) / tail
    low, high = series * scale, scale / tail
    lower, upper = rising.select(low, 1.0 - high), rising.select(1.0 - low, high)
    below, above = _asymptotic(a, x)
    large = a > _LARGE
    return large.select(below, lower), large.select(above, upper)


def _asymptotic(a: Scalar, x: Scalar) -> tuple[Scalar, Scalar]:
    """DLMF 8.12.3 and 8.12.7 to 8.12.10, two terms."""
    mu = x / a - 1.0
    eta = (2.0 * (mu - mu.log1p())).sqrt().copysign(mu)
    near = abs(mu) < 1e-3
    mu, safe = near.select(1.0, mu), near.select(1.0, eta)
    c0 = near.select(-1.0 / 3.0 + eta / 12.0, 1.0 / mu - 1.0 / safe)
    inverse = 1.0 / mu
    far = 1.0 / (safe * safe * safe) - inverse * (1.0 / 12.0 + inverse * (1.0 + inverse))
    c1 = near.select(-1.0 / 540.0 - eta / 288.0, far)
    rest = (-0.5 * a * eta * eta).exp() / (2.0 * math.pi * a).sqrt() * (c0 + c1 / a)
    arm = eta * (0.5 * a).sqrt()
    return 0.5 * (-arm).erfc() - rest, 0.5 * arm.erfc() + rest


def _incomplete(upper: bool) -> Any:
    at_zero, at_infinity = (1.0, 0.0) if upper else (0.0, 1.0)

    def gamma(a: Scalar, x: Scalar) -> Scalar:
        inside = (a > 0.0) & (x > 0.0) & (a < math.inf) & (x < math.inf)
        found = _both(inside.select(a, 1.0), inside.select(x, 1.0))[upper]
        edge = ((a == 0.0) & (x > 0.0)).select(at_infinity, (x == 0.0).select(at_zero, x + math.nan))
        edge = ((a == 0.0) & (x == 0.0)).select(math.nan, edge)
        edge = ((x == math.inf) & (a >= 0.0)).select(at_infinity, edge)
        edge = ((a == math.inf) & (x >= 0.0)).select(
            (x == math.inf).select(math.nan, (x >= 0.0).select(at_zero, x)), edge
        )
        return inside.select(found, ((a < 0.0) | (x < 0.0)).select(math.nan, edge))

    return gamma


@aten("igamma", "special_gammainc", "prims::igamma")
def igamma(self: Any, other: Any) -> Any:
    """P(a, x), DLMF 8.2.4."""
    return ACG.formula(_incomplete(False), self, other)


@aten("igammac", "special_gammaincc", "prims::igammac")
def igammac(self: Any, other: Any) -> Any:
    """Q(a, x), DLMF 8.2.4."""
    return ACG.formula(_incomplete(True), self, other)
