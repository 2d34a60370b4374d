"""How the oracle binds arguments, symbols and weights, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek import reference
from deepseek.errors import InputError
from deepseek.reference import InterpreterError

TEXT = """
module {
  func.func private @twice(%x: tensor<?x?xf32>) -> tensor<?x?xf32> {
    %y = tensor.concat dim(0) %x, %x : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
    return %y : tensor<?x?xf32>
  }
  func.func @main(
      %x: tensor<?x?xf32> {dsc.name = "x", dsc.dims = #dsc.dims<["b", "s"]>},
      %w: tensor<2x20xi8> {dsc.weight = "blk.0"},
      %n: tensor<?xi32> {dsc.name = "n", dsc.dims = #dsc.dims<["s"]>, dsc.unsigned})
      -> (tensor<?x?xf32>, tensor<2x32xf32>, tensor<?xi32> {dsc.unsigned}, tensor<1xindex>) {
    %s = dsc.dim "s" {min = 1 : i64, max = 8 : i64, divisor = 2 : i64} : index
    %y = func.call @twice(%x) : (tensor<?x?xf32>) -> tensor<?x?xf32>
    %q = dsc.dequantize %w {format = "q4_1"} : tensor<2x20xi8> -> tensor<2x32xf32>
    %t = tensor.from_elements %s : tensor<1xindex>
    return %y, %q, %n, %t : tensor<?x?xf32>, tensor<2x32xf32>, tensor<?xi32>, tensor<1xindex>
  }
}"""
X, N = np.ones((3, 4), np.float32), np.array([1, 2, 3, 2**32 - 1], np.uint32)
WEIGHTS = {"blk.0": np.full((2, 20), 17, np.uint8)}


@pytest.mark.parametrize("mode", ["float64", "strict"])
def test_run(mode: str) -> None:
    y, q, n, s = reference.run(TEXT, X, N, weights=WEIGHTS, mode=mode)
    assert y.shape == (6, 4) and y.dtype == (np.float64 if mode == "float64" else np.float32)
    np.testing.assert_array_equal(q, reference.dequantize(WEIGHTS["blk.0"], "q4_1"))
    assert n.dtype == np.uint32 and n.tolist() == N.tolist()
    assert s.tolist() == [4]


@pytest.mark.parametrize(
    ("inputs", "weights", "message"),
    [
        ((X,), WEIGHTS, "the program takes 2 inputs, got 1"),
        ((X, N), {}, "weight 'blk.0' is missing"),
        ((X.astype(np.float64), N), WEIGHTS, "argument 'x' must be float32, got float64"),
        ((X, N.astype(np.int64)), WEIGHTS, "argument 'n' must be int32, got int64"),
        ((X[0], N), WEIGHTS, r"argument 'x' must have rank 2, got shape \[4\]"),
        ((X, N[:2]), WEIGHTS, "dimension 0 of argument 'n' is 's' = 4, got 2"),
        ((X, N), {"blk.0": np.zeros((2, 21), np.uint8)}, "dimension 1 of argument 'blk.0' must be 20, got 21"),
        ((X[:, :3], N[:3]), WEIGHTS, "'s' must be a multiple of 2, got 3"),
        ((np.ones((1, 10), np.float32), np.ones(10, np.uint32)), WEIGHTS, "'s' must be between 1 and 8, got 10"),
    ],
)
def test_bad_calls(inputs: tuple, weights: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference.run(TEXT, *inputs, weights=weights)


def test_unknown_operation_is_named_with_its_location() -> None:
    text = """
module {
  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    %y = linalg.softmax dimension(0) ins(%x : tensor<4xf32>) outs(%x : tensor<4xf32>) -> tensor<4xf32>
        loc("layers.7/mlp")
    return %y : tensor<4xf32>
  }
}"""
    with pytest.raises(InterpreterError, match=r'loc\("layers.7/mlp"\): \'linalg.softmax\' is not known'):
        reference.run(text, np.ones(4, np.float32))


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode must be one of .*, got 'float32'"):
        reference.run(TEXT, X, N, weights=WEIGHTS, mode="float32")


def test_missing_entry() -> None:
    with pytest.raises(InterpreterError, match="the module has no function @decode"):
        reference.run(TEXT, X, N, weights=WEIGHTS, entry="decode")
