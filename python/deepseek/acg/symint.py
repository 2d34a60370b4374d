"""SymInt: what `x.shape[i]` gives. Arithmetic stays symbolic; comparing asks, and may record a guard."""

from __future__ import annotations

from typing import Any

from . import sizes
from .dims import Dims
from .sizes import Size
from .source import fail


class SymInt:
    """An integer expression in the dims of one trace; int(), range() and hashing fix it to the example's size."""

    __slots__ = ("dims", "size")

    def __init__(self, dims: Dims, size: Size) -> None:
        self.dims, self.size = dims, size

    @property
    def resolved(self) -> Size:
        return self.dims.resolve(self.size)

    def _new(self, size: Size) -> int | SymInt:
        return size if isinstance(size, int) else SymInt(self.dims, size)

    def __add__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._new(sizes.add(self.resolved, b))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._new(sizes.sub(self.resolved, b))

    def __rsub__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._new(sizes.sub(b, self.resolved))

    def __mul__(self, other: Any) -> Any:
        b = as_size(other)
        if b is None:
            return int(self) * other if isinstance(other, (float, list, tuple, str)) else NotImplemented
        return self._new(sizes.mul(self.resolved, b))

    __rmul__ = __mul__

    def _divide(self, op: str, a: Size, b: Size) -> Any:
        if self.dims.equal(b, 0):
            raise ZeroDivisionError("integer division by zero")
        a, b = self.dims.resolve(a), self.dims.resolve(b)
        if op == "%" and not isinstance(a, int) and isinstance(b, int) and b > 0:
            divisor = sizes.as_symbol(a)
            if divisor is not None and divisor.divisor % b == 0:
                return 0
        return self._new(self.dims.resolve(sizes.call(op, a, b)))

    def __floordiv__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._divide("//", self.resolved, b)

    def __rfloordiv__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._divide("//", b, self.resolved)

    def __mod__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._divide("%", self.resolved, b)

    def __rmod__(self, other: Any) -> Any:
        b = as_size(other)
        return NotImplemented if b is None else self._divide("%", b, self.resolved)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __neg__(self) -> Any:
        return self._new(sizes.mul(self.resolved, -1))

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __truediv__(self, other: Any) -> Any:
        return int(self) / int(other) if as_size(other) is not None else _with_number(self, other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> Any:
        return int(other) / int(self) if as_size(other) is not None else _with_number(self, other, lambda a, b: b / a)

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, int) and not isinstance(other, bool) and other >= 0:
            total: Any = 1
            for _ in range(other):
                total = self * total
            return total
        return _with_number(self, other, lambda a, b: a**b)

    def __rpow__(self, other: Any) -> Any:
        return _with_number(self, other, lambda a, b: b**a)

    def __eq__(self, other: object) -> bool:
        b = as_size(other)
        if b is None:
            return isinstance(other, float) and other == int(self)
        return self.dims.equal(self.size, b)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __ge__(self, other: Any) -> bool:
        b = as_size(other)
        return int(self) >= other if b is None else self.dims.at_least(self.size, b)

    def __lt__(self, other: Any) -> bool:
        return not self >= other

    def __gt__(self, other: Any) -> bool:
        b = as_size(other)
        return int(self) > other if b is None else self.dims.at_least(self.size, sizes.add(b, 1))

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __bool__(self) -> bool:
        return self != 0

    def __int__(self) -> int:
        resolved = self.resolved
        if isinstance(resolved, int):
            return resolved
        hint = self.dims.hint(resolved)
        if hint is None:
            fail(
                f"the number {sizes.show(resolved)} is needed here, but this trace leaves that size open",
                "give the dim a fixed size, or keep the arithmetic to + - * // % and ACG functions",
            )
        self.dims.equal(resolved, hint)
        return hint

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __hash__(self) -> int:
        return hash(int(self))

    def __repr__(self) -> str:
        return sizes.show(self.resolved)


def _with_number(dim: SymInt, other: Any, apply: Any) -> Any:
    """For a float or an array that is not ours, the number itself; arrays of ours handle the dim themselves."""
    return apply(int(dim), other) if isinstance(other, (int, float, complex)) else NotImplemented


def as_size(value: Any) -> Size | None:
    """The size that `value` (int, numpy integer or SymInt) stands for; None for anything else."""
    if isinstance(value, SymInt):
        return value.resolved
    if isinstance(value, int):
        return int(value)
    if hasattr(value, "__index__") and getattr(value, "shape", None) == () and not hasattr(value, "acg_value"):
        return int(value)
    return None


def min_dim(a: Any, b: Any) -> Any:
    """min(a, b) of two sizes without asking which is smaller."""
    return _extreme("min", a, b)


def max_dim(a: Any, b: Any) -> Any:
    """max(a, b) of two sizes without asking which is larger."""
    return _extreme("max", a, b)


def _extreme(op: str, a: Any, b: Any) -> Any:
    for value in (a, b):
        if isinstance(value, SymInt):
            return value._new(value.dims.resolve(sizes.call(op, as_size(a), as_size(b))))
    return min(a, b) if op == "min" else max(a, b)
