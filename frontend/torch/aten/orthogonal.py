"""QR, symmetric eigenvalues, singular values and the exponential of small matrices [.., m, n], in f64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek import ACG

from ..registry import aten
from .solve import column, diagonal, identity, rows, sizes_of, transposed, wide

_EPSILON = 2.0**-52


def reflectors(a: Any) -> tuple[Any, Any]:
    """(R above the vectors of the reflections, their factors tau [.., k]): geqrf with larfg's signs."""
    m, n = sizes_of(a)
    place, across = rows(m), ACG.arange(n)
    taus = []
    for j in range(min(m, n)):
        top = a[..., j : j + 1, j : j + 1]
        x = column(a, j)
        below = ACG.greater(place, j)
        rest = ACG.sum(ACG.where(below, ACG.multiply(x, x), 0.0), -2, True)
        norm = ACG.sqrt(ACG.add(ACG.multiply(top, top), rest))
        beta = ACG.where(ACG.less(top, 0.0), norm, ACG.negative(norm))
        still = ACG.equal(rest, 0.0)
        beta = ACG.where(still, top, beta)
        tau = ACG.where(still, 0.0, ACG.true_divide(ACG.subtract(beta, top), ACG.where(still, 1.0, beta)))
        tail = ACG.true_divide(x, ACG.where(still, 1.0, ACG.subtract(top, beta)))
        v = ACG.where(below, tail, ACG.where(ACG.equal(place, j), 1.0, 0.0))
        left = ACG.subtract(a, ACG.multiply(ACG.multiply(tau, v), ACG.sum(ACG.multiply(v, a), -2, True)))
        own = ACG.where(below, v, ACG.where(ACG.equal(place, j), beta, a))
        a = ACG.where(ACG.greater(across, j), left, ACG.where(ACG.equal(across, j), own, a))
        taus.append(tau[..., 0, 0])
    return a, ACG.stack(taus, -1) if taus else ACG.zeros((*a.shape[:-2], 0), a.type)


def reflect(vectors: Any, tau: Any, x: Any, transpose: bool = False) -> Any:
    """Q x, or Q^T x, for Q = H_1 H_2 .. H_k with H = I - tau v v^T: ormqr."""
    place = rows(int(vectors.shape[-2]))
    steps = range(int(tau.shape[-1]))
    for j in steps if transpose else reversed(steps):
        v = ACG.where(ACG.greater(place, j), column(vectors, j), ACG.where(ACG.equal(place, j), 1.0, 0.0))
        factor = ACG.expand_dims(tau[..., j], (-1, -2))
        x = ACG.subtract(x, ACG.multiply(ACG.multiply(factor, v), ACG.sum(ACG.multiply(v, x), -2, True)))
    return x


@aten("linalg_qr")
def linalg_qr(A: Any, mode: str = "reduced") -> Any:
    m, n = sizes_of(A)
    k = m if mode == "complete" else min(m, n)
    vectors, tau = reflectors(wide(A))
    r = ACG.triu(vectors[..., :k, :]).astype(A.type)
    if mode == "r":
        return ACG.zeros((0,), A.type), r
    return reflect(vectors, tau, identity(vectors, m, k)).astype(A.type), r


@aten("linalg_householder_product")
def linalg_householder_product(input: Any, tau: Any) -> Any:
    m, n = sizes_of(input)
    return reflect(wide(input), wide(tau), identity(wide(input), m, n)).astype(input.type)


@aten("ormqr")
def ormqr(self: Any, input2: Any, input3: Any, left: bool = True, transpose: bool = False) -> Any:
    vectors, tau, x = wide(self), wide(input2), wide(input3)
    if left:
        return reflect(vectors, tau, x, transpose).astype(input3.type)
    return transposed(reflect(vectors, tau, transposed(x), not transpose)).astype(input3.type)


