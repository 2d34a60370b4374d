"""L D L^T of small symmetric matrices by Bunch and Kaufman's pivoting (1977), in f64: LAPACK's sytf2 and sytrs, lower.

A block of D is one row or two; which one depends on values, so every step computes both and each matrix of the batch
keeps its own. The second row of a block of two is a step without work.
"""

from __future__ import annotations

import math
from typing import Any

from deepseek import ACG

from ..registry import aten
from .solve import column, row, rows, sizes_of, swapped, together, transposed, wide

_ALPHA = (1 + math.sqrt(17)) / 8


def _cell(flag: Any) -> Any:
    return ACG.expand_dims(flag, (-1, -2))


def _both_swapped(a: Any, j: int, at: Any) -> Any:
    return transposed(swapped(transposed(swapped(a, j, at)), j, at))


def _pivot(a: Any, k: int, done: Any) -> tuple[Any, Any]:
    """(the row to exchange, whether the block has two rows) at step k."""
    across = ACG.arange(int(a.shape[-1]))
    own = ACG.abs(a[..., k, k])
    below = ACG.where(ACG.greater(across, k), ACG.abs(a[..., :, k]), -1.0)
    largest, at = ACG.maximum(ACG.max(below, -1), 0.0), ACG.argmax(below, -1)
    chosen = ACG.abs(ACG.sum(ACG.where(ACG.equal(rows(int(a.shape[-1])), _cell(at)), a, 0.0), -2))
    here = ACG.equal(across, ACG.expand_dims(at, -1))
    other = ACG.sum(ACG.where(here, chosen, 0.0), -1)
    widest = ACG.max(ACG.where(ACG.logical_or(here, ACG.less(across, k)), 0.0, chosen), -1)
    stay = ACG.greater_equal(own, ACG.multiply(largest, _ALPHA))
    level = ACG.multiply(ACG.multiply(largest, largest), _ALPHA)
    stay = ACG.logical_or(stay, ACG.greater_equal(ACG.multiply(own, widest), level))
    single = ACG.logical_or(stay, ACG.greater_equal(other, ACG.multiply(widest, _ALPHA)))
    return ACG.where(stay, k, at), ACG.logical_not(ACG.logical_or(single, done))


def _pair(a: Any, k: int) -> tuple[Any, Any, Any]:
    """The block of rows k and k + 1: d11, d21, d22."""
    return tuple(a[..., i : i + 1, j : j + 1] for i, j in ((k, k), (k + 1, k), (k + 1, k + 1)))


