"""Rows that a whole block of threads sorts, selects from and sums up, against numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from deepseek.compiler import compile_text
from deepseek.executable import Executable
from gpu.virtual_gpu import VirtualGpu

TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i64": np.int64, "f64": np.float64}


def executable(operation: str, operand: str, result: str) -> Executable:
    text = f"""func.func @main(%x: {operand}) -> {result} {{
  %y = {operation}
  return %y : {result}
}}"""
    code = compile_text(text, target="sm_80")
    return Executable(code.object, code.manifest)


def values(rng: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray:
    """Random ones; a few that many positions share; one for all; and, of floats, infinities, NaNs and both zeros."""
    if kind == "random":
        return rng.standard_normal((rows, columns)) * 1e3
    if kind == "ties":
        return rng.integers(-3, 3, (rows, columns)).astype(np.float64)
    if kind == "equal":
        return np.full((rows, columns), 7.0)
    if kind == "rising":
        return np.arange(rows * columns, dtype=np.float64).reshape(rows, columns)
    x = rng.standard_normal((rows, columns))
    for special in (np.nan, np.inf, -np.inf, 0.0, -0.0):
        x[rng.random((rows, columns)) < 0.01] = special
    return x


def order(x: np.ndarray, descending: bool) -> np.ndarray:
    """Stable, a NaN greater than all numbers."""
    wide = x.astype(np.float64) if x.dtype.kind not in "iu" else x
    if descending:
        return x.shape[-1] - 1 - np.argsort(wide[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return np.argsort(wide, axis=-1, kind="stable")


@pytest.mark.parametrize(
    ("element", "columns", "first"),
    [("f32", 4096, 64), ("f32", 5003, 64), ("f32", "?", 256), ("bf16", 2000, 40), ("f16", 700, 1), ("i64", 999, 17),
     ("f64", 1024, 64), ("f32", 40, 33)],
)  # fmt: skip
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "rising", "special"])
def test_first_positions(
    gpu: VirtualGpu, element: str, columns: int | str, first: int, descending: bool, kind: str
) -> None:
    operand, result = f"tensor<?x{columns}x{element}>", f"tensor<?x{first}xi64>"
    flag = "{descending} " if descending else ""
    program = executable(f"dsc.sort %x {flag}: {operand} -> {result}", operand, result)
    rng = np.random.default_rng(len(kind))
    for size in (3001, 255, 100) if columns == "?" else (columns,):
        wide = values(rng, "ties" if kind == "special" and element == "i64" else kind, 2, size)
        with np.errstate(over="ignore"):
            x = wide.astype(TYPES[element])
        expected = order(x, descending)[:, :first]
        actual = program(x)[0]
        np.testing.assert_array_equal(actual[:, : expected.shape[1]], expected)
        assert not actual[:, expected.shape[1] :].any()


@pytest.mark.parametrize("kind", ["random", "ties", "special"])
@pytest.mark.parametrize("descending", [True, False])
def test_all_positions(gpu: VirtualGpu, kind: str, descending: bool) -> None:
    flag = "{descending} " if descending else ""
    program = executable(
        f"dsc.sort %x {flag}: tensor<?x?xf32> -> tensor<?x?xi64>", "tensor<?x?xf32>", "tensor<?x?xi64>"
    )
    for size in (1, 2, 127, 1000):
        x = values(np.random.default_rng(size), kind, 2, size).astype(np.float32)
        np.testing.assert_array_equal(program(x)[0], order(x, descending))


@pytest.mark.parametrize("columns", [0, 1, 31, 1000, 2500])
@pytest.mark.parametrize(
    ("kind", "total"), [("add", np.add), ("max", np.maximum), ("min", np.minimum), ("logaddexp", np.logaddexp)]
)
def test_running_totals(gpu: VirtualGpu, columns: int, kind: str, total: np.ufunc) -> None:
    program = executable(f'dsc.scan %x {{kind = "{kind}"}} : tensor<?x?xf32>', "tensor<?x?xf32>", "tensor<?x?xf32>")
    x = np.random.default_rng(columns).standard_normal((3, columns)).astype(np.float32)
    expected = total.accumulate(x.astype(np.float64), axis=1)
    # Sums of n terms in any order: n u sum|x| (Higham 2002, eq. 4.4); the others round once or not at all.
    bound = columns * 2.0**-23 * np.cumsum(np.abs(x).astype(np.float64) + 1, axis=1) if "add" in kind else 0
    assert (np.abs(program(x)[0] - expected) <= bound).all()


def test_running_integers_are_exact(gpu: VirtualGpu) -> None:
    program = executable('dsc.scan %x {kind = "add"} : tensor<?x?xi64>', "tensor<?x?xi64>", "tensor<?x?xi64>")
    x = np.random.default_rng(0).integers(-(2**40), 2**40, (2, 3000))
    np.testing.assert_array_equal(program(x)[0], np.cumsum(x, axis=1))
