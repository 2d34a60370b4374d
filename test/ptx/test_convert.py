"""cvt over all patterns of the small types, against ml_dtypes and numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ptx.snippets import elementwise

ALL16 = np.arange(65536, dtype=np.uint16)
BF16, E4M3, E5M2 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
RANDOM = np.random.default_rng(5)
BITS32 = RANDOM.integers(0, 2**32, 40_000, dtype=np.uint32)
# Halves of every f16 and bf16 step, and their neighbours, so that ties and near ties are met.
HALVES = np.concatenate([(ALL16.astype(np.uint32) << 16) + np.uint32(d) for d in (0x7FFF, 0x8000, 0x8001)])
F32 = np.concatenate([BITS32, HALVES]).view(np.float32)
with np.errstate(invalid="ignore"):
    HALF_STEPS = np.concatenate(
        [
            (ALL16.view(np.float16).astype(np.float64) * (1 + s)).astype(np.float32)
            for s in (0, 2.0**-12, 2.0**-11, 3 * 2.0**-13)
        ]
    )


@pytest.fixture(autouse=True)
def quiet():
    """NaN and overflow are meant."""
    with np.errstate(all="ignore"):
        yield


def same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal values, and NaN where there should be."""
    got, want = (v.astype(np.float64) for v in (got, want))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    good = ~np.isnan(want)
    np.testing.assert_array_equal(got[good], want[good])
    np.testing.assert_array_equal(np.signbit(got[good]), np.signbit(want[good]))


@pytest.mark.parametrize("kind, dtype", [("bf16", BF16), ("f16", np.float16)])
def test_16_bits_to_f32(kind, dtype):
    got = elementwise(f"cvt.f32.{kind} $o, $i0;", [ALL16], np.float32)
    same(got, ALL16.view(dtype).astype(np.float32))


@pytest.mark.parametrize("values", [F32, HALF_STEPS], ids=["bf16 ties", "f16 ties"])
@pytest.mark.parametrize("kind, dtype", [("bf16", BF16), ("f16", np.float16)])
def test_f32_to_16_bits(kind, dtype, values):
    got = elementwise(f"cvt.rn.{kind}.f32 $o, $i0;", [values], np.uint16)
    with np.errstate(over="ignore"):
        same(got.view(dtype), values.astype(dtype))


@pytest.mark.parametrize("kind, dtype", [("bf16", BF16), ("f16", np.float16)])
def test_f32_to_16_bits_towards_zero(kind, dtype):
    values = np.concatenate([F32, HALF_STEPS])
    got = elementwise(f"cvt.rz.{kind}.f32 $o, $i0;", [values], np.uint16).view(dtype).astype(np.float64)
    good = np.isfinite(values)
    exact = values[good].astype(np.float64)
    assert (np.abs(got[good]) <= np.abs(exact)).all()
    with np.errstate(over="ignore"):
        nearest = values.astype(dtype)
    one_less = np.nextafter(nearest, dtype(0)).astype(np.float64)
    want = np.where(np.abs(nearest.astype(np.float64)) <= np.abs(values), nearest.astype(np.float64), one_less)
    np.testing.assert_array_equal(got[good], want[good])


def test_packed_bf16_has_the_first_source_above():
    a, b = F32[:4096], F32[4096:8192]
    got = elementwise("cvt.rn.bf16x2.f32 $o, $i0, $i1;", [a, b], np.uint32).view(np.uint16).reshape(-1, 2)
    same(got[:, 1].copy().view(BF16), a.astype(BF16))
    same(got[:, 0].copy().view(BF16), b.astype(BF16))


@pytest.mark.parametrize("kind, dtype", [("e4m3x2", E4M3), ("e5m2x2", E5M2)])
def test_fp8_to_f16(kind, dtype):
    codes = ALL16  # all pairs of codes
    got = elementwise(f"cvt.rn.f16x2.{kind} $o, $i0;", [codes], np.uint32).view(np.float16)
    same(got, codes.view(np.uint8).view(dtype).astype(np.float16))


