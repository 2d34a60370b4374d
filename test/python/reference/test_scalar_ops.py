"""The oracle's `arith` and `math` operations against Python integers, torch and the C library."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from strategies import Argument, Builder, Tensor

from deepseek import reference

RNG = np.random.default_rng(3)


def apply(body: str, result: str, *inputs: np.ndarray, elements: tuple[str, ...], mode: str = "strict") -> np.ndarray:
    """A body over vectors: %a0, %a1, ... to %r."""
    tensors = [Tensor(element, ("n",)) for element in elements]
    builder = Builder(*(Argument(f"x{i}", tensor) for i, tensor in enumerate(tensors)))
    operands = [(f"%x{i}", tensor) for i, tensor in enumerate(tensors)]
    out = Tensor(result, ("n",))
    return reference.run(builder.module((builder.map(out, body, *operands), out)), *inputs, mode=mode)[0]


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGER = {  # on Python integers (a, b), read as signed
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "divsi": truncated,
    "floordivsi": lambda a, b: a // b,
    "ceildivsi": lambda a, b: -(-a // b),
    "remsi": lambda a, b: a - b * truncated(a, b),
    "andi": lambda a, b: a & b,
    "ori": lambda a, b: a | b,
    "xori": lambda a, b: a ^ b,
    "maxsi": max,
    "minsi": min,
}
UNSIGNED = {  # read as unsigned
    "divui": lambda a, b: a // b,
    "ceildivui": lambda a, b: -(-a // b),
    "remui": lambda a, b: a % b,
    "maxui": max,
    "minui": min,
}


@pytest.mark.parametrize("width", [8, 32, 64])
@pytest.mark.parametrize("op", [*INTEGER, *UNSIGNED])
def test_integer_arithmetic(op: str, width: int) -> None:
    info = np.iinfo(f"int{width}")
    edge = [info.min + 1, info.max, -1, 1, 7, -7]
    a = np.array([*RNG.integers(info.min + 1, info.max, 60), *edge], info.dtype)
    b = np.array([*RNG.integers(info.min + 1, info.max, 60) | 1, *edge[::-1]], info.dtype)
    actual = apply(f"%r = arith.{op} %a0, %a1 : i{width}", f"i{width}", a, b, elements=(f"i{width}",) * 2)
    for x, y, z in zip(a.tolist(), b.tolist(), actual.tolist(), strict=True):
        exact = INTEGER[op](x, y) if op in INTEGER else UNSIGNED[op](x % 2**width, y % 2**width)
        assert z == (exact + 2 ** (width - 1)) % 2**width - 2 ** (width - 1), (op, x, y)


def test_shifts_comparisons_and_bools() -> None:
    a, s = np.array([-128, -1, 1, 127], np.int8), np.array([1, 7, 3, 2], np.int8)
    i8 = ("i8", "i8")
    assert apply("%r = arith.shli %a0, %a1 : i8", "i8", a, s, elements=i8).tolist() == [0, -128, 8, -4]
    assert apply("%r = arith.shrsi %a0, %a1 : i8", "i8", a, s, elements=i8).tolist() == [-64, -1, 0, 31]
    assert apply("%r = arith.shrui %a0, %a1 : i8", "i8", a, s, elements=i8).tolist() == [64, 1, 0, 31]
    assert apply("%r = arith.cmpi slt, %a0, %a1 : i8", "i1", a, s, elements=i8).tolist() == [True, True, True, False]
    assert apply("%r = arith.cmpi ult, %a0, %a1 : i8", "i1", a, s, elements=i8).tolist() == [False, False, True, False]
    p, q = np.array([True, True, False]), np.array([True, False, False])
    assert apply("%r = arith.addi %a0, %a1 : i1", "i1", p, q, elements=("i1", "i1")).tolist() == [False, True, False]
    assert apply("%r = arith.extui %a0 : i1 to i32", "i32", p, elements=("i1",)).tolist() == [1, 1, 0]
    assert apply("%r = arith.extsi %a0 : i1 to i32", "i32", p, elements=("i1",)).tolist() == [-1, -1, 0]
    assert apply("%r = arith.uitofp %a0 : i1 to f32", "f32", p, elements=("i1",)).tolist() == [1, 1, 0]


@pytest.mark.parametrize("predicate", ["oeq", "ogt", "olt", "ole", "one", "ord", "ueq", "uge", "ult", "une", "uno"])
def test_float_comparisons(predicate: str) -> None:
    a = np.array([1, 2, 3, np.nan, 1, np.nan], np.float32)
    b = np.array([2, 2, 1, 1, np.nan, np.nan], np.float32)
    actual = apply(f"%r = arith.cmpf {predicate}, %a0, %a1 : f32", "i1", a, b, elements=("f32", "f32"))
    for x, y, z in zip(a, b, actual, strict=True):
        unordered = bool(np.isnan(x) or np.isnan(y))
        names = {"eq": x == y, "gt": x > y, "ge": x >= y, "lt": x < y, "le": x <= y, "ne": x != y}
        if predicate in ("ord", "uno"):
            assert z == (unordered == (predicate == "uno"))
        elif unordered:
            assert z == predicate.startswith("u")
        else:
            assert z == names[predicate[1:]]


@pytest.mark.parametrize("element", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
def test_strict_arithmetic_is_bit_equal_to_torch(op: str, element: str) -> None:
    """Including subnormal results, infinities and NaN."""
    dtype = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[element]
    tiny = float(ml_dtypes.finfo(dtype).tiny)
    a, b = (
        np.concatenate([RNG.standard_normal(500), RNG.standard_normal(500) * tiny * 4, [0, -0.0, np.inf, np.nan]])
        for _ in range(2)
    )
    a, b = a.astype(dtype), RNG.permutation(b).astype(dtype)
    tensors = [torch.from_numpy(x.astype(np.float32)).to(getattr(torch, _TORCH[element])) for x in (a, b)]
    expected = getattr(torch, op)(*tensors).to(torch.float32).numpy()
    actual = apply(f"%r = arith.{op}f %a0, %a1 : {element}", element, a, b, elements=(element,) * 2)
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual.astype(np.float32), expected)
    ordinary = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual)[ordinary], np.signbit(expected)[ordinary])


_TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def test_extrema_of_zeros_and_nan() -> None:
    a = np.array([0.0, -0.0, np.nan, 1.0, np.nan], np.float32)
    b = np.array([-0.0, 0.0, 1.0, np.nan, np.nan], np.float32)
    run = lambda op: apply(f"%r = arith.{op} %a0, %a1 : f32", "f32", a, b, elements=("f32", "f32"))  # noqa: E731
    np.testing.assert_array_equal(np.signbit(run("maximumf"))[:2], [False, False])
    np.testing.assert_array_equal(np.signbit(run("minimumf"))[:2], [True, True])
    np.testing.assert_array_equal(run("maximumf")[2:], [np.nan] * 3)
    np.testing.assert_array_equal(run("maxnumf")[2:], [1, 1, np.nan])
    np.testing.assert_array_equal(run("minnumf")[2:], [1, 1, np.nan])


FUNCTIONS = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin", "cos", "tan", "tanh", "erf",
    "floor", "ceil", "trunc", "absf",
)  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_against_torch(name: str) -> None:
    """float64 to 4e-16 * 8 of the largest value; roundeven and round differ in ties only."""
    x = RNG.uniform(0.1, 6, 400)
    function = {"absf": torch.abs}.get(name) or getattr(torch, name)
    expected = function(torch.from_numpy(x)).numpy()
    reference.compare(apply(f"%r = math.{name} %a0 : f64", "f64", x, elements=("f64",)), expected, 4e-15)
    single = apply(f"%r = math.{name} %a0 : f32", "f32", x.astype(np.float32), elements=("f32",))
    wide = function(torch.from_numpy(x.astype(np.float32).astype(np.float64))).numpy().astype(np.float32)
    assert np.max(np.abs(single.view(np.int32) - wide.view(np.int32))) <= 1  # ulp, where torch's float64 is off


def test_rounding_functions_and_powers() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997], np.float32)
    f32 = ("f32",)
    assert apply("%r = math.roundeven %a0 : f32", "f32", x, elements=f32).tolist() == [-2, -2, 0, 0, 2, 2, 0]
    assert apply("%r = math.round %a0 : f32", "f32", x, elements=f32).tolist() == [-3, -2, -1, 1, 2, 3, 0]
    base, exponent = np.array([2, -3, 0, 5, 1, -1], np.int32), np.array([10, 3, 0, -1, -7, -3], np.int32)
    body = "%r = math.ipowi %a0, %a1 : i32"
    assert apply(body, "i32", base, exponent, elements=("i32", "i32")).tolist() == [1024, -27, 1, 0, 1, -1]
    a, b = RNG.uniform(0.5, 3, 50), RNG.uniform(-3, 3, 50)
    for op, function in {"powf": math.pow, "atan2": math.atan2, "copysign": math.copysign}.items():
        expected = [function(p, q) for p, q in zip(a, b, strict=True)]
        actual = apply(f"%r = math.{op} %a0, %a1 : f64", "f64", a, b, elements=("f64", "f64"))
        np.testing.assert_allclose(actual, expected, rtol=4e-16)


def test_casts() -> None:
    x = np.array([2.7, -2.7, 1e10, -1e10, np.nan, 300.0, np.inf], np.float32)
    assert apply("%r = arith.fptosi %a0 : f32 to i32", "i32", x, elements=("f32",)).tolist() == [
        2, -2, 2**31 - 1, -(2**31), 0, 300, 2**31 - 1,
    ]  # fmt: skip
    unsigned = apply("%r = arith.fptoui %a0 : f32 to i8", "i8", x, elements=("f32",)).view(np.uint8)
    assert unsigned.tolist() == [2, 0, 255, 0, 0, 255, 255]
    big = np.array([2.0**63, -(2.0**63), 2.0**62 + 2.0**40], np.float64)
    wide = apply("%r = arith.fptosi %a0 : f64 to i64", "i64", big, elements=("f64",))
    assert wide.tolist() == [2**63 - 1, -(2**63), 2**62 + 2**40]
    i = np.array([2**62 + 1, -3, -(2**63)], np.int64)
    np.testing.assert_array_equal(
        apply("%r = arith.sitofp %a0 : i64 to f32", "f32", i, elements=("i64",)), i.astype(np.float32)
    )
    assert apply("%r = arith.uitofp %a0 : i64 to f64", "f64", i, elements=("i64",))[1] == 2.0**64
    assert apply("%r = arith.trunci %a0 : i64 to i8", "i8", i, elements=("i64",)).tolist() == [1, -3, 0]
    y = np.array([1.0, -0.0, np.nan], np.float32)
    bits = apply("%r = arith.bitcast %a0 : f32 to i32", "i32", y, elements=("f32",), mode="float64")
    np.testing.assert_array_equal(bits, y.view(np.int32))


def test_written_casts_round_in_float64_mode_and_nothing_else_does() -> None:
    x = np.array([1 / 3, 1e-3, 70000.0], np.float32)
    third = "%c = arith.constant 3.0 : f32 ; %q = arith.divf %a0, %c : f32"
    kept = apply(f"{third} ; %r = arith.mulf %q, %c : f32", "f32", x, elements=("f32",), mode="float64")
    np.testing.assert_array_equal(kept, x.astype(np.float64) / 3 * 3)
    body = f"{third} ; %h = arith.truncf %q : f32 to bf16 ; %r = arith.extf %h : bf16 to f32"
    cast = apply(body, "f32", x, elements=("f32",), mode="float64")
    expected = (x.astype(np.float64) / 3).astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_array_equal(cast, expected)
    half = apply("%h = arith.truncf %a0 : f32 to f16 ; %r = arith.extf %h : f16 to f32", "f32", x, elements=("f32",))
    with np.errstate(over="ignore"):  # 70000 becomes infinite
        np.testing.assert_array_equal(half, x.astype(np.float16).astype(np.float32))


def test_extended_products_and_bits() -> None:
    a, b = (RNG.integers(-(2**31), 2**31, 50).astype(np.int32) for _ in range(2))
    body = "%l, %r = arith.{} %a0, %a1 : i32"
    high = apply(body.format("mulsi_extended"), "i32", a, b, elements=("i32", "i32"))
    np.testing.assert_array_equal(high, (a.astype(np.int64) * b >> 32).astype(np.int32))
    high = apply(body.format("mului_extended"), "i32", a, b, elements=("i32", "i32"))
    product = a.view(np.uint32).astype(np.uint64) * b.view(np.uint32)
    np.testing.assert_array_equal(high.view(np.uint32), product >> 32)
    carry = apply("%l, %r = arith.addui_extended %a0, %a1 : i32, i1", "i1", a, b, elements=("i32", "i32"))
    np.testing.assert_array_equal(carry, a.view(np.uint32).astype(np.uint64) + b.view(np.uint32) >= 2**32)
    for op, expected in {"ctpop": [0, 1, 8, 1], "ctlz": [8, 7, 0, 0], "cttz": [8, 0, 0, 7]}.items():
        x = np.array([0, 1, -1, -128], np.int8)
        assert apply(f"%r = math.{op} %a0 : i8", "i8", x, elements=("i8",)).tolist() == expected
