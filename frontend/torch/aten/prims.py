"""PyTorch's prims, which decompositions end in: most are an ATen operation under the same name."""

from __future__ import annotations

from typing import Any

from deepseek import ACG

from ..registry import aten, named

_SAME = [
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and", "bitwise_not", "bitwise_or",
    "bitwise_xor", "ceil", "cos", "cosh", "eq", "erf", "erfc", "exp", "exp2", "expm1", "floor", "fmax", "fmin",
    "fmod", "ge", "gt", "hypot", "isfinite", "le", "log", "log10", "log1p", "log2", "lt", "maximum", "minimum", "mul",
    "ne", "neg", "nextafter", "pow", "reciprocal", "remainder", "round", "rsqrt", "sign", "signbit", "sin", "sinh",
    "sqrt", "sub", "add", "tan", "tanh", "trunc", "where", "clone", "empty_strided", "scalar_tensor",
]  # fmt: skip

for _name in _SAME:
    _found = named(_name)
    if _found is not None:
        aten(f"prims::{_name}")(lambda *args, _fn=_found, **kwargs: _fn(*args, **kwargs))


@aten("prims::shift_left")
def shift_left(self: Any, other: Any) -> Any:
    return ACG.left_shift(self, other)


@aten("prims::shift_right_arithmetic")
def shift_right(self: Any, other: Any) -> Any:
    return ACG.right_shift(self, other)


@aten("prims::div")
def div(a: Any, b: Any) -> Any:
    """Truncates integers, as C does."""
    from .elementwise import div as divide

    return ACG.true_divide(a, b) if a.type.is_float else divide(a, b, "trunc")


def _reduction(name: str, apply: Any) -> None:
    def reduce(inp: Any, dims: Any, output_dtype: Any = None, **options: Any) -> Any:
        out = apply(inp, tuple(dims)) if dims else inp
        return out if output_dtype is None else out.astype(output_dtype)

    aten(f"prims::{name}")(reduce)


for _name in ("sum", "prod", "amax", "amin", "any", "all"):
    _reduction(_name, getattr(ACG, _name.removeprefix("a") if _name.startswith("am") else _name))


@aten("prims::var")
def var(inp: Any, dims: Any, correction: float = 1, output_dtype: Any = None) -> Any:
    from .reduce import var as spread

    return spread(inp, dims, correction)


@aten("prims::reshape", "prims::view_of_dtype")
def reshape(a: Any, shape: Any) -> Any:
    return ACG.reshape(a, tuple(shape))


@aten("prims::collapse", "prims::collapse_view")
def collapse(a: Any, start: int, end: int) -> Any:
    from .layout import flatten

    return flatten(a, start, end)


@aten("prims::split_dim")
def split_dim(a: Any, dim: int, outer_length: Any) -> Any:
    return ACG.reshape(a, (*a.shape[:dim], outer_length, a.shape[dim] // outer_length, *a.shape[dim + 1 :]))


@aten("prims::cat")
def cat(tensors: Any, dim: int) -> Any:
    from .layout import cat as join

    return join(tensors, dim)


@aten("prims::expand_dims")
def expand_dims(a: Any, dimensions: Any, ndim: Any = None) -> Any:
    return ACG.expand_dims(a, tuple(dimensions))


@aten("prims::device_put")
def device_put(a: Any, device: Any, non_blocking: bool = False) -> Any:
    return a


@aten("prims::full")
def full(shape: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Any:
    from .create import full as make

    return make(shape, fill_value, dtype)


@aten("prims::full_like")
def full_like(a: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Any:
    from .create import full_like as make

    return make(a, fill_value, dtype)
