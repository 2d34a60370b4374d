"""Values of kernels for AArch64, run in an emulator, against float64."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from aarch64_machine import Machine

from deepseek.compiler import compile_text

_ELEMENTS = {"f32": ("f32", np.float32), "bf16": ("f32", ml_dtypes.bfloat16), "i8": ("i32", np.int8)}


def _machine(text: str) -> Machine:
    return Machine(compile_text(text, target="cpu:aarch64"))


@pytest.mark.parametrize("element", _ELEMENTS)
@pytest.mark.parametrize("is_weight", [True, False])
def test_matmul(element: str, is_weight: bool) -> None:
    result, dtype = _ELEMENTS[element]
    n, k = 37, 65
    types = f"(tensor<?x{k}x{element}>, tensor<{k}x{n}x{element}>) -> tensor<?x{n}x{result}>"
    machine = _machine(f"""module {{
      func.func @main(%a: tensor<?x{k}x{element}> {{dsc.dims = #dsc.dims<["m", "_"]>}},
                      %b: tensor<{k}x{n}x{element}> {'{dsc.weight = "b"}' if is_weight else ""}) -> tensor<?x{n}x{result}> {{
        %c = dsc.matmul %a, %b : {types}
        return %c : tensor<?x{n}x{result}>
      }}
    }}""")
    rng = np.random.default_rng(0)
    for m in (1, 7, 127):
        if element == "i8":
            a, b = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
        else:
            a, b = (rng.standard_normal(shape, np.float32).astype(dtype) for shape in ((m, k), (k, n)))
        inputs, weights = ([a], {"b": b}) if is_weight else ([a, b], {})
        out = np.int32 if element == "i8" else np.float32
        (c,) = machine.call(inputs, [(m, n)], [out], symbols={"m": m}, weights=weights)
        if element == "i8":
            np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))
        else:
            bound = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
            assert np.all(np.abs(c - a.astype(np.float64) @ b.astype(np.float64)) <= 1e-6 * bound)


def test_rms_norm() -> None:
    columns = 75
    types = f"(tensor<?x{columns}xf32>, tensor<{columns}xf32>) -> tensor<?x{columns}xf32>"
    machine = _machine(f"""module {{
      func.func @main(%x: tensor<?x{columns}xf32> {{dsc.dims = #dsc.dims<["m", "_"]>}}, %w: tensor<{columns}xf32>)
          -> tensor<?x{columns}xf32> {{
        %y = dsc.rms_norm %x, %w {{eps = 1.0e-5 : f64}} : {types}
        return %y : tensor<?x{columns}xf32>
      }}
    }}""")
    rng = np.random.default_rng(0)
    for m in (1, 7, 100):
        x, w = rng.standard_normal((m, columns), np.float32), rng.standard_normal(columns, np.float32)
        (y,) = machine.call([x, w], [x.shape], [np.float32], symbols={"m": m})
        expected = x.astype(np.float64) / np.sqrt(np.mean(x.astype(np.float64) ** 2, -1, keepdims=True) + 1e-5) * w
        np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("element", ["f32", "f16"])
def test_attention(rows: int, element: str) -> None:
    heads, kv_heads, size, capacity = 4, 2, 40, 60
    query, cache = f"tensor<1x?x{heads}x{size}xf32>", f"tensor<1x2x{kv_heads}x{capacity}x{size}x{element}>"
    machine = _machine(f"""module {{
      func.func @main(%q: {query} {{dsc.dims = #dsc.dims<["_", "s", "_", "_"]>}}, %c: {cache}, %n: tensor<1xi32>) -> {query} {{
        %y = dsc.attention %q cache %c lengths %n {{causal, scale = 0.125 : f32}} : ({query}, {cache}, tensor<1xi32>) -> {query}
        return %y : {query}
      }}
    }}""")
    rng = np.random.default_rng(rows)
    length = 51
    q = rng.standard_normal((1, rows, heads, size)).astype(np.float32)
    c = rng.standard_normal((1, 2, kv_heads, capacity, size)).astype(np.float16 if element == "f16" else np.float32)
    c[..., length:, :] = np.nan
    (y,) = machine.call([q, c, np.array([length], np.int32)], [q.shape], [np.float32], symbols={"s": rows})
    for head in range(heads):
        keys, values = c[0, :, head // 2, :length].astype(np.float64)
        scores = q[0, :, head].astype(np.float64) @ keys.T * 0.125
        scores[np.arange(length) > (length - rows + np.arange(rows))[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        np.testing.assert_allclose(
            y[0, :, head], weights @ values / weights.sum(1, keepdims=True), rtol=4e-6, atol=4e-6
        )


@pytest.mark.parametrize("function", ["exp", "log", "sin", "tanh", "erf"])
def test_functions(function: str) -> None:
    machine = _machine(f"""module {{
      func.func @main(%x: tensor<?xf32> {{dsc.dims = #dsc.dims<["n"]>}}) -> tensor<?xf32> {{
        %y = math.{function} %x : tensor<?xf32>
        return %y : tensor<?xf32>
      }}
    }}""")
    x = np.geomspace(1e-3, 40, 333, dtype=np.float32)
    (y,) = machine.call([x], [x.shape], [np.float32], symbols={"n": len(x)})
    reference = getattr(math, function)
    np.testing.assert_allclose(y, [reference(float(value)) for value in x], rtol=2.5e-7, atol=1e-30)
