"""--dsc-raise on near misses: what is raised computes the same, what only looks like it is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepseek import ACG
from deepseek.compiler import lower_text

pytest.importorskip("deepseek._mlir")
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def rms(x: Any, weight: Any, xp: Any, axis: int = -1, count: float = 8, power: int = 2) -> Any:
    mean = xp.sum(x**power, axis, keepdims=True) / count
    return x / xp.sqrt(mean + 1e-3) * weight


def rotate(x: Any, cos: Any, sin: Any, xp: Any, sign: int = 1, half: int = 4) -> Any:
    turned = xp.concat([x[..., half:] * -sign, x[..., :half] * sign], -1)
    return x * cos[:, None] + turned * sin[:, None]


def softmax(x: Any, xp: Any) -> Any:
    if xp is ACG:
        return ACG.softmax(x)
    with np.errstate(invalid="ignore"):
        grown = np.exp(x - x.max(-1, keepdims=True))
        return grown / grown.sum(-1, keepdims=True)


def attend(
    q: Any, k: Any, v: Any, xp: Any, change: Callable[..., Any], after: Callable[..., Any] = lambda p, s, xp: p
) -> Any:
    """q, k, v [b, h, s, d]; `change` makes scores of products, `after` weights of the softmax."""
    scores = change(q @ xp.swapaxes(k, -1, -2), xp)
    return after(softmax(scores, xp), scores, xp) @ v


def positions(s: Any, xp: Any) -> tuple[Any, Any]:
    return xp.arange(s.shape[-2])[:, None], xp.arange(s.shape[-1])[None]


def hide(s: Any, seen: Any, xp: Any) -> Any:
    return xp.where(seen, s, xp.asarray(-math.inf, s.dtype) if xp is np else -math.inf)


def aligned(s: Any, xp: Any) -> Any:
    i, j = positions(s, xp)
    return hide(s * 0.3, j <= i + (s.shape[-1] - s.shape[-2]), xp)


def first_aligned(s: Any, xp: Any) -> Any:
    i, j = positions(s, xp)
    return hide(s * 0.3, j <= i, xp)


def windowed(s: Any, xp: Any) -> Any:
    i, j = positions(s, xp)
    return hide(s / 3, (j <= i + (s.shape[-1] - s.shape[-2])) & (j > i + (s.shape[-1] - s.shape[-2]) - 4), xp)


def banded(s: Any, xp: Any) -> Any:
    i, j = positions(s, xp)
    return hide(s, (j - i < 3) & (i - j < 3), xp)


def zero_where_positive(p: Any, s: Any, xp: Any) -> Any:
    return xp.where(xp.all(s > -1e30, -1, keepdims=True), xp.zeros_like(p[..., :1]), p)


QKV = (normal(2, 3, 5, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 8))
LONG = (normal(2, 3, 5, 8), normal(2, 3, 9, 8), normal(2, 3, 9, 8))
ANGLES = (normal(2, 5, 8), normal(2, 5, 8))
SAME = tuple(np.concatenate([a[..., :4]] * 2, -1) for a in ANGLES)
JOIN: Callable[..., Any] = lambda a, xp: xp.concat([a[..., :4], a[..., :4]], -1)  # noqa: E731

# (name, function of arrays and numpy or ACG, arguments, operation, how many of it)
CASES: list[tuple[str, Callable[..., Any], tuple[np.ndarray, ...], str, int]] = [
    ("norm", lambda x, w, xp: rms(x, w, xp), (normal(3, 8), normal(8)), "rms_norm", 1),
    ("norm of a sum", lambda x, w, xp: rms(x, w, xp, count=1.0), (normal(3, 8), normal(8)), "rms_norm", 0),
    ("norm of the other axis", lambda x, w, xp: rms(x, w, xp, axis=0, count=8), (normal(8, 8), normal(8)), "rms_norm", 0),
    ("norm of fourth powers", lambda x, w, xp: rms(x, w, xp, power=4), (normal(3, 8), normal(8)), "rms_norm", 0),
    ("norm inside a product", lambda x, y, xp: rms(x, 1.0, xp) / x * y, (normal(3, 8) + 9, normal(3, 8)), "rms_norm", 1),
    ("weight per row", lambda x, w, xp: rms(x, w, xp), (normal(3, 8), normal(3, 1)), "rms_norm", 1),
    ("rotation", lambda x, c, s, xp: rotate(x, JOIN(c, xp), JOIN(s, xp), xp), (QKV[0], *ANGLES), "rope", 1),
    ("angles that differ", lambda x, c, s, xp: rotate(x, c, s, xp), (QKV[0], *ANGLES), "rope", 0),
    ("backwards", lambda x, c, s, xp: rotate(x, JOIN(c, xp), JOIN(s, xp), xp, -1), (QKV[0], *ANGLES), "rope", 0),
    ("plain", lambda q, k, v, xp: attend(q, k, v, xp, lambda s, _: s * 0.3), QKV, "attention", 1),
    ("aligned at the end", lambda q, k, v, xp: attend(q, k, v, xp, aligned), LONG, "attention", 1),
    ("aligned at the start", lambda q, k, v, xp: attend(q, k, v, xp, first_aligned), LONG, "attention", 1),
    ("window", lambda q, k, v, xp: attend(q, k, v, xp, windowed), LONG, "attention", 1),
    ("band", lambda q, k, v, xp: attend(q, k, v, xp, banded), QKV, "attention", 1),
    ("scaled after the mask", lambda q, k, v, m, xp: attend(q, k, v, xp, lambda s, _: (s + m) * 2.0), (*QKV, normal(5, 5)), "attention", 0),
    ("mask", lambda q, k, v, m, xp: attend(q, k, v, xp, lambda s, _: s * 2.0 + m), (*QKV, normal(5, 5)), "attention", 1),
    ("soft cap", lambda q, k, v, xp: attend(q, k, v, xp, lambda s, xp: xp.tanh(s / 5) * 5.0), QKV, "attention", 1),
    ("another cap", lambda q, k, v, xp: attend(q, k, v, xp, lambda s, xp: xp.tanh(s / 5) * 2.0), QKV, "attention", 1),
    ("exp of scores", lambda q, k, v, xp: attend(q, k, v, xp, lambda s, xp: xp.exp(s * 0.1)), QKV, "attention", 0),
    ("zeros elsewhere", lambda q, k, v, xp: attend(q, k, v, xp, lambda s, _: s, zero_where_positive), QKV, "attention", 0),
    ("weights scaled", lambda q, k, v, xp: attend(q, k, v, xp, lambda s, _: s, lambda p, s, _: p * 2.0), QKV, "attention", 0),
    ("softmax of the other axis", lambda q, k, v, xp: xp.swapaxes(softmax(xp.swapaxes(q @ xp.swapaxes(k, -1, -2), -1, -2), xp), -1, -2) @ v, QKV, "attention", 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fn", "arguments", "operation", "count"), CASES, ids=[case[0] for case in CASES])
def test_same_values_and_as_many(
    name: str, fn: Callable[..., Any], arguments: tuple[np.ndarray, ...], operation: str, count: int
) -> None:
    def traced(*arrays: Any) -> Any:
        return fn(*arrays, ACG)

    dims = {f"a{i}": tuple(f"n{n}" if n in (2, 5, 9) else n for n in x.shape) for i, x in enumerate(arguments)}
    names = list(dims)
    wrapped = eval(f"lambda {', '.join(names)}: traced({', '.join(names)})", {"traced": traced})
    graph = ACG.trace(wrapped, *arguments, dims=dims)
    text = lower_text(graph.mlir, to_phase="import")
    assert text.count(f" dsc.{operation} ") == count
    want = fn(*(x.astype(np.float64) for x in arguments), np)
    np.testing.assert_allclose(graph(*arguments), want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))
