"""Special functions, computed in f64 from series that need no tables, and rounded to the operand's type.

Sources: DLMF (dlmf.nist.gov), chapters 5 (gamma), 7 (error functions), 9 (Airy), 10 (Bessel) and 25 (zeta).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from deepseek import ACG
from deepseek.acg.ops.formula import Scalar, polynomial

from ..registry import aten

_EULER = 0.5772156649015328606
_INF, _NAN = math.inf, math.nan


def _bernoulli(count: int) -> list[Fraction]:
    """B_0 .. B_count (DLMF 24.5.3)."""
    found = [Fraction(1)]
    for m in range(1, count + 1):
        found.append(-sum(math.comb(m + 1, k) * found[k] for k in range(m)) / (m + 1))
    return found


_B = [float(b) for b in _bernoulli(24)]


def register(names: tuple[str, ...], fn: Any, arguments: int = 1) -> None:
    if arguments == 1:
        aten(*names)(lambda self: ACG.formula(fn, self))
    else:
        aten(*names)(lambda self, other: ACG.formula(fn, self, other))


def _shifted(x: Scalar, steps: int, bound: float) -> tuple[Scalar, list[tuple[Scalar, Scalar]]]:
    """(x moved up by ones until it reaches bound, the numbers passed with whether they were)."""
    passed = []
    for _ in range(steps):
        below = x < bound
        passed.append((x, below))
        x = below.select(x + 1.0, x)
    return x, passed


def _log_gamma_positive(x: Scalar) -> Scalar:
    """DLMF 5.11.1 from 10 on, the recurrence 5.5.1 below."""
    top, passed = _shifted(x, 10, 10.0)
    product = None
    for value, below in passed:
        factor = below.select(value, 1.0)
        product = factor if product is None else product * factor
    inverse = 1.0 / top
    squared = inverse * inverse
    tail = polynomial(squared, [_B[2 * k] / (2 * k * (2 * k - 1)) for k in range(8, 0, -1)]) * inverse
    return (top - 0.5) * top.log() - top + 0.5 * math.log(2 * math.pi) + tail - product.log()


def lgamma(x: Scalar) -> Scalar:
    """log|gamma(x)|; reflection (DLMF 5.5.3) below 1/2."""
    small = x < 0.5
    direct = _log_gamma_positive(small.select(1.0 - x, x))
    turned = abs((x - x.floor()) * math.pi).sin()
    reflected = math.log(math.pi) - abs(turned).log() - direct
    found = small.select(reflected, direct)
    pole = (x <= 0.0) & (x == x.floor())
    return (pole | (abs(x) == _INF)).select(_INF, found)


def _digamma_positive(x: Scalar) -> Scalar:
    top, passed = _shifted(x, 10, 10.0)
    total = None
    for value, below in passed:
        term = below.select(1.0 / value, 0.0)
        total = term if total is None else total + term
    inverse = 1.0 / top
    squared = inverse * inverse
    tail = polynomial(squared, [_B[2 * k] / (2 * k) for k in range(8, 0, -1)]) * squared
    return top.log() - 0.5 * inverse - tail - total


def digamma(x: Scalar) -> Scalar:
    """DLMF 5.11.2 with 5.5.2 and 5.5.4; minus infinity at +0, NaN at the other poles."""
    small = x < 0.5
    direct = _digamma_positive(small.select(1.0 - x, x))
    part = (x - x.roundeven()) * math.pi
    reflected = direct - math.pi * part.cos() / part.sin()
    found = small.select(reflected, direct)
    found = ((x < 0.0) & (x == x.floor())).select(_NAN, found)
    zero = (x - x - _INF).copysign(-x)
    return (x == 0.0).select(zero, (x == -_INF).select(_NAN, found))


def zeta(s: Scalar, q: Scalar) -> Scalar:
    """Hurwitz's zeta for s > 1 by Euler-Maclaurin (DLMF 25.11.7 with N = 12)."""
    count = 12
    total = None
    for k in range(count):
        term = (q + float(k)) ** (-s)
        total = term if total is None else total + term
    top = q + float(count)
    total = total + top ** (1.0 - s) / (s - 1.0) + 0.5 * top ** (-s)
    factor = s * top ** (-s - 1.0)
    for k in range(1, 9):
        total = total + factor * (_B[2 * k] / math.factorial(2 * k))
        factor = factor * (s + (2.0 * k - 1)) * (s + 2.0 * k) / (top * top)
    pole = (q <= 0.0) & (q == q.floor())
    found = pole.select(_INF, ((q < 0.0) & (s != s.floor())).select(_NAN, total))
    return (s == 1.0).select(_INF, (s < 1.0).select(_NAN, found))


