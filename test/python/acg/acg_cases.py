"""One program per array function, with inputs and the numpy formula it must agree with.

Sizes 0, 1, 7 and 127 for the elementwise ones; structural functions have shapes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401 (registers bfloat16 with numpy)
import numpy as np

from deepseek import ACG

SIZES = (0, 1, 7, 127)
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTS = ("int8", "int32", "int64", "uint8", "uint32")


@dataclass(frozen=True)
class Case:
    """`fn` on ACG arrays against `expected` on numpy arrays; `ulp`: allowed error of the result in units of eps."""

    name: str
    fn: Callable[..., Any]
    expected: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    ulp: float = 0.0

    def __str__(self) -> str:
        shown = ",".join(f"{x.dtype}{list(x.shape)}" for x in self.inputs)
        return f"{self.name}-{shown}".replace(" ", "")


def values(shape: Any, dtype: str = "float32", seed: int = 0, positive: bool = False) -> np.ndarray:
    """Numbers of moderate size; every value of an integer type may occur."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        low = 0 if positive or kind.kind == "u" else max(info.min, -100)
        return rng.integers(low, min(info.max, 100), shape, endpoint=True).astype(kind)
    drawn = rng.standard_normal(shape) * 3
    return (np.abs(drawn) + 0.1 if positive else drawn).astype(kind)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64))


