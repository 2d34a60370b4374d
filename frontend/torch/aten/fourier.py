"""Discrete Fourier transforms: products with their matrices, in factors where the length is long."""

from __future__ import annotations

import math
from typing import Any

from deepseek import ACG

from ..pairs import Complex, is_complex
from ..registry import aten, on_complex
from .complexes import multiply

# The matrix of a longer transform would cost more than its factors: the length must then be a number.
_LONG = 512


def _table(rows: Any, columns: Any, n: Any) -> tuple[Any, Any]:
    """cos and sin of 2 pi r c / n, [rows, columns] in f64; r c is reduced modulo n first, which keeps every digit."""
    turn = ACG.remainder(ACG.multiply(ACG.expand_dims(ACG.arange(rows), 1), ACG.arange(columns)), n)
    angle = ACG.true_divide(ACG.multiply(turn.astype("float64"), 2 * math.pi), ACG.asarray(n).astype("float64"))
    return ACG.cos(angle), ACG.sin(angle)


def _times(x: Any, matrix: Any, axis: int) -> Any:
    """A product with a matrix over one axis."""
    if axis == x.ndim - 1:
        return ACG.matmul(x, matrix)
    return ACG.swapaxes(ACG.matmul(ACG.swapaxes(x, axis, -1), matrix), axis, -1)


def _length(n: Any) -> Any:
    """n, as a number if the example has many elements."""
    if isinstance(n, int):
        return n
    hint = n.dims.hint(n.resolved)
    return int(n) if hint is not None and hint > _LONG else n


def _factor(n: Any) -> int:
    """The largest divisor of a long length up to its root, else 1."""
    if not isinstance(n, int) or n <= _LONG:
        return 1
    return next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)


def _transform(z: Any, axis: int, forward: bool, count: Any = None) -> Complex:
    """The transform of one axis, its first `count` elements."""
    n = _length(z.shape[axis])
    a = _factor(n)
    if a > 1:
        out = _in_factors(Complex.of(z), axis, forward, a, n // a)
        lead = (slice(None),) * axis
        return out if count is None else Complex(*(x[(*lead, slice(0, count))] for x in (out.re, out.im)))
    cos, sin = (t.astype(z.type) for t in _table(n, n if count is None else count, n))
    sin = ACG.negative(sin) if forward else sin
    if not is_complex(z):
        return Complex(_times(z, cos, axis), _times(z, sin, axis))
    re = ACG.subtract(_times(z.re, cos, axis), _times(z.im, sin, axis))
    return Complex(re, ACG.add(_times(z.re, sin, axis), _times(z.im, cos, axis)))


def _in_factors(z: Complex, axis: int, forward: bool, a: int, b: int) -> Complex:
    """Length a b as lengths a and b with twiddle factors between (Cooley and Tukey 1965)."""
    lead, tail = z.shape[:axis], z.shape[axis + 1 :]
    z = Complex(*(ACG.reshape(x, (*lead, a, b, *tail)) for x in (z.re, z.im)))
    z = _transform(z, axis, forward)
    cos, sin = (ACG.reshape(t.astype(z.type), (a, b, *[1] * len(tail))) for t in _table(a, b, a * b))
    z = _transform(multiply(z, Complex(cos, ACG.negative(sin) if forward else sin)), axis + 1, forward)
    return Complex(*(ACG.reshape(ACG.swapaxes(x, axis, axis + 1), (*lead, a * b, *tail)) for x in (z.re, z.im)))


def _scaled(z: Any, sizes: list[Any], normalization: int) -> Any:
    """torch's normalization: 0 none, 1 by the root of the number of elements, 2 by it."""
    if not normalization:
        return z
    total: Any = 1
    for n in sizes:
        total = n * total
    total = ACG.asarray(total).astype("float64")
    factor = ACG.true_divide(1.0, ACG.sqrt(total) if normalization == 1 else total).astype(z.type)
    return multiply(z, factor) if is_complex(z) else ACG.multiply(z, factor)


@aten("_fft_r2c")
def fft_r2c(self: Any, dim: Any, normalization: int, onesided: bool) -> Complex:
    """Transforms of real tensors; one-sided: the first n // 2 + 1 elements of the last dim."""
    axes = [d % self.ndim for d in dim]
    n = self.shape[axes[-1]]
    z = _transform(self, axes[-1], True, n // 2 + 1 if onesided else None)
    for axis in axes[:-1]:
        z = _transform(z, axis, True)
    return _scaled(z, [self.shape[a] for a in axes], normalization)


@on_complex("_fft_c2c")
def fft_c2c(self: Any, dim: Any, normalization: int, forward: bool) -> Complex:
    axes, z = [d % self.ndim for d in dim], self
    for axis in axes:
        z = _transform(z, axis, forward)
    return _scaled(z, [self.shape[a] for a in axes], normalization)


@on_complex("_fft_c2r")
def fft_c2r(self: Any, dim: Any, normalization: int, last_dim_size: Any) -> Any:
    """The real signal of `last_dim_size` elements: those of the half that is given count twice, but its two ends."""
    axes, z = [d % self.ndim for d in dim], self
    for axis in axes[:-1]:
        z = _transform(z, axis, False)
    last, n = axes[-1], _length(last_dim_size)
    sizes = [*(self.shape[a] for a in axes[:-1]), n]
    half = n // 2 + 1
    lead = (slice(None),) * last
    z = Complex(*(x[(*lead, slice(0, half))] for x in (z.re, z.im)))
    if _factor(n) > 1:
        mirror = (*lead, slice(1, n - half + 1))
        re = ACG.concat([z.re, ACG.flip(z.re[mirror], last)], last)
        im = ACG.concat([z.im, ACG.negative(ACG.flip(z.im[mirror], last))], last)
        return _scaled(_transform(Complex(re, im), last, False).re, sizes, normalization)
    k = ACG.expand_dims(ACG.arange(half), 1)
    once = ACG.logical_or(ACG.equal(k, 0), ACG.equal(ACG.multiply(k, 2), n))
    cos, sin = (ACG.multiply(t, ACG.where(once, 1.0, 2.0)).astype(self.type) for t in _table(half, n, n))
    # The imaginary parts of those ends do not count.
    sin = ACG.where(once, 0.0, sin).astype(self.type)
    out = ACG.subtract(_times(z.re, cos, last), _times(z.im, sin, last))
    return _scaled(out, sizes, normalization)