@aten("polygamma", "special_polygamma")
def polygamma(n: Any, self: Any) -> Any:
    """(-1)^(n + 1) n! zeta(n + 1, x), DLMF 5.15.2."""
    if isinstance(n, ACG.Array):
        n, self = self, n
    if n == 0:
        return ACG.formula(digamma, self)
    sign = -1.0 if n % 2 == 0 else 1.0
    if n == 1:

        def trigamma(x: Scalar) -> Scalar:
            # Reflection, DLMF 5.15.6.
            small = x < 0.5
            direct = zeta(x - x + 2.0, small.select(1.0 - x, x))
            turned = ((x - x.roundeven()) * math.pi).sin() / math.pi
            return small.select(1.0 / (turned * turned) - direct, direct)

        return ACG.formula(trigamma, self)

    def higher(x: Scalar) -> Scalar:
        return zeta(x - x + (n + 1.0), x) * (sign * math.factorial(n))

    return ACG.formula(higher, self)


def erfinv(x: Scalar) -> Scalar:
    """Giles 2010 ("Approximating the erfinv function", table 5), then two steps of Newton's method."""
    w = -((1.0 - x) * (1.0 + x)).log()
    near = polynomial(
        w - 2.5,
        [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 2.1858087e-04, -1.25372503e-03,
         -4.17768164e-03, 2.46640727e-01, 1.50140941],
    )  # fmt: skip
    far = polynomial(
        w.sqrt() - 3.0,
        [-2.00214257e-04, 1.00950558e-04, 1.34934322e-03, -3.67342844e-03, 5.73950773e-03, -7.6224613e-03,
         9.43887047e-03, 1.00167406, 2.83297682],
    )  # fmt: skip
    y = (w < 5.0).select(near, far) * x
    for _ in range(2):
        y = y - (y.erf() - x) * (0.5 * math.sqrt(math.pi)) * (y * y).exp()
    edge = (x - x + _INF).copysign(x)
    return (abs(x) == 1.0).select(edge, (abs(x) > 1.0).select(_NAN, y))


def ndtri(p: Scalar) -> Scalar:
    return erfinv(2.0 * p - 1.0) * math.sqrt(2.0)


def erfcx(x: Scalar) -> Scalar:
    """exp(x^2) erfc(x); the asymptotic series DLMF 7.12.1 from 9 on."""
    inside = (x < 9.0).select(x, 0.0)
    direct = (inside * inside).exp() * inside.erfc()
    t = 0.5 / (x * x)
    series = polynomial(t, [105.0, -15.0, 3.0, -1.0, 1.0]) / (x * math.sqrt(math.pi))
    return (x < 9.0).select(direct, series)


def _power_series(q: Scalar, first: float, ratio: Any, terms: int) -> Scalar:
    """sum of c_k q^k with c_0 = first and c_k = c_(k-1) * ratio(k)."""
    coefficients = [first]
    for k in range(1, terms):
        coefficients.append(coefficients[-1] * ratio(k))
    return polynomial(q, coefficients[::-1])


def _hankel(order: int, terms: int, sign: float) -> list[float]:
    """sign^k a_k(order), DLMF 10.17.1."""
    found, a = [], 1.0
    for k in range(terms):
        found.append(a * sign**k)
        a *= (4.0 * order * order - (2 * k + 1) ** 2) / (8.0 * (k + 1))
    return found


