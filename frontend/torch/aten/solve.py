"""Triangular systems, LU and Cholesky of small matrices [.., m, n], batched over the leading dims.

The matrix sizes are numbers, and the steps of elimination are written out, each on whole arrays and in f64. Names and
conventions of results are LAPACK's (getrf, getrs, potrf, trtrs).
"""

from __future__ import annotations

from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..registry import aten

MOST = 32  # steps are written out: more would take long to compile


def sizes_of(x: Any) -> tuple[int, int]:
    """The fixed sizes of the matrices of x."""
    m, n = (int(size) for size in x.shape[-2:])
    if min(m, n) > MOST:
        source.fail(
            f"a factorization of {m} x {n} matrices is not supported: {MOST} steps are the most",
            "factor it before the compiled module, or split it into blocks",
        )
    return m, n


def wide(x: Any) -> Any:
    return x.astype("float64")


def rows(n: int) -> Any:
    return ACG.expand_dims(ACG.arange(n), 1)


def column(x: Any, j: int) -> Any:
    return x[..., :, j : j + 1]


def row(x: Any, j: int) -> Any:
    return x[..., j : j + 1, :]


def transposed(x: Any) -> Any:
    return ACG.swapaxes(x, -1, -2)


def identity(x: Any, m: int, n: int) -> Any:
    """[.., m, n] with the leading dims of x."""
    return ACG.broadcast_to(ACG.eye(m, n, dtype=x.type), (*x.shape[:-2], m, n))


def diagonal(x: Any) -> Any:
    """The main diagonal of the last two dims."""
    m, n = (int(size) for size in x.shape[-2:])
    k = min(m, n)
    on = ACG.equal(rows(k), ACG.arange(k))
    return ACG.sum(ACG.where(on, x[..., :k, :k], 0.0).astype(x.type), -1)


def together(a: Any, b: Any) -> tuple[Any, Any]:
    """Both with their joint leading dims."""
    lead = max(a.ndim, b.ndim)
    a, b = (ACG.reshape(x, (*[1] * (lead - x.ndim), *x.shape)) for x in (a, b))
    batch = [m if n == 1 else n for m, n in zip(a.shape[:-2], b.shape[:-2])]
    return ACG.broadcast_to(a, (*batch, *a.shape[-2:])), ACG.broadcast_to(b, (*batch, *b.shape[-2:]))


def triangular(t: Any, b: Any, upper: bool, unit: bool = False) -> Any:
    """X of T X = B by substitution, one column of T a step (trtrs)."""
    n, _ = sizes_of(t)
    place = rows(n)
    for j in reversed(range(n)) if upper else range(n):
        x = row(b, j) if unit else ACG.true_divide(row(b, j), t[..., j : j + 1, j : j + 1])
        rest = ACG.less(place, j) if upper else ACG.greater(place, j)
        left = ACG.subtract(b, ACG.multiply(column(t, j), x))
        b = ACG.where(rest, left, ACG.where(ACG.equal(place, j), x, b))
    return b


def lu(a: Any, pivot: bool = True) -> tuple[Any, Any, Any]:
    """(L and U in one matrix, pivots [.., k] counted from 1, number of the first pivot that is 0 or 0): getrf."""
    m, n = sizes_of(a)
    place, across = rows(m), ACG.arange(n)
    lead = a.shape[:-2]
    info = ACG.zeros(lead, "int32")
    pivots = []
    for j in range(min(m, n)):
        at = ACG.full(lead, j, "int64")
        if pivot:
            size = ACG.where(ACG.greater_equal(ACG.arange(m), j), ACG.abs(a[..., :, j]), -1.0)
            at = ACG.argmax(size, -1)
            a = swapped(a, j, at)
        pivots.append(ACG.add(at, 1).astype("int32"))
        top = a[..., j : j + 1, j : j + 1]
        zero = ACG.equal(top, 0.0)
        info = ACG.where(ACG.logical_and(ACG.equal(info, 0), ACG.reshape(zero, lead)), j + 1, info).astype("int32")
        factor = ACG.true_divide(column(a, j), ACG.where(zero, 1.0, top))
        below = ACG.greater(place, j)
        left = ACG.subtract(a, ACG.multiply(factor, row(a, j)))
        a = ACG.where(
            ACG.logical_and(below, ACG.greater(across, j)),
            left,
            ACG.where(ACG.logical_and(below, ACG.equal(across, j)), factor, a),
        )
    found = ACG.stack(pivots, -1) if pivots else ACG.zeros((*lead, 0), "int32")
    return a, found, info


