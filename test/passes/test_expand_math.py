"""--dsc-expand-math: code without library calls, and its largest errors, measured.

References: mpmath for f64, numpy and math in f64 for f32, ml_dtypes for bf16.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import ml_dtypes
import mpmath
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, on infinities and NaN

BF16 = ml_dtypes.bfloat16
FLOATS = ("f64", "f32", "f16", "bf16")
DTYPES = {"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": BF16}
Library = Callable[..., np.ndarray]  # lib(name, *arrays)

# Bounds in ulp, for f32 and f64: the table in ExpandMath.cpp.
BOUNDS = dict.fromkeys(("exp", "exp2"), (1, 1))
BOUNDS |= dict.fromkeys(
    ["log", "log2", "log10", "log1p", "sin", "cos", "asin", "acos", "atan", "cbrt", "powf"], (0.51, 1)
)
BOUNDS |= (
    dict.fromkeys(["expm1", "tan", "atan2"], (0.51, 1.5))
    | {"erf": (1.5, 1.5), "tanh": (1.5, 2)}
    | {"rsqrt": (1.5, 1.5), "sqrt": (0.5, 0.5)}
)
BOUNDS |= dict.fromkeys(["sinh", "cosh"], (0.51, 2))
BOUNDS |= dict.fromkeys(["asinh", "acosh", "atanh"], (0.51, 2.5)) | {"erfc": (0.51, 3)}
BINARY = ("powf", "atan2")
ROUNDINGS = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "roundeven": np.rint}
ROUNDINGS["round"] = lambda x: np.copysign(np.trunc(np.abs(x) + (np.abs(x) % 1 >= 0.5)), x)
ARITHMETIC = {"addf": np.add, "subf": np.subtract, "mulf": np.multiply, "divf": np.divide}
ARITHMETIC |= {"maximumf": np.maximum, "minimumf": np.minimum, "maxnumf": np.fmax, "minnumf": np.fmin, "remf": np.fmod}
PREDICATES = {"isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite}
DIVISIONS = ("divsi", "remsi", "divui", "remui", "floordivsi", "ceildivsi", "ceildivui")


def all_functions() -> list[tuple]:
    functions = []

    def add(name: str, op: str, inputs: tuple[str, ...], output: str, shape: tuple[int, ...] | None = (8,)) -> None:
        arguments = ", ".join(f"%{i}" for i in range(len(inputs)))
        functions.append((name, f"%r = {op.replace('ARGS', arguments)}", inputs, output, shape))

    for t in FLOATS:
        for name in [*BOUNDS, *ROUNDINGS, "absf"]:
            add(f"{name}_{t}", f"math.{name} ARGS : IN", (t, t) if name in BINARY else (t,), t)
        add(f"fma_{t}", "math.fma ARGS : IN", (t, t, t), t)
        add(f"vfma_{t}", "vector.fma ARGS : IN", (t, t, t), t)
        add(f"clampf_{t}", "math.clampf %0 to [%1, %2] : IN", (t, t, t), t)
        add(f"copysign_{t}", "math.copysign ARGS : IN", (t, t), t)
        add(f"negf_{t}", "arith.negf ARGS : IN", (t,), t)
        add(f"fpowi_{t}", "math.fpowi ARGS : IN, vector<8xi32>", (t, "i32"), t)
        functions.append((f"sincos_{t}", "%r, %c = math.sincos %0 : IN", (t,), t))
        for kind in ("add", "maximumf", "minnumf"):
            text = f"%sum = vector.reduction <{kind}>, %0 : IN into {t}\n%r = vector.broadcast %sum : {t} to OUT"
            functions.append((f"reduce_{kind}_{t}", text, (t,), t))
        for name in ARITHMETIC:
            add(f"{name}_{t}", f"arith.{name} ARGS : IN", (t, t), t)
        for name in [*PREDICATES, "isnormal"]:
            add(f"{name}_{t}", f"math.{name} ARGS : IN", (t,), "i1")
        add(f"cmpf_{t}", "arith.cmpf ult, ARGS : IN", (t, t), "i1")
        for i in ("i8", "i16", "i32", "i64"):
            for sign in "su":
                add(f"{t}_to_{sign}{i}", f"arith.fpto{sign}i ARGS : IN to OUT", (t,), i)
                add(f"{sign}{i}_to_{t}", f"arith.{sign}itofp ARGS : IN to OUT", (i,), t)
        for narrow in FLOATS:
            if np.dtype(DTYPES[narrow]).itemsize < np.dtype(DTYPES[t]).itemsize:
                add(f"{t}_to_{narrow}", "arith.truncf ARGS : IN to OUT", (t,), narrow)
                add(f"{narrow}_to_{t}", "arith.extf ARGS : IN to OUT", (narrow,), t)
    for i in ("i8", "i32", "i64"):
        for name in DIVISIONS:
            add(f"{name}_{i}", f"arith.{name} ARGS : IN", (i, i), i)
        for name in ("ctlz", "cttz", "ctpop", "absi"):
            add(f"{name}_{i}", f"math.{name} ARGS : IN", (i,), i)
        add(f"ipowi_{i}", "math.ipowi ARGS : IN", (i, i), i)
    for label, shape in {"scalar": None, "0d": (), "3": (3,), "2x4": (2, 4)}.items():
        for name in ("exp", "sin", "tanh", "floor"):
            add(f"{name}_f32_{label}", f"math.{name} ARGS : IN", ("f32",), "f32", shape)
        add(f"remf_f64_{label}", "arith.remf ARGS : IN", ("f64", "f64"), "f64", shape)
        add(f"addf_bf16_{label}", "arith.addf ARGS : IN", ("bf16", "bf16"), "bf16", shape)
        add(f"divsi_i32_{label}", "arith.divsi ARGS : IN", ("i32", "i32"), "i32", shape)
    return functions


FUNCTIONS = tuple(all_functions())


@pytest.fixture
def lib(native: Callable[..., Library], host_target: str) -> Library:
    return native(FUNCTIONS, "--dsc-expand-math", host_target)


def test_no_library_calls(native: Callable[..., Library], any_target: str) -> None:
    assert native(FUNCTIONS, "--dsc-expand-math", any_target).undefined == set()


# ----------------------------------------------------------------------------------------------------------------------
# Errors
# ----------------------------------------------------------------------------------------------------------------------

MPMATH: dict[str, Callable] = {name: getattr(mpmath, name) for name in BOUNDS if hasattr(mpmath, name)}
MPMATH |= {"exp2": lambda x: mpmath.mpf(2) ** x, "log2": lambda x: mpmath.log(x) / mpmath.log(2)}
MPMATH |= {"cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)), "rsqrt": lambda x: 1 / mpmath.sqrt(x)}
MPMATH |= {"powf": lambda x, y: x**y}
NUMPY = {name: getattr(np, name, None) or getattr(np, "arc" + name[1:], None) for name in BOUNDS}
NUMPY |= {"rsqrt": lambda x: 1 / np.sqrt(x), "powf": np.power, "atan2": np.arctan2}
NUMPY |= {name: np.vectorize(getattr(math, name), otypes=[np.float64]) for name in ("erf", "erfc")}


def ulps(got: np.ndarray, want: list[mpmath.mpf] | np.ndarray) -> np.ndarray:
    """|got - want| in units of got's last place at want; want is wider than got and finite in got's format."""
    info = np.finfo(got.dtype)
    _, exponents = np.frexp(np.abs(np.array([float(w) for w in want])))
    places = np.maximum(exponents - 1, int(math.log2(info.smallest_normal))) - info.nmant
    if got.dtype == np.float64:
        return np.array(
            [float(abs(mpmath.mpf(float(g)) - w) * mpmath.mpf(2) ** -int(p)) for g, w, p in zip(got, want, places)]
        )
    return np.ldexp(np.abs(got.astype(np.float64) - want), -places)


def samples(name: str, dtype: type, count: int) -> list[np.ndarray]:
    """Operands over the function's domain: small, large, near 1 and 0, near its limits."""
    rng = np.random.default_rng(len(name))
    top = math.log(float(np.finfo(dtype).max))
    sign = rng.choice([-1.0, 1.0], count)
    x = np.concatenate(
        [
            rng.uniform(-1, 1, count),
            rng.uniform(-8, 8, count),
            rng.uniform(-top, top, count),
            sign * np.exp2(rng.uniform(-30, 30, count)),
            1 + sign * np.exp2(rng.uniform(-20, 0, count)),
            rng.integers(1, 2**40, count) * (math.pi / 2),
            sign * np.exp(rng.uniform(-top, top, count)),
        ]
    ).astype(dtype)
    if name in ("powf", "atan2"):
        y = rng.permutation(x)
        if name == "powf":
            x = np.abs(x) + np.finfo(dtype).tiny
            y = (rng.uniform(-1, 1, x.size) * top / np.maximum(np.abs(np.log(x.astype(np.float64))), 1e-6)).astype(
                dtype
            )
        return [x, y]
    domains = {
        "asin": (-1, 1),
        "acos": (-1, 1),
        "atanh": (-0.999, 0.999),
        "acosh": (1, np.inf),
        "log1p": (-0.999, np.inf),
    }
    domains |= {name: (np.finfo(dtype).tiny, np.inf) for name in ("log", "log2", "log10", "sqrt", "rsqrt")}
    domains |= dict.fromkeys(("exp", "expm1", "sinh", "cosh"), (-top, top)) | {"exp2": (-top, 1.44 * top)}
    domains |= {"erfc": (-6, math.sqrt(top))}
    low, high = domains.get(name, (-np.inf, np.inf))
    return [x[(x >= low) & (x <= high)]]