def _rounds(n: int) -> list[list[int]]:
    """Rounds of a tournament: every pair meets once, and each round names everyone's partner (or itself)."""
    even = n + n % 2
    players = list(range(even))
    rounds = []
    for _ in range(even - 1):
        partner = list(range(n))
        for a, b in zip(players[: even // 2], reversed(players[even // 2 :])):
            if a < n and b < n:
                partner[a], partner[b] = b, a
        rounds.append(partner)
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _sweeps(n: int) -> int:
    """Jacobi's method converges quadratically; it needs O(log n) sweeps (Golub and Van Loan, 8.5.3)."""
    return 5 + math.ceil(math.log2(max(n, 2)))


def _rotation(own: Any, other: Any, cross: Any, partner: list[int]) -> tuple[Any, Any]:
    """(c, s) per index [.., n] that make x_i' = c x_i + s x_partner orthogonal (Golub and Van Loan, 8.4.1)."""
    index = np.arange(len(partner))
    sign = ACG.asarray(np.where(index > np.array(partner), 1.0, -1.0))
    idle = ACG.logical_or(ACG.equal(cross, 0.0), ACG.asarray(index == np.array(partner)))
    safe = ACG.where(idle, 1.0, cross)
    theta = ACG.true_divide(ACG.multiply(sign, ACG.subtract(own, other)), ACG.multiply(safe, 2.0))
    size = ACG.add(ACG.abs(theta), ACG.sqrt(ACG.add(ACG.multiply(theta, theta), 1.0)))
    t = ACG.true_divide(ACG.where(ACG.less(theta, 0.0), -1.0, 1.0), size)
    t = ACG.where(idle, 0.0, t)
    c = ACG.rsqrt(ACG.add(ACG.multiply(t, t), 1.0))
    return c, ACG.multiply(ACG.multiply(t, c), sign)


def _turned(x: Any, swap: Any, c: Any, s: Any) -> Any:
    """Columns of x turned with their partners'."""
    c, s = ACG.expand_dims(c, -2), ACG.expand_dims(s, -2)
    return ACG.add(ACG.multiply(x, c), ACG.multiply(ACG.take(x, swap, axis=-1), s))


def symmetric(a: Any, vectors: bool = True) -> tuple[Any, Any]:
    """(eigenvalues in ascending order, eigenvectors as columns or None) by Jacobi's method, disjoint pairs at once."""
    n, _ = sizes_of(a)
    v = identity(a, n, n)
    for _ in range(_sweeps(n) if n > 1 else 0):
        for partner in _rounds(n):
            swap = ACG.asarray(np.array(partner, np.int64))
            on = diagonal(a)
            cross = diagonal(ACG.take(a, swap, axis=-1))
            c, s = _rotation(on, ACG.take(on, swap, axis=-1), cross, partner)
            a = transposed(_turned(transposed(_turned(a, swap, c, s)), swap, c, s))
            v = _turned(v, swap, c, s) if vectors else v
    values = diagonal(a)
    if not vectors:
        return (ACG.sort(values, -1) if n > 1 else values), None
    return _ordered(values, v, False) if n > 1 else (values, v)


def _ordered(values: Any, vectors: Any, descending: bool) -> tuple[Any, Any]:
    order = ACG.argsort(values, -1, descending)
    wide_order = ACG.broadcast_to(ACG.expand_dims(order, -2), vectors.shape)
    return ACG.take_along_axis(values, order, -1), ACG.take_along_axis(vectors, wide_order, -1)


def singular(a: Any, vectors: bool, full: bool) -> tuple[Any, Any, Any]:
    """(U, S in descending order, V^T) by one-sided Jacobi (Golub and Van Loan, 8.6.3)."""
    m, n = sizes_of(a)
    if m < n:
        u, s, vh = singular(transposed(a), vectors, full)
        return (transposed(vh), s, transposed(u)) if vectors else (None, s, None)
    v = identity(a, n, n)
    for _ in range(_sweeps(n) + 1 if n > 1 else 0):
        for partner in _rounds(n):
            swap = ACG.asarray(np.array(partner, np.int64))
            norm = ACG.sum(ACG.multiply(a, a), -2)
            cross = ACG.sum(ACG.multiply(a, ACG.take(a, swap, axis=-1)), -2)
            c, s = _rotation(norm, ACG.take(norm, swap, axis=-1), cross, partner)
            a = _turned(a, swap, c, s)
            v = _turned(v, swap, c, s) if vectors else v
    values = ACG.sqrt(ACG.sum(ACG.multiply(a, a), -2))
    if not vectors:
        return None, (ACG.sort(values, -1, True) if n > 1 else values), None
    if n > 1:
        both = ACG.concat([a, v], -2)
        values, both = _ordered(values, both, True)
        a, v = both[..., :m, :], both[..., m:, :]
    # Columns of singular values that are only rounding are replaced: the reflections complete a basis.
    if n:
        least = ACG.multiply(values[..., :1], max(m, n) * _EPSILON)
        zero = ACG.less_equal(values, least)
        a = ACG.true_divide(a, ACG.expand_dims(ACG.where(zero, 1.0, values), -2))
        a = ACG.where(ACG.expand_dims(zero, -2), 0.0, a)
    parts, tau = reflectors(a)
    count = m if full else n
    u = reflect(parts, tau, identity(a, m, count))
    turn = ACG.where(ACG.less(diagonal(parts), 0.0), -1.0, 1.0)
    if count > n:
        turn = ACG.concat([turn, ACG.ones((*turn.shape[:-1], count - n), turn.type)], -1)
    return ACG.multiply(u, ACG.expand_dims(turn, -2)), values, transposed(v)


def _mirrored(a: Any) -> Any:
    """The symmetric matrix of a lower triangle."""
    return ACG.add(ACG.tril(a), transposed(ACG.tril(a, -1)))


@aten("_linalg_eigh")
def linalg_eigh(A: Any, UPLO: str = "L", compute_v: bool = True) -> Any:
    a = wide(A)
    values, vectors = symmetric(_mirrored(a if UPLO.upper() == "L" else transposed(a)), compute_v)
    return values.astype(A.type), vectors.astype(A.type) if compute_v else ACG.zeros((0,), A.type)


@aten("_linalg_svd")
def linalg_svd(A: Any, full_matrices: bool = False, compute_uv: bool = True, driver: str | None = None) -> Any:
    u, s, vh = singular(wide(A), compute_uv, full_matrices)
    empty = ACG.zeros((0,), A.type)
    return tuple(empty if x is None else x.astype(A.type) for x in (u, s, vh))


@aten("linalg_pinv.atol_rtol_tensor")
def linalg_pinv(self: Any, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    """The Moore-Penrose inverse; singular values up to max(atol, rtol * the largest) count as zero."""
    m, n = sizes_of(self)
    if not (m and n):
        return ACG.zeros((*self.shape[:-2], n, m), self.type)
    if rtol is None:
        default = max(m, n) * (_EPSILON if self.type.bits == 64 else 2.0**-23)
        rtol = default if atol is None else ACG.where(ACG.greater(atol, 0), 0.0, default)
    if hermitian:
        s, v = symmetric(_mirrored(wide(self)))
        left, right, size = v, transposed(v), ACG.abs(s)
        top = ACG.max(size, -1, True)
    else:
        u, s, vh = singular(wide(self), True, False)
        left, right, size, top = transposed(vh), transposed(u), s, s[..., :1]
    least = ACG.multiply(top, _per_matrix(rtol))
    least = least if atol is None else ACG.maximum(least, _per_matrix(atol))
    used = ACG.greater(size, least)
    inverse = ACG.where(used, ACG.true_divide(1.0, ACG.where(used, s, 1.0)), 0.0)
    return ACG.matmul(ACG.multiply(left, ACG.expand_dims(inverse, -2)), right).astype(self.type)


def _per_matrix(tolerance: Any) -> Any:
    if isinstance(tolerance, ACG.Array):
        return wide(ACG.expand_dims(tolerance, -1) if tolerance.ndim else tolerance)
    return float(tolerance)


_SQUARINGS = 20


@aten("linalg_matrix_exp")
def linalg_matrix_exp(self: Any) -> Any:
    """exp(A) = exp(A / 2^s)^(2^s), by Taylor's series up to the 14th power of a matrix of norm 1/2 (Higham 2008, 10.3).

    Norms up to 2^19 are scaled; larger ones overflow. Any size, symbolic ones too.
    """
    x = wide(self)
    if any(isinstance(size, int) and size == 0 for size in x.shape[-2:]):
        return self
    norm = ACG.max(ACG.sum(ACG.abs(x), -2, True), -1, True)
    steps = ACG.ceil(ACG.log2(ACG.maximum(ACG.multiply(norm, 2.0), 1.0)))
    x = ACG.true_divide(x, ACG.exp2(steps))
    one = ACG.equal(ACG.iota(x.shape, x.ndim - 2), ACG.iota(x.shape, x.ndim - 1)).astype(x.type)
    out = one
    for k in range(14, 0, -1):
        out = ACG.add(one, ACG.multiply(ACG.matmul(x, out), 1.0 / k))
    for k in range(_SQUARINGS):
        out = ACG.where(ACG.less(ACG.asarray(float(k), "float64"), steps), ACG.matmul(out, out), out)
    return out.astype(self.type)
