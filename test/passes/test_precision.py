"""Plans through the compiler: what is stored, rounded and multiplied, against numpy and ml_dtypes."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from deepseek import ACG
from deepseek.compiler import compile_text
from deepseek.executable import Executable
from deepseek.formats import find_format

rng = np.random.default_rng(0)


def run(columns: int, decision: dict, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x w^T, the weight written in f32, under a plan's decision."""

    def product(x):
        with ACG.scope("layer/up_proj"):
            return ACG.matmul(x, ACG.weight("w", (48, columns), "f32"), transpose_rhs=True)

    text = ACG.trace(product, ACG.spec("f32", ("m", columns), "x")).mlir
    plan = json.dumps({"version": 1, "ops": [{"at": "layer/up_proj", "op": "dsc.matmul", **decision}]})
    code = compile_text(text, plan=plan)
    program = Executable(code.object, code.manifest)
    program.bind_weights({"w": weight})
    return program(x)[0]


def in_blocks(x: np.ndarray, group: int, dtype: type, largest: float) -> np.ndarray:
    """x rounded in blocks of `group` neighbours of a row, as a loop over blocks."""
    out = np.empty(x.shape, np.float64)
    for begin in range(0, x.shape[1], group):
        part = x[:, begin : begin + group]
        scale = np.abs(part).max(1, keepdims=True) / np.float32(largest)
        scale[scale == 0] = 1
        codes = np.clip(part / scale, -largest, largest)
        codes = np.rint(codes) if dtype is np.int8 else codes.astype(dtype).astype(np.float32)
        out[:, begin : begin + group] = codes.astype(np.float32) * scale
    return out


ACTIVATIONS = {
    "fp8_e4m3_row": (None, ml_dtypes.float8_e4m3fn, 448.0),
    "fp8_e4m3_g128": (128, ml_dtypes.float8_e4m3fn, 448.0),
    "fp8_e5m2_g32": (32, ml_dtypes.float8_e5m2, 57344.0),
    "int8_row": (None, np.int8, 127.0),
}


@pytest.mark.parametrize("rows", [1, 7, 127])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("columns", [576, 96])
def test_activations_are_rounded_in_blocks(name, columns, rows):
    group, dtype, largest = ACTIVATIONS[name]
    x = (rng.standard_normal((rows, columns)) * np.exp(rng.standard_normal((rows, columns)))).astype(np.float32)
    x[0, :40] = 0
    w = rng.standard_normal((48, columns)).astype(np.float32)
    expected = in_blocks(x, group or columns, dtype, largest) @ w.astype(np.float64).T
    found = run(columns, {"activation": name}, w, x)
    assert np.abs(found - expected).max() <= 3e-6 * np.abs(expected).max() * np.sqrt(columns)


@pytest.mark.parametrize("name", ["int8_row", "int8_g64", "int4_g64", "q4_0", "q8_0", "fp8_e4m3_row", "bf16", "f16"])
def test_weights_are_stored_as_decided(name):
    columns = 192
    w = rng.standard_normal((48, columns)).astype(np.float32)
    form = find_format(name, columns)
    if form.codes:
        scales = form.round_scales(np.abs(w.reshape(48, -1, form.elements)).max(-1) / form.largest)
        stored = form.encode(form.round_codes(w / np.repeat(scales, form.elements, 1)), scales)
        values = form.decode(stored)
    else:
        stored = w.astype(ml_dtypes.bfloat16 if name == "bf16" else np.float16)
        values = stored.astype(np.float32)
        stored = stored.view(np.uint16)
    x = rng.standard_normal((5, columns)).astype(np.float32)
    expected = x.astype(np.float64) @ values.astype(np.float64).T
    found = run(columns, {"weight": name}, stored, x)
    assert np.abs(found - expected).max() <= 3e-6 * np.abs(expected).max() * np.sqrt(columns)