@functools.cache
def exact_f64(name: str) -> tuple[list[np.ndarray], list[mpmath.mpf]]:
    operands = samples(name, np.float64, 40)
    with mpmath.workprec(140):
        return operands, [MPMATH[name](*(mpmath.mpf(float(v)) for v in values)) for values in zip(*operands)]


@pytest.mark.parametrize("name", BOUNDS)
def test_ulp(lib: Library, name: str) -> None:
    operands = samples(name, np.float32, 2000 if name.startswith("erf") else 20000)
    want = NUMPY[name](*(x.astype(np.float64) for x in operands))
    finite = np.abs(want) < float(np.finfo(np.float32).max)
    error = ulps(lib(name + "_f32", *operands)[finite], want[finite])
    assert error.max() <= BOUNDS[name][0], [x[finite][error.argmax()] for x in operands]

    operands, want = exact_f64(name)
    with mpmath.workprec(140):
        error = ulps(lib(name + "_f64", *operands), want)
    assert error.max() <= BOUNDS[name][1], [x[error.argmax()] for x in operands]


def edges(dtype: type) -> np.ndarray:
    info = np.finfo(dtype) if dtype != BF16 else ml_dtypes.finfo(dtype)
    values = [0, 1, 2, 3, 0.5, 1.5, 2.5, 0.75, 1e-3, 7, 100, math.inf, math.nan, info.max, info.smallest_normal]
    values = np.array([float(v) for v in [*values, info.smallest_subnormal, 3 * float(info.smallest_subnormal)]])
    return np.concatenate([values, -values]).astype(dtype)


