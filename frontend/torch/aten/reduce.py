"""Reductions, running totals and orders of ATen."""

from __future__ import annotations

import math
from typing import Any

from deepseek import ACG

from ..registry import aten


def _axes(dim: Any) -> Any:
    """torch's empty list of dims means all."""
    if isinstance(dim, (list, tuple)):
        return tuple(dim) or None
    return dim


def _over(fn: Any, x: Any, dim: Any, keepdim: bool) -> Any:
    if not x.ndim:
        return fn(ACG.expand_dims(x, 0), 0)
    axes = _axes(dim)
    return fn(x, axes, keepdim) if keepdim else fn(x, axes)


def _cast(x: Any, dtype: Any) -> Any:
    return x if dtype is None else x.astype(dtype)


@aten("sum")
def sum_(self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return _over(ACG.sum, _cast(self, dtype), dim, keepdim)


@aten("nansum")
def nansum(self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    x = ACG.where(ACG.isnan(self), 0, self).astype(self.type) if self.type.is_float else self
    return sum_(x, dim, keepdim, dtype)


@aten("mean")
def mean(self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return _over(ACG.mean, _cast(self, dtype), dim, keepdim)


@aten("prod.default")
def prod(self: Any, dtype: Any = None) -> Any:
    return _over(ACG.prod, _cast(self, dtype), None, False)


@aten("prod.dim_int")
def prod_dim(self: Any, dim: int, keepdim: bool = False, dtype: Any = None) -> Any:
    return _over(ACG.prod, _cast(self, dtype), dim, keepdim)


@aten("amax")
def amax(self: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return _over(ACG.max, self, dim, keepdim)


@aten("amin")
def amin(self: Any, dim: Any = (), keepdim: bool = False) -> Any:
    return _over(ACG.min, self, dim, keepdim)


@aten("aminmax")
def aminmax(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _over(ACG.min, self, dim, keepdim), _over(ACG.max, self, dim, keepdim)


@aten("max.default")
def max_all(self: Any) -> Any:
    return _over(ACG.max, self, None, False)


@aten("min.default")
def min_all(self: Any) -> Any:
    return _over(ACG.min, self, None, False)


@aten("max.other")
def max_other(self: Any, other: Any) -> Any:
    return ACG.maximum(self, other)


@aten("min.other")
def min_other(self: Any, other: Any) -> Any:
    return ACG.minimum(self, other)


@aten("max.dim")
def max_dim(self: Any, dim: int, keepdim: bool = False) -> Any:
    return _over(ACG.max, self, dim, keepdim), _over(ACG.argmax, self, dim, keepdim)


@aten("min.dim")
def min_dim(self: Any, dim: int, keepdim: bool = False) -> Any:
    return _over(ACG.min, self, dim, keepdim), _over(ACG.argmin, self, dim, keepdim)


@aten("argmax")
def argmax(self: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return _over(ACG.argmax, self, dim, keepdim)


@aten("argmin")
def argmin(self: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    return _over(ACG.argmin, self, dim, keepdim)


@aten("any")
def any_(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _over(ACG.any, self, dim, keepdim)


@aten("all")
def all_(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return _over(ACG.all, self, dim, keepdim)


@aten("count_nonzero")
def count_nonzero(self: Any, dim: Any = None) -> Any:
    return _over(ACG.sum, ACG.not_equal(self, 0).astype("int64"), dim, False)


def _spread(fn: Any, x: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    correction = 1 if correction is None else correction
    if int(correction) != correction:
        wide = fn is ACG.std
        n = ACG.sum(ACG.ones_like(x), _axes(dim), keepdim)
        found = ACG.var(x, _axes(dim), keepdim)
        found = ACG.true_divide(ACG.multiply(found, n), ACG.maximum(ACG.subtract(n, correction), 0))
        return ACG.sqrt(found) if wide else found
    if not x.ndim:
        return _spread(fn, ACG.expand_dims(x, 0), 0, correction, False)
    return fn(x, _axes(dim), keepdim, ddof=int(correction))


@aten("var.correction")
def var(self: Any, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    return _spread(ACG.var, self, dim, correction, keepdim)


@aten("std.correction")
def std(self: Any, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    return _spread(ACG.std, self, dim, correction, keepdim)


@aten("var_mean.correction")
def var_mean(self: Any, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    return var(self, dim, correction, keepdim), _over(ACG.mean, self, dim, keepdim)


@aten("std_mean.correction")
def std_mean(self: Any, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Any:
    return std(self, dim, correction, keepdim), _over(ACG.mean, self, dim, keepdim)


@aten("logsumexp.default", "special_logsumexp")
def logsumexp(self: Any, dim: Any, keepdim: bool = False) -> Any:
    return _over(ACG.logsumexp, self, dim, keepdim)


@aten("linalg_vector_norm")
def linalg_vector_norm(self: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    x = ACG.abs(_cast(self, dtype))
    if ord == math.inf:
        return _over(ACG.max, x, dim, keepdim)
    if ord == -math.inf:
        return _over(ACG.min, x, dim, keepdim)
    if ord == 0:
        return _over(ACG.sum, ACG.not_equal(x, 0).astype(x.type), dim, keepdim)
    if ord == 1:
        return _over(ACG.sum, x, dim, keepdim)
    if ord == 2:
        return ACG.sqrt(_over(ACG.sum, ACG.multiply(x, x), dim, keepdim))
    return ACG.power(_over(ACG.sum, ACG.power(x, float(ord)), dim, keepdim), 1.0 / ord)


@aten("cumsum")
def cumsum(self: Any, dim: int, dtype: Any = None) -> Any:
    return ACG.cumsum(self, dim, dtype)


@aten("cumprod")
def cumprod(self: Any, dim: int, dtype: Any = None) -> Any:
    return ACG.cumprod(self, dim, dtype)


@aten("cummax")
def cummax(self: Any, dim: int) -> Any:
    return ACG.cummax(self, dim)


@aten("cummin")
def cummin(self: Any, dim: int) -> Any:
    return ACG.cummin(self, dim)


@aten("logcumsumexp", "_logcumsumexp")
def logcumsumexp(self: Any, dim: int) -> Any:
    return ACG.logcumsumexp(self, dim)


@aten("sort.default")
def sort(self: Any, dim: int = -1, descending: bool = False) -> Any:
    return _sorted(self, dim, descending)


@aten("sort.stable")
def sort_stable(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    return _sorted(self, dim, descending)


def _sorted(x: Any, dim: int, descending: bool) -> Any:
    positions = ACG.argsort(x, dim, descending)
    return (ACG.take_along_axis(x, positions, dim) if x.ndim else x), positions


@aten("argsort.default")
def argsort(self: Any, dim: int = -1, descending: bool = False) -> Any:
    return ACG.argsort(self, dim, descending)


@aten("argsort.stable")
def argsort_stable(self: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    return ACG.argsort(self, dim, descending)


@aten("msort")
def msort(self: Any) -> Any:
    return ACG.sort(self, 0) if self.ndim else self


@aten("topk")
def topk(self: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return ACG.topk(self, k, dim, largest)


@aten("kthvalue")
def kthvalue(self: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    return _at_rank(self, lambda n: k - 1, dim, keepdim)


def _at_rank(x: Any, rank: Any, dim: int, keepdim: bool) -> Any:
    """(element of the given rank of a dim, its position)."""
    if not x.ndim:
        return x, ACG.argsort(x)
    axis = dim % x.ndim
    at = rank(x.shape[axis])
    positions = ACG.argsort(x, axis)[(*[slice(None)] * axis, slice(at, at + 1))]
    values = ACG.take_along_axis(x, positions, axis)
    return (values, positions) if keepdim else (ACG.squeeze(values, axis), ACG.squeeze(positions, axis))


@aten("median.dim")
def median_dim(self: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The lower of two middle elements; a NaN is the median."""
    found = _at_rank(self, lambda n: (n - 1) // 2, dim, keepdim)
    if not self.type.is_float or not self.ndim:
        return found
    worst = _at_rank(self, lambda n: n - 1, dim, keepdim)
    spoilt = ACG.isnan(worst[0])
    first_nan = ACG.argmax(ACG.isnan(self).astype("int32"), dim, keepdim)
    return ACG.where(spoilt, worst[0], found[0]), ACG.where(spoilt, first_nan, found[1])


@aten("median.default")
def median(self: Any) -> Any:
    return median_dim(ACG.reshape(self, -1), 0)[0]


@aten("nanmedian.dim")
def nanmedian_dim(self: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The lower of the two middle elements that are numbers."""
    if not self.ndim:
        return self, ACG.argsort(self)
    axis = dim % self.ndim
    numbers = ACG.sum(ACG.logical_not(ACG.isnan(self)).astype("int64"), axis, True)
    at = ACG.maximum(ACG.floor_divide(ACG.subtract(numbers, 1), 2), 0)
    positions = ACG.take_along_axis(ACG.argsort(self, axis), at, axis)
    values = ACG.take_along_axis(self, positions, axis)
    return (values, positions) if keepdim else (ACG.squeeze(values, axis), ACG.squeeze(positions, axis))


@aten("nanmedian.default")
def nanmedian(self: Any) -> Any:
    return nanmedian_dim(ACG.reshape(self, -1), 0)[0]


@aten("mode")
def mode(self: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The most frequent element, of equally frequent ones the smallest, and the last position of it."""
    if not self.ndim:
        return self, ACG.argsort(self)
    x = ACG.swapaxes(self, dim, -1)
    order = ACG.argsort(x, -1)
    values = ACG.take_along_axis(x, order, -1)
    same = ACG.equal(ACG.expand_dims(values, -1), ACG.expand_dims(values, -2))
    best = ACG.argmax(ACG.sum(same.astype("int64"), -1), -1, True)
    value = ACG.take_along_axis(values, best, -1)
    n = x.shape[-1]
    last = ACG.max(ACG.where(ACG.equal(x, value), ACG.arange(n), -1), -1, True)
    found = ACG.swapaxes(value, dim, -1), ACG.swapaxes(last, dim, -1)
    return found if keepdim else tuple(ACG.squeeze(v, dim) for v in found)