def swapped(x: Any, j: int, at: Any) -> Any:
    """x [.., m, n] with rows j and `at` [..] exchanged."""
    place = rows(int(x.shape[-2]))
    other = ACG.expand_dims(at, (-1, -2))
    chosen = ACG.sum(ACG.where(ACG.equal(place, other), x, 0).astype(x.type), -2, True)
    return ACG.where(ACG.equal(place, j), chosen, ACG.where(ACG.equal(place, other), row(x, j), x))


def permutation(pivots: Any, m: int) -> Any:
    """[.., m]: the row of A that stands at each place after the exchanges."""
    order = ACG.broadcast_to(rows(m), (*pivots.shape[:-1], m, 1))
    for j in range(int(pivots.shape[-1])):
        order = swapped(order, j, ACG.subtract(pivots[..., j].astype("int64"), 1))
    return ACG.squeeze(order, -1)


def _permuted(x: Any, order: Any) -> Any:
    """Rows of x in the given order."""
    x, order = together(x, ACG.expand_dims(order, -1))
    return ACG.take_along_axis(x, ACG.broadcast_to(order, x.shape), -2)


def permutation_matrix(pivots: Any, m: int, dtype: Any) -> Any:
    """P of A = P L U."""
    return ACG.equal(ACG.expand_dims(permutation(pivots, m), -2), rows(m)).astype(dtype)


def solve_factored(factors: Any, pivots: Any, b: Any, transpose: bool = False) -> Any:
    """X of A X = B, or of A^T X = B, from lu(A): getrs."""
    factors, b = together(factors, b)
    order = permutation(pivots, sizes_of(factors)[0])
    if not transpose:
        b = _permuted(b, order)
        return triangular(factors, triangular(factors, b, False, unit=True), True)
    x = triangular(transposed(factors), b, False)
    x = triangular(transposed(factors), x, True, unit=True)
    return _permuted(x, ACG.argsort(order, -1))


def cholesky_factor(a: Any) -> tuple[Any, Any]:
    """(L of A = L L^T from the lower triangle, number of the first minor that is not positive or 0): potrf."""
    n, _ = sizes_of(a)
    place, across = rows(n), ACG.arange(n)
    info = ACG.zeros(a.shape[:-2], "int32")
    for j in range(n):
        top = a[..., j, j]
        bad = ACG.logical_not(ACG.greater(top, 0.0))
        info = ACG.where(ACG.logical_and(ACG.equal(info, 0), bad), j + 1, info).astype("int32")
        pivot = ACG.sqrt(ACG.expand_dims(top, (-1, -2)))
        factor = ACG.where(ACG.equal(place, j), pivot, ACG.true_divide(column(a, j), pivot))
        left = ACG.subtract(a, ACG.multiply(factor, transposed(factor)))
        inside = ACG.logical_and(ACG.greater(place, j), ACG.greater(across, j))
        on = ACG.logical_and(ACG.greater_equal(place, j), ACG.equal(across, j))
        a = ACG.where(inside, left, ACG.where(on, factor, a))
    return ACG.tril(a), info


@aten("linalg_lu_factor_ex")
def linalg_lu_factor_ex(A: Any, pivot: bool = True, check_errors: bool = False) -> Any:
    factors, pivots, info = lu(wide(A), pivot)
    return factors.astype(A.type), pivots, info


