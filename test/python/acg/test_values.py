"""Every array function, compiled, against numpy: same dtype, same shape, same values.

Exact where a case allows no error; else max|a - b| <= ulp * eps * max(1, max|b|), eps of the result's type.
"""

from __future__ import annotations

from itertools import groupby

import ml_dtypes
import numpy as np
import pytest
from acg_cases import Case, all_cases

from deepseek import ACG

pytest.importorskip("deepseek.compiler")

GROUPS = {
    name: list(found)
    for name, found in groupby(
        sorted(all_cases(), key=lambda c: (c.name, str(c.inputs[0].dtype))),
        key=lambda c: f"{c.name}-{c.inputs[0].dtype}",
    )
}


def assert_agrees(got: object, expected: object, ulp: float, what: str) -> None:
    """`got` has the dtype, shape and, within `ulp`, the values of `expected`."""
    expected = np.asarray(expected)
    assert isinstance(got, np.ndarray), what
    assert got.dtype == expected.dtype, f"{what}: {got.dtype} != {expected.dtype}"
    assert got.shape == expected.shape, f"{what}: {got.shape} != {expected.shape}"
    if not ulp or expected.dtype.kind in "iub":
        np.testing.assert_array_equal(got, expected, err_msg=what)
        return
    limit = ulp * float(ml_dtypes.finfo(expected.dtype).eps)
    wide = expected.astype(np.float64)
    scale = max(1.0, float(np.max(np.abs(wide[np.isfinite(wide)]), initial=0)))
    np.testing.assert_allclose(got.astype(np.float64), wide, rtol=0, atol=limit * scale, err_msg=what)


@pytest.mark.parametrize("name", GROUPS)
def test_agrees_with_numpy(name: str) -> None:
    compiled: dict[str, object] = {}
    for case in GROUPS[name]:
        fn = compiled.setdefault(case.name, ACG.compile(case.fn))
        before = [x.copy() for x in case.inputs]
        with np.errstate(all="ignore"):
            expected = case.expected(*case.inputs)
        check(fn, case, expected)
        for x, kept in zip(case.inputs, before):
            np.testing.assert_array_equal(x, kept)


def check(fn: object, case: Case, expected: object) -> None:
    got = fn(*case.inputs)
    assert_agrees(got, expected, case.ulp, str(case))
    assert not any(np.shares_memory(got, x) for x in case.inputs), f"{case}: the result aliases an input"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.int8, np.bool_])
def test_transposes_of_any_size(dtype) -> None:
    swap = ACG.compile(lambda x: x.transpose(0, 2, 1))
    random = np.random.default_rng(0)
    for rows, columns in [(1, 1), (1, 7), (7, 127), (16, 16), (17, 33), (127, 1000), (1000, 5), (0, 5)]:
        x = (random.standard_normal((2, rows, columns)) * 50).astype(dtype)
        np.testing.assert_array_equal(swap(x), x.transpose(0, 2, 1))
