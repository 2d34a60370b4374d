"""Operations of ATen on complex tensors, as operations on their real parts."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree as pytree

from deepseek import ACG

from ..pairs import PARTS, Complex, is_complex
from ..registry import aten, named, on_complex
from .elementwise import hypot

# Operations that move elements about, or are linear with real coefficients: done to both parts.
_BY_PARTS = [
    "view.default", "reshape", "_unsafe_view", "view_copy.default", "_reshape_alias", "view_as", "reshape_as",
    "flatten.using_ints", "unflatten.int", "permute", "permute_copy", "transpose.int", "transpose_copy.int", "t", "mT",
    "swapaxes", "swapdims", "movedim.intlist", "movedim.int", "expand", "expand_copy", "expand_as", "broadcast_to",
    "squeeze.default", "squeeze.dim", "squeeze.dims", "squeeze_copy.dim", "squeeze_copy.dims", "unsqueeze",
    "unsqueeze_copy", "cat", "stack", "split.Tensor", "split_with_sizes", "chunk", "unbind.int", "slice.Tensor",
    "slice_copy.Tensor", "narrow", "select.int", "select_copy.int", "flip", "roll", "repeat", "tile", "diagonal",
    "diag_embed", "as_strided", "as_strided_copy", "unfold", "unfold_copy", "tril", "triu", "index.Tensor",
    "index_select", "gather", "take", "embedding", "index_put", "scatter.src", "select_scatter", "slice_scatter",
    "clone", "alias", "alias_copy", "contiguous", "detach", "detach_copy", "lift", "lift_fresh", "lift_fresh_copy",
    "resolve_conj", "resolve_neg", "positive", "neg", "sum", "mean", "cumsum", "zeros_like", "where.self",
]  # fmt: skip


def _by_parts(fn: Any) -> Any:
    def apply(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        mixed = any(is_complex(leaf) for leaf in leaves)

        def side(part: str) -> Any:
            chosen = [getattr(leaf, part) if is_complex(leaf) else leaf for leaf in leaves]
            found_args, found_kwargs = pytree.tree_unflatten(chosen, spec)
            return fn(*found_args, **found_kwargs)

        assert mixed
        re, im = side("re"), side("im")
        return [Complex(*parts) for parts in zip(re, im)] if isinstance(re, (list, tuple)) else Complex(re, im)

    return apply


def _lifted(fn: Any) -> Any:
    """`fn` with the real tensors among its arrays made complex ones (cat, where, index_put of both kinds)."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        def lift(value: Any) -> Any:
            if isinstance(value, ACG.Array) and value.type.is_float:
                return Complex.of(value)
            return [lift(v) for v in value] if isinstance(value, list) else value

        return fn(*map(lift, args), **{key: lift(v) for key, v in kwargs.items()})

    return apply


for _name in _BY_PARTS:
    on_complex(_name)(_lifted(_by_parts(named(_name))))


def conj(z: Complex) -> Complex:
    return Complex(z.re, ACG.negative(z.im))


on_complex("conj", "_conj", "conj_physical", "_conj_physical")(lambda self: conj(self))
on_complex("real")(lambda self: self.re)
on_complex("imag")(lambda self: self.im)
on_complex("view_as_real", "view_as_real_copy")(lambda self: ACG.stack([self.re, self.im], -1))
on_complex("abs")(lambda self: hypot(self.re, self.im))
on_complex("angle")(lambda self: ACG.arctan2(self.im, self.re))


@aten("view_as_complex", "view_as_complex_copy")
def view_as_complex(self: Any) -> Complex:
    return Complex.of_pairs(self)


@aten("complex")
def make(real: Any, imag: Any) -> Complex:
    return Complex(*ACG.broadcast_arrays(real, imag))


@aten("polar")
def polar(abs: Any, angle: Any) -> Complex:
    return Complex(ACG.multiply(abs, ACG.cos(angle)), ACG.multiply(abs, ACG.sin(angle)))


def _sides(a: Any, b: Any) -> tuple[Complex, Complex]:
    return Complex.of(a), Complex.of(b)


def multiply(a: Any, b: Any) -> Complex:
    if not (is_complex(a) and is_complex(b)) and not isinstance(a, complex) and not isinstance(b, complex):
        z, factor = (a, b) if is_complex(a) else (b, a)
        return Complex(ACG.multiply(z.re, factor), ACG.multiply(z.im, factor))
    a, b = _sides(a, b)
    re = ACG.subtract(ACG.multiply(a.re, b.re), ACG.multiply(a.im, b.im))
    return Complex(re, ACG.add(ACG.multiply(a.re, b.im), ACG.multiply(a.im, b.re)))


