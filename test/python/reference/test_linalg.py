"""The oracle's structured operations against loops written by hand."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import Argument, Builder, Tensor

from deepseek import reference
from deepseek.reference import InterpreterError

RNG = np.random.default_rng(2)
MODES = ("float64", "strict")


def f32(*dims: str | int) -> Tensor:
    return Tensor("f32", dims)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_elementwise_with_broadcast_transpose_and_index(mode: str) -> None:
    m, n = 4, 5
    builder = Builder(Argument("x", f32("m", "n")), Argument("y", f32("n", "m")), Argument("z", f32("m", 1)))
    value = builder.map(
        f32("m", "n"),
        "%s = arith.subf %a0, %a1 : f32 ; %p = arith.mulf %s, %a2 : f32 ; %i = linalg.index 0 : index ;"
        "%j = arith.index_cast %i : index to i64 ; %f = arith.sitofp %j : i64 to f32 ; %r = arith.addf %p, %f : f32",
        ("%x", f32("m", "n")), ("%y", f32("n", "m"), "d1, d0"), ("%z", f32("m", 1), "d0, 0"),
    )  # fmt: skip
    x, y, z = normal(m, n), normal(n, m), normal(m, 1)
    expected = np.empty((m, n), np.float32 if mode == "strict" else np.float64)
    xs, ys, zs = (v.astype(expected.dtype) for v in (x, y, z))
    for i, j in np.ndindex(m, n):
        expected[i, j] = (xs[i, j] - ys[j, i]) * zs[i, 0] + expected.dtype.type(i)
    (actual,) = reference.run(builder.module((value, f32("m", "n"))), x, y, z, mode=mode)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("op", ["addf", "mulf"])
@pytest.mark.parametrize("out", ["d1", "d1, d0", "d2", "", "d1, 0"])
def test_strict_reductions_run_in_loop_order(op: str, out: str) -> None:
    """init, then row-major order of the reduction loops, each step rounded to f32: bit-equal."""
    sizes = (3, 4, 5)
    kept = [int(part.strip()[1:]) for part in out.split(",") if "d" in part]
    result = Tensor("f32", tuple("abc"[k] for k in kept) + ((1,) if "0" in out.split(", ")[1:] else ()))
    builder = Builder(Argument("x", f32("a", "b", "c")))
    init = builder.fill(result, "1.5")
    body = f"%r = arith.{op} %o, %a0 : f32"
    value = builder.generic(result, [("%x", f32("a", "b", "c"), "d0, d1, d2")], out, 3, body, init)
    x = normal(*sizes)
    expected = np.full([sizes[k] for k in kept], 1.5, np.float32)
    for point in np.ndindex(*sizes):
        at = tuple(point[k] for k in kept)
        expected[at] = expected[at] + x[point] if op == "addf" else expected[at] * x[point]
    text = builder.module((value, result))
    (actual,) = reference.run(text, x, mode="strict")
    np.testing.assert_array_equal(actual, expected.reshape(actual.shape))
    np.testing.assert_allclose(reference.run(text, x)[0], expected.reshape(actual.shape), rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("element", "op", "init", "ufunc"),
    [
        ("f32", "maximumf", "0xFF800000", np.maximum),
        ("f32", "minnumf", "0x7F800000", np.fmin),
        ("i32", "maxsi", "-2147483648", np.maximum),
        ("i32", "addi", "0", np.add),
        ("i32", "muli", "1", np.multiply),
        ("i32", "xori", "0", np.bitwise_xor),
        ("i8", "andi", "-1", np.bitwise_and),
    ],
)
def test_known_combiners(mode: str, element: str, op: str, init: str, ufunc: np.ufunc) -> None:
    tensor, result = Tensor(element, ("m", "n")), Tensor(element, ("m",))
    builder = Builder(Argument("x", tensor))
    start = builder.fill(result, init)
    value = builder.generic(result, [("%x", tensor, "d0, d1")], "d0", 2, f"%r = arith.{op} %o, %a0 : {element}", start)
    x = normal(5, 9) if element == "f32" else RNG.integers(-(2**31), 2**31, (5, 9)).astype(element.replace("i", "int"))
    if element == "f32":
        x[2, 3] = np.nan
    expected = ufunc.reduce(x, axis=1, dtype=x.dtype)
    (actual,) = reference.run(builder.module((value, result)), x, mode=mode)
    np.testing.assert_array_equal(actual, expected)
    (empty,) = reference.run(builder.module((value, result)), x[:, :0], mode=mode)
    assert empty.tolist() == ufunc.reduce(np.broadcast_to(np.array([int(init)] if element[0] == "i" else [
        np.uint32(int(init, 16)).view(np.float32)], x.dtype), (5, 1)), axis=1).tolist()  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_argmax_runs_step_by_step(mode: str) -> None:
    """Two outputs whose combiner is not a known operation."""
    text = """