@aten("lu_unpack")
def lu_unpack(LU_data: Any, LU_pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    m, n = (int(size) for size in LU_data.shape[-2:])
    k, empty = min(m, n), ACG.zeros((0,), LU_data.type)
    p = permutation_matrix(LU_pivots, m, LU_data.type) if unpack_pivots else empty
    if not unpack_data:
        return p, empty, empty
    lower = ACG.add(ACG.tril(LU_data[..., :, :k], -1), ACG.eye(m, k, dtype=LU_data.type))
    return p, lower, ACG.triu(LU_data[..., :k, :])


@aten("linalg_lu")
def linalg_lu(A: Any, pivot: bool = True) -> Any:
    p, lower, upper = lu_unpack(*lu(wide(A), pivot)[:2], unpack_pivots=pivot)
    return tuple(x.astype(A.type) for x in (p, lower, upper))


@aten("linalg_lu_solve")
def linalg_lu_solve(LU: Any, pivots: Any, B: Any, left: bool = True, adjoint: bool = False) -> Any:
    if left:
        return solve_factored(wide(LU), pivots, wide(B), adjoint).astype(B.type)
    return transposed(solve_factored(wide(LU), pivots, wide(transposed(B)), not adjoint)).astype(B.type)


def _odd_exchanges(pivots: Any) -> Any:
    """-1.0 where the exchanges of rows change the sign of the determinant, else 1.0."""
    moved = ACG.not_equal(pivots, ACG.add(ACG.arange(pivots.shape[-1]), 1).astype("int32"))
    return ACG.prod(ACG.where(moved, -1.0, 1.0).astype("float64"), -1)


@aten("_linalg_det")
def linalg_det(A: Any) -> Any:
    factors, pivots, _ = lu(wide(A))
    found = ACG.multiply(ACG.prod(diagonal(factors), -1), _odd_exchanges(pivots))
    return found.astype(A.type), factors.astype(A.type), pivots


@aten("_linalg_slogdet")
def linalg_slogdet(A: Any) -> Any:
    factors, pivots, _ = lu(wide(A))
    on = diagonal(factors)
    sign = ACG.multiply(ACG.prod(ACG.sign(on), -1), _odd_exchanges(pivots))
    size = ACG.sum(ACG.log(ACG.abs(on)), -1)
    return sign.astype(A.type), size.astype(A.type), factors.astype(A.type), pivots


@aten("linalg_inv_ex")
def linalg_inv_ex(A: Any, check_errors: bool = False) -> Any:
    factors, pivots, info = lu(wide(A))
    n = int(A.shape[-1])
    return solve_factored(factors, pivots, identity(factors, n, n)).astype(A.type), info


@aten("_linalg_solve_ex")
def linalg_solve_ex(A: Any, B: Any, left: bool = True, check_errors: bool = False) -> Any:
    vector = B.ndim == 1 or (B.ndim == A.ndim - 1 and tuple(B.shape) == tuple(A.shape[:-1]))
    b = ACG.expand_dims(B, -1) if vector else B if left else transposed(B)
    factors, pivots, info = lu(wide(A))
    x = solve_factored(factors, pivots, wide(b), transpose=not left and not vector).astype(B.type)
    x = ACG.squeeze(x, -1) if vector else x if left else transposed(x)
    return x, factors.astype(A.type), pivots, info


@aten("linalg_solve_triangular")
def linalg_solve_triangular(
    self: Any, B: Any, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:  # fmt: skip
    t, b = together(wide(self), wide(B)) if left else together(wide(transposed(self)), wide(transposed(B)))
    x = triangular(t, b, upper == left, unitriangular).astype(B.type)
    return x if left else transposed(x)


@aten("triangular_solve")
def triangular_solve(
    self: Any, A: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:  # fmt: skip
    t, b = together(wide(transposed(A) if transpose else A), wide(self))
    x = triangular(t, b, upper != transpose, unitriangular).astype(self.type)
    return x, ACG.broadcast_to(A, (*x.shape[:-2], *A.shape[-2:]))


@aten("linalg_cholesky_ex")
def linalg_cholesky_ex(self: Any, upper: bool = False, check_errors: bool = False) -> Any:
    found, info = cholesky_factor(wide(transposed(self) if upper else self))
    return (transposed(found) if upper else found).astype(self.type), info


@aten("cholesky")
def cholesky(self: Any, upper: bool = False) -> Any:
    return linalg_cholesky_ex(self, upper)[0]


@aten("cholesky_solve")
def cholesky_solve(self: Any, input2: Any, upper: bool = False) -> Any:
    factor, b = together(wide(transposed(input2) if upper else input2), wide(self))
    return triangular(transposed(factor), triangular(factor, b, False), True).astype(self.type)


@aten("cholesky_inverse")
def cholesky_inverse(self: Any, upper: bool = False) -> Any:
    n = int(self.shape[-1])
    return cholesky_solve(identity(self, n, n), self, upper)