def _bessel_i(order: int, scaled: bool) -> Any:
    """I_0 and I_1: DLMF 10.25.2 below 18, 10.40.1 above; `scaled` by exp(-|x|)."""

    def i(x: Scalar) -> Scalar:
        size = abs(x)
        small = size < 18.0
        inner = small.select(size, 0.0)
        q = inner * inner * 0.25
        series = _power_series(q, 1.0, lambda k: 1.0 / (k * (k + order)), 48)
        if order:
            series = series * inner * 0.5
        outer = small.select(18.0, size)
        tail = polynomial(1.0 / outer, _hankel(order, 12, -1.0)[::-1]) / (outer * (2 * math.pi)).sqrt()
        if scaled:
            found = small.select(series * (-inner).exp(), tail)
        else:
            found = small.select(series, tail * outer.exp())
        return found.copysign(x) if order else found

    return i


def _bessel_j(order: int) -> Any:
    def j(x: Scalar) -> Scalar:
        """DLMF 10.2.2 below 20, 10.17.3 above."""
        size = abs(x)
        found = (size < 20.0).select(_j_series(order, size), _oscillating(order, size, "cos", "sin", -1.0))
        return (x < 0.0).select(-found, found) if order else found

    return j


def _j_series(order: int, x: Scalar) -> Scalar:
    inner = (x < 20.0).select(x, 0.0)
    series = _power_series(inner * inner * -0.25, 1.0, lambda k: 1.0 / (k * (k + order)), 64)
    return series * inner * 0.5 if order else series


def _oscillating(order: int, x: Scalar, even: str, odd: str, sign: float) -> Scalar:
    outer = (x < 20.0).select(20.0, x)
    phase = outer - (0.5 * order + 0.25) * math.pi
    a = _hankel(order, 12, 1.0)
    inverse = 1.0 / outer
    squared = inverse * inverse
    p = polynomial(squared, [(-1.0) ** k * a[2 * k] for k in range(6)][::-1])
    q = polynomial(squared, [(-1.0) ** k * a[2 * k + 1] for k in range(6)][::-1]) * inverse
    first, second = getattr(phase, even)(), getattr(phase, odd)()
    return (2.0 / math.pi * inverse).sqrt() * (first * p + sign * second * q)


def _harmonic(k: int) -> float:
    return sum(1.0 / i for i in range(1, k + 1))


def _bessel_y(order: int) -> Any:
    def y(x: Scalar) -> Scalar:
        """DLMF 10.8.1 and 10.8.2 below 20, 10.17.4 above."""
        inner = (x < 20.0).select(x, 1.0)
        q = inner * inner * -0.25
        coefficients, c = [], 1.0
        for k in range(64):
            c = c / (k * (k + order)) if k else 1.0
            weight = 2 * _harmonic(k) + 1.0 / (k + 1) - 2 * _EULER if order else _harmonic(k)
            coefficients.append(c * weight)
        series = polynomial(q, coefficients[::-1])
        logarithm = (inner * 0.5).log()
        j = _j_series(order, x)
        if order:
            near = 2.0 / math.pi * logarithm * j - 2.0 / (math.pi * inner) - inner * 0.5 / math.pi * series
        else:
            near = 2.0 / math.pi * ((logarithm + _EULER) * j - series)
        found = (x < 20.0).select(near, _oscillating(order, x, "sin", "cos", 1.0))
        return (x == 0.0).select(-_INF, (x < 0.0).select(_NAN, found))

    return y


def _bessel_k(order: int, scaled: bool) -> Any:
    def k_(x: Scalar) -> Scalar:
        """DLMF 10.31.1 and 10.31.2 below 8, 10.40.2 above; `scaled` by exp(x)."""
        inner = (x < 8.0).select(x, 1.0)
        q = inner * inner * 0.25
        coefficients, c = [], 1.0
        for k in range(40):
            c = c / (k * (k + order)) if k else 1.0
            weight = 2 * _harmonic(k) + (1.0 / (k + 1) if order else 0.0) - 2 * _EULER
            coefficients.append(c * weight * 0.5)
        series = polynomial(q, coefficients[::-1])
        i = _power_series(q, 1.0, lambda k: 1.0 / (k * (k + order)), 40)
        logarithm = (inner * 0.5).log()
        if order:
            near = 1.0 / inner + logarithm * i * inner * 0.5 - inner * 0.5 * series
        else:
            near = series - logarithm * i
        outer = (x < 8.0).select(8.0, x)
        far = polynomial(1.0 / outer, _hankel(order, 14, 1.0)[::-1]) * (math.pi / (2.0 * outer)).sqrt()
        found = (x < 8.0).select(near * inner.exp() if scaled else near, far if scaled else far * (-outer).exp())
        return (x == 0.0).select(_INF, (x < 0.0).select(_NAN, found))

    return k_