@on_complex("mul", "multiply")
def mul(self: Any, other: Any) -> Complex:
    return multiply(self, other)


@on_complex("add")
def add(self: Any, other: Any, alpha: Any = 1) -> Complex:
    a, b = _sides(self, other if alpha == 1 else multiply(Complex.of(other), alpha))
    return Complex(*ACG.broadcast_arrays(ACG.add(a.re, b.re), ACG.add(a.im, b.im)))


@on_complex("sub", "subtract")
def sub(self: Any, other: Any, alpha: Any = 1) -> Complex:
    a, b = _sides(self, other if alpha == 1 else multiply(Complex.of(other), alpha))
    return Complex(*ACG.broadcast_arrays(ACG.subtract(a.re, b.re), ACG.subtract(a.im, b.im)))


@on_complex("rsub")
def rsub(self: Any, other: Any, alpha: Any = 1) -> Complex:
    return sub(other, self, alpha)


@on_complex("div", "divide", "true_divide")
def div(self: Any, other: Any, rounding_mode: str | None = None) -> Complex:
    """Smith 1962 (CACM 5, 435): scaled by the larger part of the divisor, so that nothing overflows on the way."""
    if not is_complex(other) and not isinstance(other, complex):
        return Complex(ACG.true_divide(self.re, other), ACG.true_divide(self.im, other))
    a, b = _sides(self, other)
    b = Complex(ACG.asarray(b.re), ACG.asarray(b.im))
    flat = ACG.greater_equal(ACG.abs(b.re), ACG.abs(b.im))
    big, small = ACG.where(flat, b.re, b.im), ACG.where(flat, b.im, b.re)
    ratio = ACG.true_divide(small, big)
    whole = ACG.add(big, ACG.multiply(small, ratio))
    first, second = ACG.where(flat, a.re, a.im), ACG.where(flat, a.im, a.re)
    re = ACG.true_divide(ACG.add(first, ACG.multiply(second, ratio)), whole)
    im = ACG.true_divide(ACG.subtract(second, ACG.multiply(first, ratio)), whole)
    return Complex(re, ACG.where(flat, im, ACG.negative(im)))


@on_complex("reciprocal")
def reciprocal(self: Any) -> Complex:
    return div(1.0 + 0j, self)


@on_complex("exp")
def exp(self: Any) -> Complex:
    return polar(ACG.exp(self.re), self.im)


@on_complex("log")
def log(self: Any) -> Complex:
    return Complex(ACG.log(hypot(self.re, self.im)), ACG.arctan2(self.im, self.re))


@on_complex("sgn")
def sgn(self: Any) -> Complex:
    size = hypot(self.re, self.im)
    size = ACG.where(ACG.equal(size, 0.0), 1.0, size)
    return Complex(ACG.true_divide(self.re, size), ACG.true_divide(self.im, size))


@on_complex("mm", "bmm", "matmul", "mv", "linalg_matmul")
def matmul(self: Any, other: Any = None, mat2: Any = None, vec: Any = None) -> Complex:
    a, b = _sides(self, next(v for v in (other, mat2, vec) if v is not None))
    re = ACG.subtract(ACG.matmul(a.re, b.re), ACG.matmul(a.im, b.im))
    return Complex(re, ACG.add(ACG.matmul(a.re, b.im), ACG.matmul(a.im, b.re)))


def _both(join: Any, fn: Any) -> Any:
    def apply(self: Any, *rest: Any) -> Any:
        if not rest:
            return join(fn(self.re), fn(self.im))
        a, b = _sides(self, rest[0])
        return join(fn(a.re, b.re), fn(a.im, b.im))

    return apply


on_complex("eq")(_both(ACG.logical_and, ACG.equal))
on_complex("ne", "not_equal")(_both(ACG.logical_or, ACG.not_equal))
on_complex("isnan")(_both(ACG.logical_or, ACG.isnan))
on_complex("isinf")(_both(ACG.logical_or, ACG.isinf))
on_complex("isfinite")(_both(ACG.logical_and, ACG.isfinite))


@on_complex("constant_pad_nd")
def constant_pad_nd(self: Any, pad: Any, value: Any = 0) -> Complex:
    fill = complex(value)
    inner = named("constant_pad_nd")
    return Complex(inner(self.re, pad, fill.real), inner(self.im, pad, fill.imag))


@on_complex("_to_copy", "to.dtype", "to.dtype_layout", "prims::convert_element_type")
def to(self: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    wanted = next((v for v in (dtype, *args) if type(v).__name__ == "dtype"), None)
    if wanted is None:
        return self
    if wanted not in PARTS:
        return self.re.astype(wanted)
    return Complex(self.re.astype(PARTS[wanted]), self.im.astype(PARTS[wanted]))