@pytest.mark.parametrize("dtype", ("f32", "f64"))
@pytest.mark.parametrize("name", BOUNDS)
def test_special_values(lib: Library, name: str, dtype: str) -> None:
    """Zeros with their signs, infinities, NaN, subnormals and the largest value, as libm."""
    x = edges(DTYPES[dtype])
    operands = [a.ravel() for a in np.meshgrid(x, x)] if name in BINARY else [x]
    got = lib(f"{name}_{dtype}", *operands)
    if name.startswith("erf"):
        want = NUMPY[name](*(a.astype(np.float64) for a in operands)).astype(x.dtype)
    else:
        want = NUMPY[name](*operands)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    usual = np.isfinite(want)
    np.testing.assert_array_equal(got[~usual], want[~usual])
    np.testing.assert_allclose(
        got[usual], want[usual], rtol=4 * np.finfo(x.dtype).eps, atol=np.finfo(x.dtype).smallest_subnormal
    )
    np.testing.assert_array_equal(np.signbit(got[~np.isnan(want)]), np.signbit(want[~np.isnan(want)]))
    nans = values(dtype, 20000)
    nans = nans[np.isnan(nans)]  # with any payload
    assert np.isnan(lib(f"{name}_{dtype}", *[nans] * len(operands))).all()


