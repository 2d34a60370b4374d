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