def spherical_bessel_j0(x: Scalar) -> Scalar:
    """sin(x) / x, by its series near 0 (DLMF 10.49.3)."""
    squared = x * x
    near = 1.0 - squared / 6.0 * (1.0 - squared / 20.0 * (1.0 - squared / 42.0))
    return (abs(x) == _INF).select(0.0, (abs(x) < 0.5).select(near, x.sin() / x))


def airy_ai(x: Scalar) -> Scalar:
    """DLMF 9.4.1 near 0, 9.7.5 and 9.7.9 outside."""
    size = abs(x)
    inner = (size < 6.0).select(x, 0.0)
    cube = inner * inner * inner
    f = _power_series(cube, 1.0, lambda k: 1.0 / ((3 * k - 1) * (3 * k)), 40)
    g = _power_series(cube, 1.0, lambda k: 1.0 / ((3 * k) * (3 * k + 1)), 40) * inner
    near = 0.35502805388781723926 * f - 0.25881940379280679840 * g
    outer = (size < 6.0).select(6.0, size)
    root = outer.sqrt()
    z = outer * root * (2.0 / 3.0)
    u, terms = [1.0], 12
    for k in range(1, terms):
        u.append(u[-1] * (6 * k - 5) * (6 * k - 3) * (6 * k - 1) / (216.0 * k * (2 * k - 1)))
    inverse = 1.0 / z
    decaying = polynomial(inverse, [(-1.0) ** k * u[k] for k in range(terms)][::-1])
    right = (-z).exp() / (2.0 * math.sqrt(math.pi) * root.sqrt()) * decaying
    squared = inverse * inverse
    p = polynomial(squared, [(-1.0) ** k * u[2 * k] for k in range(terms // 2)][::-1])
    q = polynomial(squared, [(-1.0) ** k * u[2 * k + 1] for k in range(terms // 2)][::-1]) * inverse
    phase = z - math.pi / 4
    left = (phase.cos() * p + phase.sin() * q) / (math.sqrt(math.pi) * root.sqrt())
    return (size < 6.0).select(near, (x > 0.0).select(right, left))


register(("lgamma", "special_gammaln", "prims::lgamma"), lgamma)
register(("digamma", "special_digamma", "special_psi", "prims::digamma"), digamma)
register(("erfinv", "special_erfinv", "prims::erf_inv"), erfinv)
register(("special_ndtri", "prims::ndtri"), ndtri)
register(("special_erfcx", "prims::erfcx"), erfcx)
register(("special_zeta", "prims::zeta"), zeta, 2)
register(("i0", "special_i0", "prims::bessel_i0", "special_modified_bessel_i0"), _bessel_i(0, False))
register(("special_i0e", "prims::bessel_i0e"), _bessel_i(0, True))
register(("special_i1", "prims::bessel_i1", "special_modified_bessel_i1"), _bessel_i(1, False))
register(("special_i1e", "prims::bessel_i1e"), _bessel_i(1, True))
register(("special_bessel_j0", "prims::bessel_j0"), _bessel_j(0))
register(("special_bessel_j1", "prims::bessel_j1"), _bessel_j(1))
register(("special_bessel_y0",), _bessel_y(0))
register(("special_bessel_y1",), _bessel_y(1))
register(("special_modified_bessel_k0",), _bessel_k(0, False))
register(("special_modified_bessel_k1",), _bessel_k(1, False))
register(("special_scaled_modified_bessel_k0",), _bessel_k(0, True))
register(("special_scaled_modified_bessel_k1",), _bessel_k(1, True))
register(("special_spherical_bessel_j0", "prims::spherical_bessel_j0"), spherical_bessel_j0)
register(("special_airy_ai",), airy_ai)
