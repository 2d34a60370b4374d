"""Integer and float arithmetic against Python's integers, numpy and ml_dtypes."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from ptx.snippets import elementwise

BF16 = ml_dtypes.bfloat16
R = np.random.default_rng(9)
EDGES = [0, 1, 2, 31, 32, 33, 2**31 - 1, 2**31, 2**32 - 1, 0x80000001, 0x0000FFFF]
U32 = np.concatenate([np.repeat(EDGES, len(EDGES)), R.integers(0, 2**32, 800)]).astype(np.uint32)
V32 = np.concatenate([np.tile(EDGES, len(EDGES)), R.integers(0, 2**32, 800)]).astype(np.uint32)
W32 = R.integers(0, 2**32, len(U32), dtype=np.uint32)
U64 = U32.astype(np.uint64) << np.uint64(32) | V32
V64 = V32.astype(np.uint64) << np.uint64(32) | W32


def signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def quotient(a: int, b: int) -> int:
    q = abs(a) // abs(b) if b else 0
    return q if (a < 0) == (b < 0) else -q


BINARY = {
    "add": lambda a, b, w: a + b,
    "sub": lambda a, b, w: a - b,
    "mul.lo": lambda a, b, w: a * b,
    "mul.hi": lambda a, b, w: (a * b) >> w,
    "min": lambda a, b, w: min(a, b),
    "max": lambda a, b, w: max(a, b),
    "div": lambda a, b, w: quotient(a, b) if b else None,
    "rem": lambda a, b, w: a - b * quotient(a, b) if b else None,
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64", "u16", "s16"])
def test_integer_pairs(name, kind):
    bits = int(kind[1:])
    a, b = {16: (U32.astype(np.uint16), V32.astype(np.uint16)), 32: (U32, V32), 64: (U64, V64)}[bits]
    got = elementwise(f"{name}.{kind} $o, $i0, $i1;", [a, b], a.dtype)
    for x, y, z in zip(a.tolist(), b.tolist(), got.tolist()):
        x, y = (signed(x, bits), signed(y, bits)) if kind[0] == "s" else (x, y)
        want = BINARY[name](x, y, bits)
        if want is not None:
            assert z == want & ((1 << bits) - 1), (x, y)


def test_wide_products():
    got = elementwise("mad.wide.s32 $o, $i0, $i1, $i2;", [U32, V32, U64], np.uint64)
    want = [(signed(x, 32) * signed(y, 32) + z) % 2**64 for x, y, z in zip(U32.tolist(), V32.tolist(), U64.tolist())]
    assert got.tolist() == want
    got = elementwise("mul.wide.u16 $o, $i0, $i1;", [U32.astype(np.uint16), V32.astype(np.uint16)], np.uint32)
    assert got.tolist() == [(x & 0xFFFF) * (y & 0xFFFF) for x, y in zip(U32.tolist(), V32.tolist())]


def test_shifts():
    for kind, bits in (("b32", 32), ("u32", 32), ("s32", 32)):
        for name in ("shl", "shr") if kind == "b32" else ("shr",):
            got = elementwise(f"{name}.{kind} $o, $i0, $i1;", [U32, V32], np.uint32)
            for x, n, z in zip(U32.tolist(), V32.tolist(), got.tolist()):
                value = signed(x, 32) if kind == "s32" else x
                want = value << n if name == "shl" and n < 64 else value >> min(n, 64) if name == "shr" else 0
                assert z == want % 2**bits, (name, kind, x, n)
    got = elementwise("shf.l.wrap.b32 $o, $i0, $i1, $i2;", [U32, V32, W32], np.uint32)
    want = [((y << 32 | x) << (n & 31)) >> 32 & 0xFFFFFFFF for x, y, n in zip(U32.tolist(), V32.tolist(), W32.tolist())]
    assert got.tolist() == want


def test_bit_operations():
    a = U32.tolist()
    np.testing.assert_array_equal(elementwise("popc.b32 $o, $i0;", [U32], np.uint32), [x.bit_count() for x in a])
    np.testing.assert_array_equal(elementwise("clz.b32 $o, $i0;", [U32], np.uint32), [32 - x.bit_length() for x in a])
    brev = elementwise("brev.b32 $o, $i0;", [U32], np.uint32)
    assert brev.tolist() == [int(f"{x:032b}"[::-1], 2) for x in a]
    find = elementwise("bfind.u32 $o, $i0;", [U32], np.uint32)
    assert find.tolist() == [(x.bit_length() - 1) % 2**32 for x in a]
    for table in (0x96, 0xE8, 0xCA, 0x01):
        got = elementwise(f"lop3.b32 $o, $i0, $i1, $i2, {table};", [U32, V32, W32], np.uint32)
        for x, y, z, g in zip(a[:50], V32.tolist(), W32.tolist(), got.tolist()):
            want = sum((table >> ((x >> i & 1) << 2 | (y >> i & 1) << 1 | (z >> i & 1)) & 1) << i for i in range(32))
            assert g == want


def test_prmt():
    got = elementwise("prmt.b32 $o, $i0, $i1, $i2;", [U32, V32, W32], np.uint32)
    for x, y, c, g in zip(U32.tolist(), V32.tolist(), W32.tolist(), got.tolist()):
        data = (y << 32 | x).to_bytes(8, "little")
        picks = [(c >> 4 * i) & 15 for i in range(4)]
        want = bytes((255 if data[p & 7] & 128 else 0) if p & 8 else data[p & 7] for p in picks)
        assert g == int.from_bytes(want, "little")


@pytest.mark.parametrize("pos, length", [(0, 8), (5, 7), (28, 8), (31, 1), (0, 32), (3, 0)])
def test_bit_fields(pos, length):
    got = elementwise(f"bfe.u32 $o, $i0, {pos}, {length};", [U32], np.uint32)
    assert got.tolist() == [x >> pos & ((1 << length) - 1) for x in U32.tolist()]
    got = elementwise(f"bfe.s32 $o, $i0, {pos}, {length};", [U32], np.uint32)
    for x, g in zip(U32.tolist(), got.tolist()):
        field = [x >> min(pos + i, 31) & 1 for i in range(length)]  # bits above the top repeat the sign
        want = sum(b << i for i, b in enumerate(field))
        want |= (-1 << length) if length and field[-1] else 0
        assert g == want % 2**32, (x, pos, length)
    mask = ((1 << length) - 1) << pos & 0xFFFFFFFF
    got = elementwise(f"bfi.b32 $o, $i0, $i1, {pos}, {length};", [U32, V32], np.uint32)
    assert got.tolist() == [y & ~mask | x << pos & mask for x, y in zip(U32.tolist(), V32.tolist())]


def test_dp4a():
    got = elementwise("dp4a.s32.s32 $o, $i0, $i1, $i2;", [U32, V32, W32], np.uint32)
    x, y = (v.view(np.int8).reshape(-1, 4).astype(np.int64) for v in (U32, V32))
    np.testing.assert_array_equal(got, ((x * y).sum(1) + W32).astype(np.uint32))


F = np.concatenate(
    [R.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32), R.normal(size=2000).astype(np.float32)]
)
G, H = R.permutation(F), R.permutation(F)


def equal(got, want):
    both = np.isnan(got.astype(np.float64)) & np.isnan(want.astype(np.float64))
    np.testing.assert_array_equal(got[~both], want[~both])


@pytest.mark.parametrize(
    "name, function", [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)]
)
def test_f32_pairs(name, function):
    with np.errstate(all="ignore"):
        equal(elementwise(f"{name}.rn.f32 $o, $i0, $i1;", [F, G], np.float32), function(F, G))


def test_f32_fma_is_rounded_once():
    """Among others 1 + 2^-23 + 2^-24 - 2^-54, just below the middle of two values: rounded twice it goes up."""
    e = 2.0**-15
    a = np.array([2.0**-12 * (1 + e), -(2.0**-12) * (1 + e), 3, 2.0**-100, 2.0**-75, 2.0**-80], np.float32)
    b = np.array([2.0**-12 * (1 - e), 2.0**-12 * (1 - e), 1 / 3, 2.0**-49, 2.0**-75, 2.0**-69], np.float32)
    c = np.array([1 + 2.0**-23, -1 - 2.0**-23, -1, 2.0**-149, 2.0**-149, -(2.0**-149)], np.float32)
    a, b, c = (np.concatenate([x, y[:3000]]) for x, y in ((a, F), (b, G), (c, H)))
    good = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    a, b, c = a[good], b[good], c[good]
    got = elementwise("fma.rn.f32 $o, $i0, $i1, $i2;", [a, b, c], np.float32)
    for x, y, z, g in zip(a.tolist(), b.tolist(), c.tolist(), got.tolist()):
        assert g == nearest(Fraction(x) * Fraction(y) + Fraction(z)), (x, y, z)


def nearest(value: Fraction) -> float:
    """The float32 nearest to an exact value, ties to even."""
    if value == 0:
        return 0.0
    exponent = max(abs(value).numerator.bit_length() - abs(value).denominator.bit_length(), -126)
    while abs(value) < Fraction(2) ** exponent and exponent > -126:
        exponent -= 1
    step = Fraction(2) ** (exponent - 23)
    rounded = round(value / step) * step  # Python's round is to even
    return float("inf") * (1 if value > 0 else -1) if abs(rounded) >= 2**128 else float(rounded)


@pytest.mark.parametrize("kind, dtype", [("f16", np.float16), ("bf16", BF16)])
@pytest.mark.parametrize("name, function", [("add", np.add), ("sub", np.subtract), ("mul", np.multiply)])
def test_16_bit_pairs(kind, dtype, name, function):
    a = np.arange(65536, dtype=np.uint16)
    b = R.permutation(a)
    got = elementwise(f"{name}.rn.{kind} $o, $i0, $i1;", [a, b], np.uint16).view(dtype)
    with np.errstate(all="ignore"):
        equal(got, function(a.view(dtype).astype(np.float64), b.view(dtype).astype(np.float64)).astype(dtype))
    pairs = [np.ascontiguousarray(v).view(np.uint32) for v in (a, b)]
    packed = elementwise(f"{name}.rn.{kind}x2 $o, $i0, $i1;", pairs, np.uint32).view(dtype)
    equal(packed, got)


@pytest.mark.parametrize("kind, dtype", [("f16", np.float16), ("bf16", BF16)])
def test_16_bit_fma(kind, dtype):
    values = [R.normal(size=4000).astype(dtype) for _ in range(3)]
    got = elementwise(f"fma.rn.{kind} $o, $i0, $i1, $i2;", [v.view(np.uint16) for v in values], np.uint16).view(dtype)
    a, b, c = (v.astype(np.float64) for v in values)
    step = np.abs(got.astype(np.float64)) * float(ml_dtypes.finfo(dtype).eps) / 2
    assert (np.abs(got.astype(np.float64) - (a * b + c)) <= step * 1.0001 + 1e-7).all()


@pytest.mark.parametrize("name", ["min", "max"])
def test_extremes_and_nan(name):
    a = np.array([1, np.nan, np.nan, -0.0, 0.0, 5], np.float32)
    b = np.array([2, 3, np.nan, 0.0, -0.0, -5], np.float32)
    quiet = elementwise(f"{name}.f32 $o, $i0, $i1;", [a, b], np.float32)
    loud = elementwise(f"{name}.NaN.f32 $o, $i0, $i1;", [a, b], np.float32)
    want = [1, 3, np.nan, -0.0, -0.0, -5] if name == "min" else [2, 3, np.nan, 0.0, 0.0, 5]
    np.testing.assert_array_equal(quiet, np.array(want, np.float32))
    np.testing.assert_array_equal(np.signbit(quiet[3:5]), np.signbit(want[3:5]))
    np.testing.assert_array_equal(np.isnan(loud), [False, True, True, False, False, False])


@pytest.mark.parametrize(
    "name, function",
    [("ex2.approx", np.exp2), ("lg2.approx", np.log2), ("tanh.approx", np.tanh), ("sqrt.rn", np.sqrt), ("sin.approx", np.sin),
     ("rcp.rn", lambda x: 1 / x), ("rsqrt.approx", lambda x: 1 / np.sqrt(x)), ("cos.approx", np.cos)],
)  # fmt: skip
def test_functions(name, function):
    values = np.abs(R.normal(size=500)).astype(np.float32) + np.float32(1e-3)
    got = elementwise(f"{name}.f32 $o, $i0;", [values], np.float32)
    np.testing.assert_array_equal(got, function(values.astype(np.float64)).astype(np.float32))


COMPARE = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}


@pytest.mark.parametrize("name", [*COMPARE, "ne", *(f"{n}u" for n in COMPARE), "neu", "num", "nan"])
def test_float_comparisons(name):
    a = np.array([1, 1, 2, np.nan, np.nan, -0.0], np.float32)
    b = np.array([1, 2, 1, 1, np.nan, 0.0], np.float32)
    code = f"{{ .reg .pred q; setp.{name}.f32 q, $i0, $i1; selp.b32 $o, 1, 0, q; }}"
    got = elementwise(code, [a, b], np.uint32).astype(bool)
    nan = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        want = ~nan if name == "num" else nan
    else:
        base = COMPARE.get(name.removesuffix("u") if name != "neu" else "ne")
        plain = base(a, b) if base else a != b
        want = (plain | nan) if name.endswith("u") else plain & ~nan
    np.testing.assert_array_equal(got, want)


def test_setp_combines_and_gives_the_complement():
    a, b = np.array([1, 2, 3], np.uint32), np.array([2, 2, 2], np.uint32)
    code = "{ .reg .pred p, q, s; setp.eq.u32 s, $i0, 1; setp.lt.or.s32 p|q, $i1, 2, !s; \
        selp.b32 $o, 1, 0, p; @q add.u32 $o, $o, 10; }"
    # p = b < 2 or not s; q = b >= 2 or not s
    np.testing.assert_array_equal(elementwise(code, [a, b], np.uint32), [10, 11, 11])


def test_flush_and_sign_operations():
    tiny = np.array([1e-40, -1e-40, 1e-30], np.float32)
    got = elementwise("add.ftz.f32 $o, $i0, $i1;", [tiny, np.zeros(3, np.float32)], np.float32)
    np.testing.assert_array_equal(got, np.array([0, 0, 1e-30], np.float32))
    got = elementwise("neg.f32 $o, $i0;", [np.array([1, -2, np.inf], np.float32)], np.float32)
    np.testing.assert_array_equal(got, [-1, 2, -np.inf])
    got = elementwise(
        "copysign.f32 $o, $i0, $i1;", [np.array([-1, 1], np.float32), np.array([3, -4], np.float32)], np.float32
    )
    np.testing.assert_array_equal(got, [-3, 4])