@pytest.mark.parametrize("dtype", ("f16", "bf16"))
@pytest.mark.parametrize("name", ("exp", "tanh", "sin", "log", "sqrt", "rsqrt", "erf"))
def test_narrow_functions(lib: Library, name: str, dtype: str) -> None:
    """All 65536 values: the nearest of the 16 bit values to what f32 gives."""
    x = np.arange(65536, dtype=np.uint16).view(DTYPES[dtype])
    want = lib(f"{name}_f32", x.astype(np.float32)).astype(DTYPES[dtype])
    same(lib(f"{name}_{dtype}", x), want)


# ----------------------------------------------------------------------------------------------------------------------
# What is exact or rounded once
# ----------------------------------------------------------------------------------------------------------------------


def values(dtype: str, count: int = 4000) -> np.ndarray:
    """Edges, ordinary values and any bits."""
    rng = np.random.default_rng(7)
    bits = rng.integers(0, 256, (count, np.dtype(DTYPES[dtype]).itemsize), dtype=np.uint8).view(DTYPES[dtype]).ravel()
    usual = (rng.standard_normal(count) * np.exp2(rng.integers(-12, 12, count))).astype(DTYPES[dtype])
    return np.concatenate([edges(DTYPES[dtype]), bits, usual])


def same(got: np.ndarray, want: np.ndarray, signs: bool = True) -> None:
    assert got.dtype == want.dtype
    got, want = (a.astype(np.float64) if a.dtype != np.bool_ else a for a in (got, want))
    np.testing.assert_array_equal(got, want)  # NaN equals NaN here
    if signs and got.dtype != np.bool_:
        np.testing.assert_array_equal(np.signbit(got[got == got]), np.signbit(want[want == want]))


def nearest(x: np.ndarray, dtype: type) -> np.ndarray:
    """x rounded once to nearest even: of a first guess and its neighbours, the closest, then the even one."""
    guess = x.astype(np.float32).astype(dtype).view(np.int16).astype(np.int32)
    best, distance = guess, np.full(x.shape, np.inf)
    for step in (0, -1, 1):
        bits = guess + step
        far = np.abs(bits.astype(np.int16).view(dtype).astype(np.longdouble) - x)
        better = (far < distance) | ((far == distance) & (bits % 2 == 0))
        best, distance = np.where(better, bits, best), np.where(better, far, distance)
    return best.astype(np.int16).view(dtype)