def _by_pair(d: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """The two unknowns of the symmetric 2 x 2 system d."""
    d11, d21, d22 = d
    determinant = ACG.subtract(ACG.multiply(d11, d22), ACG.multiply(d21, d21))
    x = ACG.subtract(ACG.multiply(d22, first), ACG.multiply(d21, second))
    y = ACG.subtract(ACG.multiply(d11, second), ACG.multiply(d21, first))
    return ACG.true_divide(x, determinant), ACG.true_divide(y, determinant)


@aten("linalg_ldl_factor_ex")
def ldl_factor(self: Any, hermitian: bool = False, check_errors: bool = False) -> Any:
    """(L below D, pivots, number of the first block of D that is 0 or 0)."""
    n, _ = sizes_of(self)
    lower = ACG.tril(wide(self))
    a = ACG.add(lower, transposed(ACG.tril(lower, -1)))
    lead, place = a.shape[:-2], rows(n)
    done, info = ACG.zeros(lead, "bool"), ACG.zeros(lead, "int32")
    columns: list[Any] = []
    pivots: list[Any] = []
    pending: Any = None
    for k in range(n):
        last = k == n - 1
        at, two = _pivot(a, k, done)
        if not last:
            single = ACG.where(ACG.logical_or(done, two), k, at)
            a = _both_swapped(_both_swapped(a, k, single), k + 1, ACG.where(two, at, k + 1))
        top, x = a[..., k : k + 1, k : k + 1], column(a, k)
        zero = ACG.equal(top, 0.0)
        l1 = ACG.where(ACG.greater(place, k), ACG.true_divide(x, ACG.where(zero, 1.0, top)), 0.0)
        found = ACG.where(ACG.equal(place, k), top, l1)
        left = ACG.subtract(a, ACG.multiply(l1, transposed(x)))
        nothing = ACG.logical_and(
            ACG.equal(ACG.max(ACG.abs(ACG.where(ACG.less(place, k), 0.0, x)), (-1, -2)), 0.0), ~done
        )
        info = ACG.where(ACG.logical_and(nothing, ACG.equal(info, 0)), k + 1, info).astype("int32")
        number = ACG.add(ACG.where(ACG.full(lead, last, "bool"), k, at), 1)
        following = pending
        if not last:
            d, y = _pair(a, k), column(a, k + 1)
            # The system is that of the chosen block: any other may be singular, and is not used.
            u, v = _by_pair(tuple(ACG.where(_cell(two), e, i) for e, i in zip(d, (1.0, 0.0, 1.0))), x, y)
            rest = ACG.greater(place, k + 1)
            u, v = ACG.where(rest, u, 0.0), ACG.where(rest, v, 0.0)
            double = ACG.where(ACG.equal(place, k), d[0], ACG.where(ACG.equal(place, k + 1), d[1], u))
            found = ACG.where(_cell(two), double, found)
            pair_left = ACG.subtract(ACG.subtract(a, ACG.multiply(u, transposed(x))), ACG.multiply(v, transposed(y)))
            left = ACG.where(_cell(two), pair_left, left)
            following = ACG.where(ACG.equal(place, k + 1), d[2], v)
            number = ACG.where(two, ACG.negative(number), number)
        if pivots:
            found = ACG.where(_cell(done), pending, found)
            number = ACG.where(done, pivots[-1], number)
        a = ACG.where(_cell(done), a, left)
        columns.append(found)
        pivots.append(number)
        pending, done = following, two
    if not n:
        return self, ACG.zeros((*lead, 0), "int32"), info
    factors = ACG.tril(ACG.concat(columns, -1)).astype(self.type)
    return factors, ACG.stack(pivots, -1).astype("int32"), info


@aten("linalg_ldl_solve")
def ldl_solve(LD: Any, pivots: Any, B: Any, hermitian: bool = False) -> Any:
    n, _ = sizes_of(LD)
    a, b = together(wide(LD), wide(B))
    place = rows(n)
    at = [ACG.subtract(ACG.abs(pivots[..., k].astype("int64")), 1) for k in range(n)]
    paired = [ACG.less(pivots[..., k], 0) for k in range(n)]
    first: list[Any] = []
    for k in range(n):
        first.append(ACG.logical_and(paired[k], ACG.logical_not(first[-1])) if first else paired[k])

    def factor(k: int, after: int) -> Any:
        return ACG.where(ACG.greater(place, after), column(a, k), 0.0)

    for k in range(n):
        one, two = ACG.logical_not(paired[k]), first[k]
        b = swapped(b, k, ACG.where(one, at[k], k))
        single = ACG.subtract(b, ACG.multiply(factor(k, k), row(b, k)))
        if k == n - 1:
            break
        b = ACG.where(_cell(one), single, b)
        b = swapped(b, k + 1, ACG.where(two, at[k], k + 1))
        double = ACG.subtract(b, ACG.multiply(factor(k, k + 1), row(b, k)))
        double = ACG.subtract(double, ACG.multiply(factor(k + 1, k + 1), row(b, k + 1)))
        b = ACG.where(_cell(two), double, b)
    for k in range(n):
        x = ACG.true_divide(row(b, k), ACG.where(_cell(paired[k]), 1.0, a[..., k : k + 1, k : k + 1]))
        b = ACG.where(ACG.logical_and(ACG.equal(place, k), ACG.logical_not(_cell(paired[k]))), x, b)
        if k < n - 1:
            d = tuple(ACG.where(_cell(first[k]), e, i) for e, i in zip(_pair(a, k), (1.0, 0.0, 1.0)))
            u, v = _by_pair(d, row(b, k), row(b, k + 1))
            b = ACG.where(
                _cell(first[k]), ACG.where(ACG.equal(place, k), u, ACG.where(ACG.equal(place, k + 1), v, b)), b
            )
    for k in reversed(range(n)):
        one = ACG.logical_not(paired[k])
        second = ACG.logical_and(paired[k], ACG.logical_not(first[k]))
        used = ACG.logical_or(one, second)
        x = ACG.subtract(row(b, k), ACG.sum(ACG.multiply(factor(k, k), b), -2, True))
        new = ACG.where(ACG.equal(place, k), x, b)
        if k:
            y = ACG.subtract(row(b, k - 1), ACG.sum(ACG.multiply(factor(k - 1, k), b), -2, True))
            new = ACG.where(ACG.logical_and(ACG.equal(place, k - 1), _cell(second)), y, new)
        b = swapped(ACG.where(_cell(used), new, b), k, ACG.where(used, at[k], k))
    return b.astype(B.type)
