"""The oracle's shape operations and constants against numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from deepseek import reference
from deepseek.reference import InterpreterError

RNG = np.random.default_rng(4)


def run(body: str, results: str, *inputs: np.ndarray, arguments: str = "", mode: str = "strict") -> list[np.ndarray]:
    """`results` are types; the body defines %r0, %r1, ..."""
    count = len(results.split(","))
    values = ", ".join(f"%r{i}" for i in range(count))
    text = f"""
module {{
  func.func @main({arguments}) -> ({results}) {{
    {body}
    return {values} : {results}
  }}
}}"""
    return reference.run(text, *inputs, mode=mode)


X = 'tensor<?x5xf32> {dsc.dims = #dsc.dims<["m", "_"]>}'


def test_slices() -> None:
    x = RNG.standard_normal((6, 5)).astype(np.float32)
    y = RNG.standard_normal((2, 2)).astype(np.float32)
    body = """
    %m = dsc.dim "m" : index
    %c1 = arith.constant 1 : index
    %h = arith.subi %m, %c1 : index
    %r0 = tensor.extract_slice %x[%c1, 0] [%h, 2] [1, 2] : tensor<?x5xf32> to tensor<?x2xf32>
    %r1 = tensor.extract_slice %x[%c1, 1] [1, 3] [1, 1] : tensor<?x5xf32> to tensor<3xf32>
    %r2 = tensor.insert_slice %y into %x[%c1, 1] [2, 2] [2, 3] : tensor<2x2xf32> into tensor<?x5xf32>"""
    types = "tensor<?x2xf32>, tensor<3xf32>, tensor<?x5xf32>"
    before = x.copy()
    a, b, c = run(body, types, x, y, arguments=f"%x: {X}, %y: tensor<2x2xf32>")
    np.testing.assert_array_equal(a, x[1:, 0:3:2])
    np.testing.assert_array_equal(b, x[1, 1:4])
    expected = x.copy()
    expected[1:4:2, 1:5:3] = y
    np.testing.assert_array_equal(c, expected)
    np.testing.assert_array_equal(x, before)
    with pytest.raises(InterpreterError, match="offset 1, size 2, stride 2 leave dimension 0 of size 3"):
        run(body, types, x[:3], y, arguments=f"%x: {X}, %y: tensor<2x2xf32>")


def test_reshapes_and_concatenation() -> None:
    x = RNG.standard_normal((6, 5)).astype(np.float32)
    body = """
    %m = dsc.dim "m" : index
    %c2 = arith.constant 2 : index
    %h = arith.divui %m, %c2 : index
    %r0 = tensor.expand_shape %x [[0, 1], [2]] output_shape [%h, 2, 5] : tensor<?x5xf32> into tensor<?x2x5xf32>
    %r1 = tensor.collapse_shape %r0 [[0], [1, 2]] : tensor<?x2x5xf32> into tensor<?x10xf32>
    %r2 = tensor.concat dim(0) %x, %x : (tensor<?x5xf32>, tensor<?x5xf32>) -> tensor<?x5xf32>
    %s = tensor.from_elements %h, %c2 : tensor<2xindex>
    %e = tensor.extract_slice %x[0, 0] [%m, 1] [1, 1] : tensor<?x5xf32> to tensor<?x1xf32>
    %r3 = tensor.reshape %e(%s) : (tensor<?x1xf32>, tensor<2xindex>) -> tensor<?x?xf32>"""
    types = "tensor<?x2x5xf32>, tensor<?x10xf32>, tensor<?x5xf32>, tensor<?x?xf32>"
    a, b, c, d = run(body, types, x, arguments=f"%x: {X}")
    np.testing.assert_array_equal(a, x.reshape(3, 2, 5))
    np.testing.assert_array_equal(b, x.reshape(3, 10))
    np.testing.assert_array_equal(c, np.concatenate([x, x]))
    np.testing.assert_array_equal(d, x[:, 0].reshape(3, 2))
    assert run(body, types, x[:0], arguments=f"%x: {X}")[0].shape == (0, 2, 5)


def test_pad_generate_gather_and_elements() -> None:
    x = RNG.standard_normal((4, 5)).astype(np.float32)
    body = """
    %m = dsc.dim "m" : index
    %c1 = arith.constant 1 : index
    %f = arith.constant 7.0 : f32
    %r0 = tensor.pad %x low[1, 0] high[%c1, 2] {
    ^bb0(%i: index, %j: index):
      tensor.yield %f : f32
    } : tensor<?x5xf32> to tensor<?x7xf32>
    %r1 = tensor.generate %m {
    ^bb0(%i: index, %j: index):
      %v = tensor.extract %x[%i, %j] : tensor<?x5xf32>
      %w = arith.addf %v, %f : f32
      tensor.yield %w : f32
    } : tensor<?x5xf32>
    %at = arith.constant dense<[[0], [3], [1]]> : tensor<3x1xindex>
    %r2 = tensor.gather %x[%at] gather_dims([1]) : (tensor<?x5xf32>, tensor<3x1xindex>) -> tensor<3x?x1xf32>
    %e = tensor.extract %x[%c1, %c1] : tensor<?x5xf32>
    %r3 = tensor.insert %f into %x[%c1, %c1] : tensor<?x5xf32>
    %r4 = tensor.from_elements %e, %f : tensor<2xf32>
    %r5 = tensor.splat %e[%m] : tensor<?x2xf32>"""
    types = "tensor<?x7xf32>, tensor<?x5xf32>, tensor<3x?x1xf32>, tensor<?x5xf32>, tensor<2xf32>, tensor<?x2xf32>"
    a, b, c, d, e, f = run(body, types, x, arguments=f"%x: {X}")
    np.testing.assert_array_equal(a, np.pad(x, ((1, 1), (0, 2)), constant_values=7))
    np.testing.assert_array_equal(b, x + np.float32(7))
    np.testing.assert_array_equal(c, x[:, [0, 3, 1]].T[..., None])
    assert d[1, 1] == 7 and (d != x).sum() == 1
    assert e.tolist() == [x[1, 1], 7]
    np.testing.assert_array_equal(f, np.full((4, 2), x[1, 1]))


def test_constants() -> None:
    values = RNG.standard_normal(200)
    bf16, f32 = values.astype(ml_dtypes.bfloat16), values.astype("<f4")
    body = f"""
    %r0 = arith.constant dense<"0x{bf16.tobytes().hex()}"> : tensor<200xbf16>
    %r1 = arith.constant dense<"0x{f32.tobytes().hex().upper()}"> : tensor<10x20xf32>
    %r2 = arith.constant dense<[[1.5, -0.0, 0x7FC0]]> : tensor<1x3xbf16>
    %r3 = arith.constant dense<-2.5> : tensor<4xbf16>
    %r4 = arith.constant dense<[true, false]> : tensor<2xi1>
    %r5 = arith.constant dense<[3, -4]> : tensor<2xi64>
    %r6 = arith.constant dense<> : tensor<0xf16>
    %r7 = arith.constant dense<true> : tensor<3xi1>
    %s = arith.constant 0xFF800000 : f32
    %r8 = tensor.from_elements %s : tensor<1xf32>
    %h = arith.constant 0x7C00 : f16
    %r9 = tensor.from_elements %h : tensor<1xf16>"""
    types = (
        "tensor<200xbf16>, tensor<10x20xf32>, tensor<1x3xbf16>, tensor<4xbf16>, tensor<2xi1>, tensor<2xi64>, "
        "tensor<0xf16>, tensor<3xi1>, tensor<1xf32>, tensor<1xf16>"
    )
    r = run(body, types)
    np.testing.assert_array_equal(r[0].view(np.uint16), bf16.view(np.uint16))
    np.testing.assert_array_equal(r[1], f32.reshape(10, 20))
    np.testing.assert_array_equal(r[2].view(np.uint16), [[0x3FC0, 0x8000, 0x7FC0]])
    assert r[3].tolist() == [-2.5] * 4 and r[4].tolist() == [True, False] and r[5].tolist() == [3, -4]
    assert r[6].shape == (0,) and r[6].dtype == np.float16 and r[7].tolist() == [True] * 3
    assert r[8].tolist() == [-np.inf] and r[9].tolist() == [np.inf]
    assert [x.dtype for x in run(body, types, mode="float64")[:3]] == [np.float64] * 3


def test_unwritten_memory_shows() -> None:
    (x,) = run("%r0 = tensor.empty() : tensor<2x3xf32>", "tensor<2x3xf32>")
    assert np.isnan(x).all()