@pytest.mark.parametrize("kind, dtype, largest", [("e4m3x2", E4M3, 448.0), ("e5m2x2", E5M2, 57344.0)])
def test_f32_to_fp8_saturates(kind, dtype, largest):
    steps = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    values = np.concatenate([F32[:20_000], *(steps * np.float32(1 + s) for s in (0, 2.0**-4, 2.0**-5, 3 * 2.0**-5))])
    values = values[: len(values) // 2 * 2]
    low, high = values[0::2].copy(), values[1::2].copy()
    got = elementwise(f"cvt.rn.satfinite.{kind}.f32 $o, $i0, $i1;", [high, low], np.uint16)
    with np.errstate(invalid="ignore"):
        same(got.view(np.uint8).view(dtype), np.clip(values, -largest, largest).astype(dtype))


def test_f16x2_to_fp8():
    pairs = np.ascontiguousarray(np.stack([ALL16, ALL16[::-1]], -1)).view(np.uint32)[:, 0]
    got = elementwise("cvt.rn.satfinite.e4m3x2.f16x2 $o, $i0;", [pairs], np.uint16)
    values = pairs.view(np.float16).astype(np.float32)
    same(got.view(np.uint8).view(E4M3), np.clip(values, -448, 448).astype(E4M3))


@pytest.mark.parametrize("mode, function", [("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)])
@pytest.mark.parametrize("kind, dtype", [("s32", np.int32), ("u32", np.uint32), ("s64", np.int64)])
def test_f32_to_integer(mode, function, kind, dtype):
    values = np.concatenate(
        [F32, RANDOM.normal(0, 1000, 5000).astype(np.float32), np.arange(-8, 8, 0.5, dtype=np.float32)]
    )
    got = elementwise(f"cvt.{mode}.{kind}.f32 $o, $i0;", [values], dtype)
    info = np.iinfo(dtype)
    for value, each in zip(values.tolist(), got.tolist()):
        if np.isnan(value):
            assert each == (0 if dtype != np.int64 else info.min)
        elif np.isinf(value):
            assert each == (info.max if value > 0 else info.min)
        else:
            assert each == min(max(int(function(value)), info.min), info.max), value


@pytest.mark.parametrize("kind, dtype", [("s32", np.int32), ("u32", np.uint32), ("s64", np.int64), ("u64", np.uint64)])
@pytest.mark.parametrize("to, out", [("f32", np.float32), ("f64", np.float64), ("f16", np.float16)])
def test_integer_to_float(kind, dtype, to, out):
    raw = RANDOM.integers(0, 2**63, 4000, dtype=np.uint64)
    values = np.concatenate([raw.astype(dtype), (raw >> np.uint64(40)).astype(dtype), np.arange(3000).astype(dtype)])
    got = elementwise(f"cvt.rn.{to}.{kind} $o, $i0;", [values], out)
    with np.errstate(over="ignore"):
        same(got, values.astype(out))


def test_between_integers():
    values = RANDOM.integers(-(2**31), 2**31, 3000).astype(np.int32)
    for to in (np.int8, np.uint8, np.int16, np.uint16, np.int64, np.uint64):
        name = f"{'s' if np.dtype(to).kind == 'i' else 'u'}{8 * np.dtype(to).itemsize}"
        out = to if np.dtype(to).itemsize > 1 else np.int16
        got = elementwise(f"cvt.{name}.s32 $o, $i0;", [values], out)
        np.testing.assert_array_equal(got.astype(to), values.astype(to))
        if np.dtype(to).itemsize > 2:
            continue
        clipped = elementwise(f"cvt.sat.{name}.s32 $o, $i0;", [values], out)
        np.testing.assert_array_equal(
            clipped.astype(to), np.clip(values.astype(object), np.iinfo(to).min, np.iinfo(to).max)
        )


def test_relu_and_saturation():
    values = np.array([-2.0, -0.0, 0.25, 3.0, np.nan, np.inf], np.float32)
    got = elementwise("cvt.rn.relu.bf16.f32 $o, $i0;", [values], np.uint16).view(BF16)
    same(got, np.array([0, 0, 0.25, 3, np.nan, np.inf], BF16))
    got = elementwise("cvt.sat.f32.f32 $o, $i0;", [values], np.float32)
    np.testing.assert_array_equal(got, [0, 0, 0.25, 1, 0, 1])
