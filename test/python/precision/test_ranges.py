"""Ranges and error bounds: what is computed never lies outside, whatever the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from range_programs import check, measured, values

from deepseek import ACG
from deepseek.compiler import lower_text
from deepseek.errors import CompileError, InputError
from deepseek.precision.ranges import ranges_of, ranges_of_results
from deepseek.reference import program as reference


@pytest.mark.parametrize("seed", range(8))
def test_values_of_random_programs_lie_in_their_ranges(seed):
    """`make fuzz-ranges` compares a million elements."""
    cases, wrong = check(seed)
    assert cases > 1000
    assert not wrong, "\n".join(wrong)


# ----------------------------------------------------------------------------------------------------------------------
# Errors
# ----------------------------------------------------------------------------------------------------------------------

UNITS = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-8, "fp8_e4m3": 2.0**-4, "fp8_e5m2": 2.0**-3}
PLAIN = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
SCALED = {
    "fp8_e4m3": (ml_dtypes.float8_e4m3fn, 448.0),
    "fp8_e5m2": (ml_dtypes.float8_e5m2, 57344.0),
    "int8": (None, 127.0),
}


def rounded(x: np.ndarray, name: str) -> np.ndarray:
    """To the nearest number of a format; 8 bits under a scale for each row."""
    if name in PLAIN:
        return x.astype(PLAIN[name]).astype(np.float32)
    dtype, largest = SCALED[name]
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(largest)
    scale = np.where(scale == 0, np.float32(1), scale)
    codes = np.clip(x / scale, -largest, largest)
    codes = np.rint(codes) if dtype is None else codes.astype(dtype).astype(np.float32)
    return (codes * scale).astype(np.float32)


W, G, B = ((24, 16), "w"), ((16,), "g"), ((16,), "b")
X, H = (("n", 16), "x"), ((1, "n", 2, 8), "h")
# Functions of one operation, with the names of what `lhs` and `rhs` are.
OPERATIONS: dict[str, tuple[Callable[..., Any], list[Any], tuple[str, ...], tuple[str, ...]]] = {
    "matmul": (lambda x, w: ACG.matmul(x, w, transpose_rhs=True), [X, W], ("x",), ("w",)),
    "bias": (lambda x, w, b: ACG.matmul(x, w, bias=b), [X, ((16, 16), "w"), B], ("x",), ("w",)),
    "rms_norm": (lambda x, g: ACG.rms_norm(x, g, 1e-5), [X, G], ("x",), ("g",)),
    "layer_norm": (lambda x, g, b: ACG.layer_norm(x, g, b, 1e-2), [X, G, B], ("x",), ("g",)),
    "softmax": (lambda x: ACG.softmax(x), [X], ("x",), ()),
    "attention": (
        lambda h, k, v: ACG.attention(h, k, v, causal=True),
        [H, (H[0], "k"), (H[0], "v")],
        ("h",),
        ("k", "v"),
    ),
}


def errors_of(name: str, sizes: tuple[float, float], seed: int) -> tuple[int, list[str]]:
    """Elements that were compared with a bound, and what exceeds it."""
    function, arguments, lhs, rhs = OPERATIONS[name]
    rng = np.random.default_rng(seed)
    names = [argument[1] for argument in arguments]
    arrays = {}
    for number, (shape, label) in enumerate(arguments):
        most = np.float32(sizes[min(number, 1)])
        arrays[label] = values(rng, tuple(48 if n == "n" else n for n in shape), -most, most)
    graph = ACG.trace(function, *(ACG.spec("f32", shape, label) for shape, label in arguments))
    intervals = {label: measured(array) for label, array in arrays.items()}
    (row,) = ranges_of(graph.mlir, inputs=intervals, errors=True)
    compiled = graph.compile()
    exact = reference.run(graph.mlir, *arrays.values())[0]
    cases, wrong = 0, []

    def compare(
        given: dict[str, np.ndarray], error: tuple[float, float], unit: float, label: str, result: str = ""
    ) -> None:
        nonlocal cases
        computed = np.asarray(compiled(*(given[n] for n in names)))
        # A result's row is what shares a scale, which no operation of the graph rounds to.
        computed = rounded(computed, result) if result in PLAIN else computed
        difference = np.abs(computed.astype(np.float64) - exact)
        bound, estimate = (number * unit for number in error)
        cases += difference.size
        if not (difference <= bound).all():
            wrong.append(f"{name} {label} {sizes}: {difference.max():.3e} > {bound:.3e}")
        if not np.sqrt(np.mean(difference**2)) <= estimate:
            wrong.append(f"{name} {label} {sizes}: {np.sqrt(np.mean(difference**2)):.3e} > {estimate:.3e} expected")

    compare(arrays, row.errors["f32"], UNITS["f32"], "f32")
    for label in UNITS.keys() - {"f32"}:
        narrow = {n: rounded(a, label) for n, a in arrays.items()}
        for part, chosen in {"lhs": lhs, "rhs": rhs, "result": (), "all": (*lhs, *rhs)}.items():
            given = {n: narrow[n] if n in chosen else a for n, a in arrays.items()}
            result = label if part in ("result", "all") else ""
            compare(given, row.errors[label][part], UNITS[label], f"{label} {part}", result)
    return cases, wrong


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sizes", [(1.0, 1.0), (60.0, 0.02), (1e-3, 300.0)])
def test_errors_lie_below_their_bounds(name, sizes):
    for seed in range(2):
        cases, wrong = errors_of(name, sizes, seed)
        assert cases > 1000
        assert not wrong, "\n".join(wrong)


def test_the_error_of_a_product_is_that_of_higham():
    """((1 + u)^2 (1 + gamma_K) - 1) |x| |w|, eq. 3.5; first order 2 u |x| |w|."""
    graph = ACG.trace(lambda x, w: ACG.matmul(x, w, transpose_rhs=True), *(ACG.spec("f32", s, n) for s, n in (X, W)))
    inputs = {"x": (-1.0, 1.0, 3.0), "w": (-1.0, 1.0, 2.0)}
    (row,) = ranges_of(graph.mlir, inputs=inputs, errors=True)
    u, gamma = 2.0**-8, 18 * 2.0**-24 / (1 - 18 * 2.0**-24)
    bound, estimate = row.errors["bf16"]["lhs"]
    assert math.isclose(bound * u, 6 * ((1 + u) * (1 + gamma) - 1), rel_tol=1e-9)
    assert math.isclose(estimate, 2, rel_tol=1e-6)  # u sqrt(sum x_k^2 w_k^2) <= u min(|x| max|w|, max|x| |w|)


# ----------------------------------------------------------------------------------------------------------------------
# Weights, calibration, models
# ----------------------------------------------------------------------------------------------------------------------


_VALUES = [("layers.1/self_attn/v_proj", "dsc.matmul"), ("layers.1/self_attn", "dsc.attention")]


def decoder_text(folder) -> tuple[str, dict[str, np.ndarray]]:
    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.package import describe
    from deepseek.precision.weights import values_of

    checkpoint = open_checkpoint(folder)
    text = lower_text(describe(checkpoint, precision="f32", all_logits=True)[1], to_phase="import")
    return text, {name: values_of(tensor) for name, tensor in checkpoint.tensors.items()}


def test_everything_of_a_decoder_is_proved_from_its_weights(small_decoder):
    text, weights = decoder_text(small_decoder[0])
    rows = ranges_of(text, weights)
    assert {row.source for row in rows} == {"proved"}
    norm = next(row for row in rows if row.at == "layers.1/input_layernorm")
    largest = np.abs(weights["model.layers.1.input_layernorm.weight"]).max()
    assert largest * 8 <= norm.norm <= largest * 8 * 1.001  # rows of 64
    values, seen = (next(r for r in rows if r.at == at and r.op == op) for at, op in _VALUES)
    assert seen.magnitude <= values.magnitude * 1.04  # means of values, not of keys, rounded over up to 2^17 positions
    logits = rows[-1]
    head = np.sqrt(np.square(weights["lm_head.weight"].astype(np.float64)).sum(-1).max())
    assert logits.at == "lm_head" and logits.magnitude <= head * rows[-2].norm * 1.001
    assert {row.source for row in ranges_of(text) if row.op == "dsc.matmul"} == {"unknown"}


def test_calibrated_ranges_are_used_where_nothing_is_proved(small_decoder):
    text, weights = decoder_text(small_decoder[0])
    at = ("layers.0/mlp/up_proj", "dsc.matmul")
    rows = {(row.at, row.op): row for row in ranges_of(text, None, {at: (-2.0, 3.0)})}
    assert (rows[at].lo, rows[at].hi, rows[at].source) == (-2, 3, "calibrated")
    rows = {(row.at, row.op): row for row in ranges_of(text, weights, {at: (-2.0, 3.0)})}
    assert rows[at].source == "proved" and rows[at].magnitude > 3
    with pytest.raises(
        CompileError, match="a range is given for dsc.matmul at nowhere, which this model does not have"
    ):
        ranges_of(text, None, {("nowhere", "dsc.matmul"): (0.0, 1.0)})


def test_hazards_name_formats():
    graph = ACG.trace(lambda x: ACG.softmax(x * 1e5), ACG.spec("f32", ("n", 8), "x"))
    rows = ranges_of(graph.mlir, inputs={"x": (-1.0, 1.0)}, everything=True)
    scaled = next(row for row in rows if row.op == "linalg.generic")
    assert scaled.hazards == ("f16 overflow", "fp8_e4m3 overflow", "fp8_e5m2 overflow")
    assert next(row for row in rows if row.op == "dsc.softmax").hazards == ()


def test_results_that_are_arguments_have_no_range():
    graph = ACG.trace(lambda x, i: (x, i + 1, x + 1), ACG.spec("f32", ("n",), "x"), ACG.spec("i32", ("n",), "i"))
    first, second, third = ranges_of_results(graph.mlir, inputs={"x": (0.0, 1.0)})
    assert first is None and second is None and (third.lo, third.source) == (pytest.approx(1), "proved")
    with pytest.raises(InputError, match="the module has no input 'z'"):
        ranges_of(graph.mlir, inputs={"z": (0.0, 1.0)})
