"""Operations of ATen that make tensors."""

from __future__ import annotations

from typing import Any

from deepseek import ACG

from ..pairs import PARTS, Complex
from ..registry import aten


def _type(dtype: Any, value: Any = None) -> Any:
    """The dtype asked for, or torch's default for a fill value."""
    if dtype is not None:
        return dtype
    if isinstance(value, bool):
        return "bool"
    return "int64" if isinstance(value, (int, ACG.SymInt)) else "float32"


def _full(size: Any, value: Any, dtype: Any) -> Any:
    if dtype in PARTS:
        parts = complex(value)
        return Complex(*(_full(size, part, PARTS[dtype]) for part in (parts.real, parts.imag)))
    if isinstance(value, (ACG.Array, ACG.SymInt)):
        return ACG.broadcast_to(ACG.asarray(value, dtype), tuple(size))
    return ACG.full(tuple(size), value, dtype)


@aten("full")
def full(size: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, fill_value, _type(dtype, fill_value))


@aten("full_like")
def full_like(self: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(self.shape, fill_value, dtype or self.type)


@aten("new_full")
def new_full(self: Any, size: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, fill_value, dtype or self.type)


@aten("fill")
def fill(self: Any, value: Any) -> Any:
    return _full(self.shape, value, self.type)


@aten("zeros", "empty.memory_format", "empty_permuted")
def zeros(size: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, 0, dtype or "float32")


@aten("empty_strided")
def empty_strided(size: Any, stride: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, 0, dtype or "float32")


@aten("ones")
def ones(size: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, 1, dtype or "float32")


@aten("zeros_like", "empty_like")
def zeros_like(self: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(self.shape, 0, dtype or self.type)


@aten("zero")
def zero(self: Any) -> Any:
    return _full(self.shape, 0, self.type)


@aten("ones_like")
def ones_like(self: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(self.shape, 1, dtype or self.type)


@aten("new_zeros", "new_empty")
def new_zeros(self: Any, size: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, 0, dtype or self.type)


@aten("new_empty_strided")
def new_empty_strided(self: Any, size: Any, stride: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, 0, dtype or self.type)


@aten("new_ones")
def new_ones(self: Any, size: Any, dtype: Any = None, **options: Any) -> Any:
    return _full(size, 1, dtype or self.type)


@aten("scalar_tensor")
def scalar_tensor(s: Any, dtype: Any = None, **options: Any) -> Any:
    return _full((), s, dtype or "float32")


@aten("arange.default")
def arange(end: Any, dtype: Any = None, **options: Any) -> Any:
    return _range(0, end, 1, dtype)


@aten("arange.start")
def arange_start(start: Any, end: Any, dtype: Any = None, **options: Any) -> Any:
    return _range(start, end, 1, dtype)


@aten("arange.start_step")
def arange_step(start: Any, end: Any, step: Any = 1, dtype: Any = None, **options: Any) -> Any:
    return _range(start, end, step, dtype)


@aten("prims::iota")
def iota(length: Any, start: Any, step: Any, dtype: Any = None, **options: Any) -> Any:
    return _range(start, start + length * step, step, dtype)


def _range(start: Any, end: Any, step: Any, dtype: Any) -> Any:
    whole = all(isinstance(v, (int, ACG.SymInt)) for v in (start, end, step))
    return ACG.arange(start, end, step, dtype=dtype or ("int64" if whole else "float32"))


@aten("eye.default")
def eye(n: Any, dtype: Any = None, **options: Any) -> Any:
    return ACG.eye(n, dtype=dtype or "float32")


@aten("eye.m")
def eye_m(n: Any, m: Any, dtype: Any = None, **options: Any) -> Any:
    return ACG.eye(n, m, dtype=dtype or "float32")


@aten("tril")
def tril(self: Any, diagonal: int = 0) -> Any:
    return ACG.tril(self, diagonal)


@aten("triu")
def triu(self: Any, diagonal: int = 0) -> Any:
    return ACG.triu(self, diagonal)