def _wide(fn: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The formula in float64, rounded to the operand's type."""
    return lambda x: fn(x.astype(np.float64)).astype(x.dtype)


def _both(name: str, fn: Callable[..., Any], ulp: float = 0.0) -> tuple[str, Any, Any, float]:
    return name, fn, fn, ulp


BINARY = [
    _both("add", lambda x, y: x + y),
    _both("subtract", lambda x, y: x - y),
    _both("multiply", lambda x, y: x * y),
    _both("true_divide", lambda x, y: x / y),
    _both("less", lambda x, y: x < y),
    _both("less_equal", lambda x, y: x <= y),
    _both("greater", lambda x, y: x > y),
    _both("greater_equal", lambda x, y: x >= y),
    _both("equal", lambda x, y: x == y),
    _both("not_equal", lambda x, y: x != y),
    ("minimum", ACG.minimum, np.minimum, 0.0),
    ("maximum", ACG.maximum, np.maximum, 0.0),
    ("where", lambda x, y: ACG.where(x > y, x, y), lambda x, y: np.where(x > y, x, y), 0.0),
    ("logical_and", ACG.logical_and, np.logical_and, 0.0),
    _both("floor_divide", lambda x, y: x // y),
    _both("remainder", lambda x, y: x % y),
]
BINARY_INT = [
    _both("and", lambda x, y: x & y),
    _both("or", lambda x, y: x | y),
    _both("xor", lambda x, y: x ^ y),
    _both("invert", lambda x, y: ~x & y),
    _both("left_shift", lambda x, y: x << (y & 7)),
    _both("right_shift", lambda x, y: x >> (y & 7)),
]
UNARY = [
    _both("neg", lambda x: -x),
    _both("abs", lambda x: abs(x)),
    _both("scalars", lambda x: x * 2 + 3),
    _both("reverse", lambda x: 3 - x),
    _both("square", lambda x: x**2),
    ("sign", ACG.sign, np.sign, 0.0),
    ("clip", lambda x: ACG.clip(x, 1, 5), lambda x: np.clip(x, 1, 5).astype(x.dtype), 0.0),
    ("astype_f32", lambda x: x.astype(np.float32), lambda x: x.astype(np.float32), 0.0),
    ("astype_bool", lambda x: x.astype(bool), lambda x: x.astype(bool), 0.0),
    ("astype_i64", lambda x: x.astype("i64"), lambda x: x.astype(np.int64), 0.0),
    ("isnan", ACG.isnan, np.isnan, 0.0),
    ("isfinite", ACG.isfinite, np.isfinite, 0.0),
]
UNARY_FLOAT = [
    ("exp", ACG.exp, _wide(np.exp), 4.0),
    ("sin", ACG.sin, _wide(np.sin), 8.0),
    ("cos", ACG.cos, _wide(np.cos), 8.0),
    ("tanh", ACG.tanh, _wide(np.tanh), 8.0),
    ("erf", ACG.erf, _wide(_erf), 8.0),
    ("sigmoid", ACG.sigmoid, _wide(lambda x: 1 / (1 + np.exp(-x))), 8.0),
    ("silu", ACG.silu, _wide(lambda x: x / (1 + np.exp(-x))), 8.0),
    ("gelu", ACG.gelu, _wide(lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2), 32.0),
    ("relu", ACG.relu, lambda x: np.maximum(x, 0), 0.0),
    ("floor", ACG.floor, np.floor, 0.0),
    ("ceil", ACG.ceil, np.ceil, 0.0),
    ("trunc", ACG.trunc, np.trunc, 0.0),
    ("round", ACG.round, np.round, 0.0),
]
UNARY_POSITIVE = [
    ("log", ACG.log, _wide(np.log), 4.0),
    ("sqrt", ACG.sqrt, np.sqrt, 1.0),
    ("rsqrt", ACG.rsqrt, _wide(lambda x: 1 / np.sqrt(x)), 4.0),
    ("reciprocal", ACG.reciprocal, _wide(lambda x: 1 / x), 1.0),
    ("power", lambda x: x**1.3, _wide(lambda x: x**1.3), 64.0),
    ("power_half", lambda x: x**0.5, np.sqrt, 1.0),
]
REDUCTIONS = [
    ("sum", lambda x: ACG.sum(x, 1), lambda x: np.sum(x, 1), 64.0),
    ("sum_all", lambda x: x.sum(), lambda x: x.sum(), 512.0),
    ("sum_keep", lambda x: x.sum(0, keepdims=True), lambda x: x.sum(0, keepdims=True), 64.0),
    ("mean", lambda x: x.mean((0, 2)), lambda x: x.mean((0, 2)), 64.0),
    ("max", lambda x: x.max(-1), lambda x: x.max(-1), 0.0),
    ("min", lambda x: x.min((0, 1)), lambda x: x.min((0, 1)), 0.0),
    ("any", lambda x: (x > 1).any(1), lambda x: (x > 1).any(1), 0.0),
    ("all", lambda x: (x > 1).all(1), lambda x: (x > 1).all(1), 0.0),
    ("argmax", lambda x: x.argmax(2), lambda x: x.argmax(2), 0.0),
    ("argmin", lambda x: ACG.argmin(x), lambda x: np.argmin(x), 0.0),
    ("var", lambda x: x.var(1), lambda x: x.var(1), 64.0),
    ("std", lambda x: x.std(1, ddof=1), lambda x: x.std(1, ddof=1), 64.0),
    ("prod", lambda x: ACG.prod(x * 0.1, 1), lambda x: np.prod(x * 0.1, 1), 64.0),
]
LAYOUT = [
    _both("transpose", lambda x: x.transpose(2, 0, 1)),
    _both("T", lambda x: x.T),
    _both("swapaxes", lambda x: x.swapaxes(0, -1)),
    _both("reshape", lambda x: x.reshape(x.shape[0], -1)),
    _both("reshape_merge", lambda x: x.reshape(-1, x.shape[2])),
    _both("reshape_flat", lambda x: x.reshape(-1)),
    _both("reshape_split", lambda x: x.reshape(x.shape[0] // 2, 2, x.shape[1], x.shape[2])),
    _both("reshape_across", lambda x: x.reshape(x.shape[1], x.shape[0], x.shape[2])),
    _both("slice", lambda x: x[1:, :3, ::2]),
    _both("slice_int", lambda x: x[-1, :, 0]),
    _both("slice_all", lambda x: x[0, 1, 2]),
    _both("slice_none", lambda x: x[..., None, 1]),
    _both("slice_back", lambda x: x[::-1, :, -2:0:-2]),
    _both("slice_empty", lambda x: x[2:1]),
    _both("slice_negative", lambda x: x[:-1, -2:]),
    ("expand_dims", lambda x: ACG.expand_dims(x, (0, 2)), lambda x: np.expand_dims(x, (0, 2)), 0.0),
    ("squeeze", lambda x: ACG.squeeze(x[:1], 0), lambda x: x[0], 0.0),
    ("broadcast_to", lambda x: ACG.broadcast_to(x, (2, *x.shape)), lambda x: np.broadcast_to(x, (2, *x.shape)), 0.0),
    ("concat", lambda x: ACG.concat([x, x[:1]], 0), lambda x: np.concatenate([x, x[:1]]), 0.0),
    ("stack", lambda x: ACG.stack([x, x * 2], 1), lambda x: np.stack([x, x * 2], 1), 0.0),
    ("split", lambda x: ACG.split(x, 2)[1], lambda x: np.split(x, 2)[1], 0.0),
    ("split_at", lambda x: ACG.split(x, [1, 3], 1)[1], lambda x: np.split(x, [1, 3], 1)[1], 0.0),
    ("flip", lambda x: ACG.flip(x, 1), lambda x: np.flip(x, 1), 0.0),
    ("tril", ACG.tril, np.tril, 0.0),
    ("triu", lambda x: ACG.triu(x, 1), lambda x: np.triu(x, 1), 0.0),
    ("take_const", lambda x: x[:, np.array([2, 0, -1])], lambda x: x[:, np.array([2, 0, -1])], 0.0),
]
CREATION = [
    ("arange", lambda x: x + ACG.arange(x.shape[0]), lambda x: x + np.arange(x.shape[0]), 0.0),
    ("arange_step", lambda x: x[0] + ACG.arange(2, 11, 3), lambda x: x[0] + np.arange(2, 11, 3), 0.0),
    ("arange_float", lambda x: x[0] + ACG.arange(0.0, 1.0, 0.25), lambda x: x[0] + np.arange(0.0, 1.0, 0.25), 0.0),
    ("zeros", lambda x: x + ACG.zeros(x.shape), lambda x: x + np.zeros(x.shape), 0.0),
    ("ones_like", lambda x: x + ACG.ones_like(x), lambda x: x + np.ones_like(x), 0.0),
    ("full", lambda x: ACG.full((2, x.shape[0]), 7), lambda x: np.full((2, x.shape[0]), 7), 0.0),
    ("eye", lambda x: x * ACG.eye(x.shape[0]), lambda x: x * np.eye(x.shape[0]), 0.0),
    ("size", lambda x: x * x.shape[0], lambda x: x * x.shape[0], 0.0),
    (
        "constant",
        lambda x: x[0] + np.arange(4.0, dtype=np.float32),
        lambda x: x[0] + np.arange(4, dtype=np.float32),
        0.0,
    ),
]


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    grown = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return (grown / grown.sum(axis, keepdims=True)).astype(x.dtype)


def layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    return (centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * w + b).astype(x.dtype)


def rms_norm(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * w).astype(x.dtype)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal, grouped heads, float64."""
    s, t, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    q, k, v = (a.astype(np.float64) for a in (q, np.repeat(k, group, 2), np.repeat(v, group, 2)))
    scores = np.einsum("bshd,bthd->bhst", q, k) / math.sqrt(q.shape[3])
    scores = np.where(np.tril(np.ones((s, t)), t - s) > 0, scores, -np.inf)
    return np.einsum("bhst,bthd->bshd", softmax(scores), v).astype(np.float32)


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    a, b, c, s = x[..., :half], x[..., half:], cos[:, :, None], sin[:, :, None]
    return np.concatenate([a * c - b * s, b * c + a * s], -1)


def _blocks() -> list[Case]:
    v = values
    ids = values((2, 3), "int32", positive=True) % 5
    return [
        Case("matmul", lambda a, b: a @ b, lambda a, b: a @ b, (v((7, 5)), v((5, 6))), 64),
        Case("matmul_batch", lambda a, b: a @ b, lambda a, b: a @ b, (v((3, 1, 7, 5)), v((2, 5, 6))), 64),
        Case("matmul_shared", lambda a, b: a @ b.T, lambda a, b: a @ b.T, (v((2, 7, 5)), v((6, 5))), 64),
        Case("matmul_lhs", lambda a, b: a.T @ b, lambda a, b: a.T @ b, (v((5, 7)), v((5, 6))), 64),
        Case("matmul_vectors", lambda a, b: a @ b, lambda a, b: a @ b, (v((5,)), v((5,))), 64),
        Case("matmul_vector", lambda a, b: a @ b, lambda a, b: a @ b, (v((5,)), v((5, 6))), 64),
        Case("matmul_int", lambda a, b: a @ b, lambda a, b: a @ b, (v((7, 5), "int32"), v((5, 6), "int32"))),
        Case("matmul_f64", lambda a, b: a @ b, lambda a, b: a @ b, (v((7, 5), "float64"), v((5, 6), "float64")), 64),
        Case("matmul_empty", lambda a, b: a @ b, lambda a, b: a @ b, (v((7, 0)), v((0, 6)))),
        Case(
            "einsum", lambda a, b: ACG.einsum("bij,kjb->kib", a, b), lambda a, b: np.einsum("bij,kjb->kib", a, b),
            (v((2, 3, 4)), v((5, 4, 2))), 64,
        ),
        Case("softmax", ACG.softmax, softmax, (v((3, 7)),), 16),
        Case("softmax_0", lambda x: ACG.softmax(x, 0), lambda x: softmax(x, 0), (v((3, 7)),), 16),
        Case("log_softmax", ACG.log_softmax, lambda x: np.log(softmax(x.astype("f8"))).astype(x.dtype), (v((3, 7)),), 32),
        Case("layer_norm", ACG.layer_norm, layer_norm, (v((3, 7)), v((7,)), v((7,), seed=1)), 64),
        Case("rms_norm", ACG.rms_norm, rms_norm, (v((2, 3, 7)), v((7,))), 64),
        Case("embedding", ACG.embedding, lambda t, i: t[i], (v((5, 4)), ids)),
        Case("take", lambda x, i: x[:, i], lambda x, i: x[:, i], (v((2, 5, 3)), ids - 5)),
        Case("take_rows", lambda x, i: x[i], lambda x, i: x[i], (v((5, 3)), ids - 5)),
        Case(
            "attention", lambda q, k, w: ACG.attention(q, k, w, causal=True), attention,
            (v((2, 3, 4, 8)), v((2, 5, 2, 8), seed=1), v((2, 5, 2, 8), seed=2)), 64,
        ),
        Case("rope", ACG.rope, rope, (v((2, 3, 2, 8)), v((2, 3, 4), seed=1), v((2, 3, 4), seed=2)), 8),
        Case("logsumexp", lambda x: ACG.logsumexp(x, 1), lambda x: np.log(np.exp(x.astype("f8")).sum(1)).astype(x.dtype), (v((3, 7)),), 16),
    ]  # fmt: skip


def all_cases() -> list[Case]:
    """Every case; numpy warns of overflow and division by zero in some, which is part of what is compared."""
    cases = []
    for n in SIZES:
        for dtype in (*FLOATS, *INTS):
            x, y = values((n, 3), dtype), values((n, 3), dtype, seed=1)
            cases += [Case(name, fn, ref, (x, y), ulp) for name, fn, ref, ulp in BINARY]
            cases += [Case(name, fn, ref, (x,), ulp) for name, fn, ref, ulp in UNARY]
            if dtype in INTS:
                cases += [Case(name, fn, ref, (x, y), ulp) for name, fn, ref, ulp in BINARY_INT]
            if dtype in FLOATS:
                cases += [Case(name, fn, ref, (x,), ulp) for name, fn, ref, ulp in UNARY_FLOAT]
                positive = values((n,), dtype, positive=True)
                cases += [Case(name, fn, ref, (positive,), ulp) for name, fn, ref, ulp in UNARY_POSITIVE]
    for dtype in ("float32", "float16", "int32"):
        for shape in ((2, 7, 5), (127, 1, 3), (4, 3, 4)):
            cases += [Case(name, fn, ref, (values(shape, dtype),), ulp) for name, fn, ref, ulp in REDUCTIONS]
    for dtype in ("float32", "int8", "bool"):
        cases += [Case(name, fn, ref, (values((4, 7, 5), dtype),), ulp) for name, fn, ref, ulp in LAYOUT]
    for n in (1, 7):
        cases += [Case(name, fn, ref, (values((n, 1)),), ulp) for name, fn, ref, ulp in CREATION]
    return cases + _blocks()
