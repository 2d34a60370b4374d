"""Elementwise functions written as Python on scalars: one linalg.generic each, whatever their length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from .. import dtypes
from ..array import Array, as_array, function, joint_kind
from ..dtypes import BOOL, F64, DType
from ..ir import Body
from ..source import fail
from . import scalar
from .pointwise import common_type, constant, operand, pointwise

_UNARY = {
    "exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "erf", "erfc", "expm1", "log1p", "floor", "ceil", "trunc",
    "exp2", "log2", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "roundeven", "cbrt", "absf",
}  # fmt: skip


class Scalar:
    """A number inside a formula: Python's arithmetic and comparisons, and `.exp()`, `.log()`, ..."""

    def __init__(self, body: Body, dtype: DType, name: str) -> None:
        self.body, self.dtype, self.name = body, dtype, name

    def _other(self, value: Any) -> str:
        return value.name if isinstance(value, Scalar) else constant(self.body, value, self.dtype)

    def _emit(self, op: str, *names: str) -> Scalar:
        text = f"{op} {', '.join(names)} : {self.dtype.mlir}"
        return Scalar(self.body, self.dtype, self.body.emit(text))

    def _binary(self, op: str, other: Any, swap: bool = False) -> Scalar:
        names = (self.name, self._other(other))
        return self._emit(op, *(names[::-1] if swap else names))

    def __add__(self, other: Any) -> Scalar:
        return self._binary("arith.addf", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Scalar:
        return self._binary("arith.subf", other)

    def __rsub__(self, other: Any) -> Scalar:
        return self._binary("arith.subf", other, swap=True)

    def __mul__(self, other: Any) -> Scalar:
        return self._binary("arith.mulf", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Scalar:
        return self._binary("arith.divf", other)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self._binary("arith.divf", other, swap=True)

    def __pow__(self, other: Any) -> Scalar:
        return self._binary("math.powf", other)

    def __neg__(self) -> Scalar:
        return self._emit("arith.negf", self.name)

    def __abs__(self) -> Scalar:
        return self._emit("math.absf", self.name)

    def __getattr__(self, name: str) -> Callable[[], Scalar]:
        if name not in _UNARY:
            raise AttributeError(f"a scalar of a formula has no {name}")
        return lambda: self._emit(f"math.{name}", self.name)

    def copysign(self, other: Scalar) -> Scalar:
        return self._binary("math.copysign", other)

    def _compare(self, predicate: str, other: Any) -> Scalar:
        name = scalar.compare(self.body, self.dtype, predicate, self.name, self._other(other))
        return Scalar(self.body, BOOL, name)

    def __lt__(self, other: Any) -> Scalar:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Scalar:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Scalar:
        return self._compare("gt", other)

    def __ge__(self, other: Any) -> Scalar:
        return self._compare("ge", other)

    def __eq__(self, other: Any) -> Scalar:  # type: ignore[override]
        return self._compare("eq", other)

    def __ne__(self, other: Any) -> Scalar:  # type: ignore[override]
        return self._compare("ne", other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Scalar) -> Scalar:
        return self._emit("arith.andi", self.name, other.name)

    def __or__(self, other: Scalar) -> Scalar:
        return self._emit("arith.ori", self.name, other.name)

    def __invert__(self) -> Scalar:
        return self._emit("arith.xori", self.name, constant(self.body, True, BOOL))

    def __bool__(self) -> NoReturn:  # noqa: PLE0304 (it always fails)
        fail("a formula runs for all elements at once: use select(condition, a, b)")

    def select(self, x: Any, y: Any) -> Scalar:
        """x where this condition holds, else y; at least one of them is a scalar of the formula."""
        one = x if isinstance(x, Scalar) else y
        names = [v.name if isinstance(v, Scalar) else constant(self.body, v, one.dtype) for v in (x, y)]
        return Scalar(self.body, one.dtype, scalar.select(self.body, one.dtype, self.name, *names))


def polynomial(x: Scalar, coefficients: Any) -> Scalar:
    """Horner's scheme, the coefficient of the highest power first."""
    first, second, *rest = coefficients
    total = x * first + second
    for c in rest:
        total = total * x + c
    return total


@function
def formula(fn: Callable[..., Scalar], *arrays: Any, compute: Any = F64) -> Array:
    """`fn(*scalars)` for every element of the broadcast arrays, computed in `compute` and rounded once.

    `fn` uses Python's arithmetic, comparisons, methods such as x.exp(), and condition.select(a, b); it is traced, so
    it has no if and no while on scalars. Integers become the default float.
    """
    operands = [operand(a) for a in arrays]
    if not any(isinstance(o, Array) for o in operands):
        operands[0] = as_array(operands[0])
    result = dtypes.float_of(common_type(operands), joint_kind(*operands))
    dtype = dtypes.parse(compute)

    def body(b: Body, *names: str) -> str:
        return fn(*(Scalar(b, dtype, name) for name in names)).name

    return pointwise(fn.__name__, operands, [dtype] * len(operands), dtype, result, body)
