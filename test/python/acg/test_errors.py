"""Every error names the user's file and line, what was tried, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deepseek import ACG, CompileError, InputError

X = np.zeros((3, 4), np.float32)


def branch(x):
    if x.sum() > 0:
        return x
    return -x


def assign(x):
    x[0] = 1
    return x


def loop(x):
    return [row for row in x]  # noqa: C416


def plus_shape(x):
    return x + np.zeros((7, 7), np.float32)


def big_constant(x):
    return x + np.arange(1 << 19, dtype=np.float64)[: 1 << 19]


CASES: list[tuple[Callable, str, str]] = [
    (branch, "if x.sum() > 0:", "ACG.where"),
    (assign, "x[0] = 1", "ACG.where or ACG.concat"),
    (loop, "for row in x", "range(x.shape[0])"),
    (lambda x: float(x[0, 0]), "float()", "astype"),
    (lambda x: int(x[0, 0]), "int()", "astype"),
    (lambda x: np.asarray(x), "numpy.asarray()", "ACG function"),
    (lambda x: np.linalg.inv(x), "numpy.inv", "ACG functions"),
    (plus_shape, "float32[x_0, x_1]", "float32[7, 7]"),
    (lambda x: x @ np.zeros((3, 4), np.float32), "contraction sizes must match", "float32[3, 4]"),
    (lambda x: x[5], "out of range", "index 5"),
    (lambda x: x[x > 0], "boolean index", "ACG.where"),
    (lambda x: x & 1, "integers or booleans", "float32"),
    (lambda x: x.reshape(5, -1), "cannot reshape", "float32"),
    (lambda x: x.transpose(0, 0), "every axis", "(0, 0)"),
    (lambda x: x.sum(2), "axis 2", "rank 2"),
    (lambda x: ACG.max(ACG.zeros((0, 3)), 0), "max of an empty array", "float64[0, 3]"),
    (lambda x: ACG.concat([x, x[0]]), "one rank", "float32"),
    (lambda x: x.astype(np.complex64), "complex64", "is not supported"),
    (lambda x: x.astype("i8") + 300, "300", "int8"),
    (lambda x: x.astype("i32") ** -1, "negative power", "astype"),
    (lambda x: ACG.rms_norm(x, np.zeros(7, np.float32)), "rms_norm: the weight", "float32[7]"),
    (lambda x: ACG.attention(x, x, x), "[b, s, h, d]", "q of attention"),
    (lambda x: ACG.dequantize(x.astype("i8"), "q4_1"), "whole q4_1 blocks", "20 bytes"),
    (lambda x: ACG.dequantize(x, "q9"), "block format q9", "q8_0"),
    (lambda x: object(), "cannot return object", "arrays"),
]


@pytest.mark.parametrize(("fn", "problem", "instead"), CASES, ids=[case[1] for case in CASES])
def test_message(fn: Callable, problem: str, instead: str) -> None:
    with pytest.raises(CompileError) as caught:
        ACG.trace(fn, X)
    message = str(caught.value)
    assert message.startswith("test_errors.py:") or "/test_errors.py:" in message.split(" ")[0]
    assert problem in message and instead in message, message
    assert "\n" not in message


def test_large_constants_are_refused() -> None:
    with pytest.raises(CompileError, match="over 1 MiB; pass it"):
        ACG.trace(big_constant, np.zeros(1, np.float64))


def test_outside_of_a_trace() -> None:
    with pytest.raises(CompileError, match="inside @ACG.compile"):
        ACG.exp(X)
    with pytest.raises(CompileError, match="inside @ACG.compile"):
        ACG.weight("w", (3,), "f32")


def test_leaked_arrays() -> None:
    leaked = []
    ACG.trace(lambda x: leaked.append(x) or x, X)
    with pytest.raises(CompileError, match="another traced function"):
        ACG.trace(lambda x: x + leaked[0], X)


def test_arguments() -> None:
    with pytest.raises(InputError, match=r"branch\(x\).*too many"):
        ACG.trace(branch, X, X)
    with pytest.raises(InputError, match="complex64"):
        ACG.trace(branch, X.astype(np.complex64))
    with pytest.raises(InputError, match="type object"):
        ACG.trace(branch, object())