module {
  func.func @main(%x: tensor<?x?xf32> {dsc.dims = #dsc.dims<["m", "n"]>}) -> (tensor<?xf32>, tensor<?xi64>) {
    %m = dsc.dim "m" : index
    %low = arith.constant 0xFF800000 : f32
    %zero = arith.constant 0 : i64
    %e0 = tensor.empty(%m) : tensor<?xf32>
    %e1 = tensor.empty(%m) : tensor<?xi64>
    %f0 = linalg.fill ins(%low : f32) outs(%e0 : tensor<?xf32>) -> tensor<?xf32>
    %f1 = linalg.fill ins(%zero : i64) outs(%e1 : tensor<?xi64>) -> tensor<?xi64>
    %r:2 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>,
        affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]}
        ins(%x : tensor<?x?xf32>) outs(%f0, %f1 : tensor<?xf32>, tensor<?xi64>) {
    ^bb0(%a: f32, %best: f32, %at: i64):
      %i = linalg.index 1 : index
      %j = arith.index_cast %i : index to i64
      %c = arith.cmpf ogt, %a, %best : f32
      %v = arith.select %c, %a, %best : f32
      %w = arith.select %c, %j, %at : i64
      linalg.yield %v, %w : f32, i64
    } -> (tensor<?xf32>, tensor<?xi64>)
    return %r#0, %r#1 : tensor<?xf32>, tensor<?xi64>
  }
}"""
    x = RNG.integers(0, 5, (6, 17)).astype(np.float32)
    values, indices = reference.run(text, x, mode=mode)
    np.testing.assert_array_equal(values, x.max(1))
    np.testing.assert_array_equal(indices, x.argmax(1))
    values, indices = reference.run(text, x[:, :0], mode=mode)
    assert values.tolist() == [-np.inf] * 6 and indices.tolist() == [0] * 6


@pytest.mark.parametrize("mode", MODES)
def test_convolution_reads_a_sum_of_loops(mode: str) -> None:
    builder = Builder(Argument("x", f32(10)), Argument("w", f32(3)))
    init = builder.fill(f32(8), "0.0")
    value = builder.generic(
        f32(8), [("%x", f32(10), "d0 + d1"), ("%w", f32(3), "d1")], "d0", 2,
        "%p = arith.mulf %a0, %a1 : f32 ; %r = arith.addf %o, %p : f32", init,
    )  # fmt: skip
    x, w = normal(10), normal(3)
    (actual,) = reference.run(builder.module((value, f32(8))), x, w, mode=mode)
    np.testing.assert_allclose(actual, np.correlate(x, w), rtol=1e-5)


def test_gather_in_a_body() -> None:
    table, ids = f32("v", 3), Tensor("i32", ("n",))
    builder = Builder(Argument("t", table), Argument("ids", ids))
    value = builder.map(
        f32("n", 3),
        "%p = arith.index_cast %a0 : i32 to index ; %q = linalg.index 1 : index ; %r = tensor.extract %t[%p, %q] : "
        + str(table),
        ("%ids", ids, "d0"),
    )
    text = builder.module((value, f32("n", 3)))
    x, indices = normal(7, 3), np.array([6, 0, 3, 3], np.int32)
    np.testing.assert_array_equal(reference.run(text, x, indices)[0], x[indices])
    assert reference.run(text, x, indices[:0])[0].shape == (0, 3)
    with pytest.raises(InterpreterError, match=r"index 7 is outside of dimension 0 of shape \[7, 3\]"):
        reference.run(text, x, indices + 1)


@pytest.mark.parametrize("mode", MODES)
def test_named_operations(mode: str) -> None:
    text = """
module {
  func.func @main(%x: tensor<2x3xf32>, %y: tensor<3x4xf32>) -> (tensor<2x4xf32>, tensor<2x3xf32>, tensor<3x2xf32>,
      tensor<2x5x3xf32>, tensor<3xf32>, tensor<2x3xf32>) {
    %zero = arith.constant 0.0 : f32
    %e0 = tensor.empty() : tensor<2x4xf32>
    %f0 = linalg.fill ins(%zero : f32) outs(%e0 : tensor<2x4xf32>) -> tensor<2x4xf32>
    %0 = linalg.matmul ins(%x, %y : tensor<2x3xf32>, tensor<3x4xf32>) outs(%f0 : tensor<2x4xf32>) -> tensor<2x4xf32>
    %e1 = tensor.empty() : tensor<2x3xf32>
    %1 = linalg.mul ins(%x, %x : tensor<2x3xf32>, tensor<2x3xf32>) outs(%e1 : tensor<2x3xf32>) -> tensor<2x3xf32>
    %e2 = tensor.empty() : tensor<3x2xf32>
    %2 = linalg.transpose ins(%x : tensor<2x3xf32>) outs(%e2 : tensor<3x2xf32>) permutation = [1, 0]
    %e3 = tensor.empty() : tensor<2x5x3xf32>
    %3 = linalg.broadcast ins(%x : tensor<2x3xf32>) outs(%e3 : tensor<2x5x3xf32>) dimensions = [1]
    %e4 = tensor.empty() : tensor<3xf32>
    %f4 = linalg.fill ins(%zero : f32) outs(%e4 : tensor<3xf32>) -> tensor<3xf32>
    %4 = linalg.reduce { arith.addf } ins(%x : tensor<2x3xf32>) outs(%f4 : tensor<3xf32>) dimensions = [0]
    %5 = linalg.map { math.absf } ins(%x : tensor<2x3xf32>) outs(%e1 : tensor<2x3xf32>)
    return %0, %1, %2, %3, %4, %5 : tensor<2x4xf32>, tensor<2x3xf32>, tensor<3x2xf32>, tensor<2x5x3xf32>,
        tensor<3xf32>, tensor<2x3xf32>
  }
}"""
    x, y = normal(2, 3), normal(3, 4)
    actual = reference.run(text, x, y, mode=mode)
    expected = [x @ y, x * x, x.T, np.repeat(x[:, None], 5, 1), x.sum(0), np.abs(x)]
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_broken_sizes_are_refused() -> None:
    builder = Builder(Argument("x", f32("m")), Argument("y", f32("n")))
    value = builder.map(f32("m"), "%r = arith.addf %a0, %a1 : f32", ("%x", f32("m")), ("%y", f32("n")))
    with pytest.raises(InterpreterError, match="'linalg.generic' loop d0 must have one size, got 3 and 4"):
        reference.run(builder.module((value, f32("m"))), normal(3), normal(4))