@pytest.mark.parametrize("narrow", ("f16", "bf16"))
def test_float_casts(lib: Library, narrow: str) -> None:
    every = np.arange(65536, dtype=np.uint16).view(DTYPES[narrow])
    for wide in ("f32", "f64"):
        same(lib(f"{narrow}_to_{wide}", every), every.astype(DTYPES[wide]))
    # Around every 16 bit value, around the middles between two of them, and anything.
    finite = np.sort(every[np.isfinite(every.astype(np.float32))].astype(np.float64))
    middles = (finite[1:] + finite[:-1]) / 2
    around = np.concatenate(
        [m * (1 + e) for m in (finite, middles) for e in (0, 2.0**-52, -(2.0**-52), 2.0**-23, -(2.0**-23))]
    )
    x32 = np.concatenate([around.astype(np.float32), values("f32", 100000)])
    x64 = np.concatenate([around, around.astype(np.float32) * (1 + 2.0**-40)])
    same(lib(f"f32_to_{narrow}", x32), x32.astype(DTYPES[narrow]))
    same(lib(f"f64_to_{narrow}", x64), x64.astype(np.float16) if narrow == "f16" else nearest(x64, BF16))
    special = edges(np.float64)
    same(lib(f"f64_to_{narrow}", special), special.astype(DTYPES[narrow]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_integer_casts(lib: Library, dtype: str) -> None:
    rng = np.random.default_rng(3)
    for bits in (8, 16, 32, 64):
        signed = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 4000, np.dtype(f"i{bits // 8}")) >> rng.integers(
            0, bits, 4000
        ).astype(f"i{bits // 8}")
        signed = np.concatenate([signed, np.array([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))], signed.dtype)])
        for sign, x in (("s", signed), ("u", signed.view(f"u{bits // 8}"))):
            exact = x.astype(np.longdouble)
            want = nearest(exact, BF16) if dtype == "bf16" else exact.astype(DTYPES[dtype])
            same(lib(f"{sign}i{bits}_to_{dtype}", signed), want)
            x = values(dtype)
            whole = np.trunc(x.astype(np.float64))
            low = -(2.0 ** (bits - 1)) if sign == "s" else 0
            fits = (whole >= low) & (whole < low + 2.0**bits)
            got = lib(f"{dtype}_to_{sign}i{bits}", x)
            np.testing.assert_array_equal(got.view(f"{'i' if sign == 's' else 'u'}{bits // 8}")[fits], whole[fits])
            if sign == "s" and bits >= 32:
                assert np.all(got[~fits] == -(2 ** (bits - 1)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_and_arithmetic(lib: Library, dtype: str) -> None:
    x = values(dtype)
    y = np.random.default_rng(5).permutation(x)
    wide = np.float64 if dtype == "f64" else np.float32
    for name, function in ROUNDINGS.items():
        same(lib(f"{name}_{dtype}", x), function(x.astype(wide)).astype(x.dtype))
    for name, function in ARITHMETIC.items():
        want = function(x.astype(wide), y.astype(wide)).astype(x.dtype)
        same(lib(f"{name}_{dtype}", x, y), want, signs=not name.startswith(("max", "min")))
    for name, function in PREDICATES.items():
        same(lib(f"{name}_{dtype}", x), function(x.astype(wide)))
    tiny = float((ml_dtypes.finfo(BF16) if dtype == "bf16" else np.finfo(x.dtype)).smallest_normal)
    size = np.abs(x.astype(np.float64))
    same(lib(f"isnormal_{dtype}", x), (size >= tiny) & (size < np.inf))
    same(lib(f"cmpf_{dtype}", x, y), ~(x.astype(wide) >= y.astype(wide)))
    same(lib(f"negf_{dtype}", x), -x)
    same(lib(f"absf_{dtype}", x), np.abs(x))
    same(lib(f"copysign_{dtype}", x, y), np.copysign(x.astype(wide), y.astype(wide)).astype(x.dtype))
    low, high = np.full_like(x, -1.5), np.full_like(x, 2)
    same(lib(f"clampf_{dtype}", x, low, high), np.clip(x, low, high).astype(x.dtype))
    zeros = np.array([0.0, -0.0, 0.0, -0.0], x.dtype), np.array([-0.0, 0.0, 0.0, -0.0], x.dtype)
    assert not np.signbit(lib(f"maximumf_{dtype}", *zeros)[:3]).any()
    assert np.signbit(lib(f"minimumf_{dtype}", *zeros)).tolist() == [True, True, False, True]


def test_integers_never_trap(lib: Library) -> None:
    """As numpy: 0 for a division by 0, the lowest integer by -1 wraps around."""
    for bits in (8, 32, 64):
        signed = np.dtype(f"i{bits // 8}").type
        x = np.array([0, 1, -1, 7, -7, 100, -100, np.iinfo(signed).min, np.iinfo(signed).max], signed)
        x, y = (a.ravel() for a in np.meshgrid(x, x))
        u, v = x.view(f"u{bits // 8}"), y.view(f"u{bits // 8}")
        floor, rest = x // y, x % y
        negative = (rest != 0) & ((x < 0) != (y < 0))
        want = {"divsi": floor + negative, "remsi": np.fmod(x, y), "divui": u // v, "remui": np.fmod(u, v)}
        want |= {"floordivsi": floor, "ceildivsi": floor + (rest != 0), "ceildivui": u // v + (np.fmod(u, v) != 0)}
        for name in DIVISIONS:
            np.testing.assert_array_equal(lib(f"{name}_i{bits}", x, y).view(want[name].dtype), want[name], name)
        base, power = (a.ravel() for a in np.meshgrid(np.arange(-3, 4, dtype=signed), np.arange(-3, 12, dtype=signed)))
        wanted = [
            int(a) ** int(n) if n >= 0 else {0: 0, 1: 1, -1: (-1) ** int(n)}.get(int(a), 0) for a, n in zip(base, power)
        ]
        np.testing.assert_array_equal(lib(f"ipowi_i{bits}", base, power), np.array(wanted).astype(signed))


def test_sums_and_pairs(lib: Library) -> None:
    x, y, z = (np.random.default_rng(9).standard_normal((3, 800)).astype(np.float32)) * np.float32(100)
    for dtype in FLOATS:
        a, b, c = (v.astype(DTYPES[dtype]) for v in (x, y, z))
        np.testing.assert_array_equal(lib(f"sincos_{dtype}", a), lib(f"sin_{dtype}", a))
        wide = [v.astype(np.float64) for v in (a, b, c)]
        want = wide[0] * wide[1] + wide[2]
        eps = float(ml_dtypes.finfo(a.dtype).eps)
        for name in ("fma", "vfma"):
            got = lib(f"{name}_{dtype}", a, b, c).astype(np.float64)
            assert np.all(np.abs(got - want) <= eps * (np.abs(wide[0] * wide[1]) + np.abs(want)))
        rows = wide[0].reshape(-1, 8)
        assert np.all(lib(f"reduce_maximumf_{dtype}", a).reshape(-1, 8) == rows.max(1, keepdims=True))
        assert np.all(lib(f"reduce_minnumf_{dtype}", a).reshape(-1, 8) == rows.min(1, keepdims=True))
        sums = lib(f"reduce_add_{dtype}", a).astype(np.float64).reshape(-1, 8)
        assert np.all(np.abs(sums - rows.sum(1, keepdims=True)) <= 4 * eps * np.abs(rows).sum(1, keepdims=True))


def test_integer_exponents(lib: Library) -> None:
    base, power = np.meshgrid(edges(np.float64), np.array([0, 1, -1, 2, -2, 3, -3, 2**31 - 1, -(2**31)], np.int32))
    want = np.power(base, power.astype(np.float64)).ravel()
    got = lib("fpowi_f64", base.ravel(), power.ravel())
    np.testing.assert_allclose(got, want, rtol=4 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("shape", ("scalar", "0d", "3", "2x4"))
def test_shapes(lib: Library, shape: str) -> None:
    x = np.concatenate([np.linspace(-20, 20, 240), np.exp2(np.linspace(30, 120, 120))]).astype(np.float32)
    for name in ("exp", "sin", "tanh", "floor"):
        same(lib(f"{name}_f32_{shape}", x), lib(f"{name}_f32", x))
    a, b = x.astype(np.float64), x[::-1].astype(np.float64)
    same(lib(f"remf_f64_{shape}", a, b), np.fmod(a, b))
    same(lib(f"addf_bf16_{shape}", x.astype(BF16), x[::-1].astype(BF16)), x.astype(BF16) + x[::-1].astype(BF16))
    i = np.arange(-180, 180, dtype=np.int32)
    np.testing.assert_array_equal(lib(f"divsi_i32_{shape}", i, i[::-1] // 50), lib("divsi_i32", i, i[::-1] // 50))
