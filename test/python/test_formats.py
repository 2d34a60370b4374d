"""Formats in numpy, in compiled code and in the oracle against ml_dtypes and against formulas written out here."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from deepseek import ACG
from deepseek.formats import find_format, from_fp8, to_fp8

FP8 = {"fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2}
LARGEST = {"fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}
rng = np.random.default_rng(0)


def some_f32(count: int) -> np.ndarray:
    """Random bit patterns, so all exponents, subnormals, infinities and NaN."""
    return rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits, where every NaN is the same."""
    both_nan = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[a.dtype.itemsize]
    return bool(((a.view(kind) == b.view(kind)) | both_nan).all())


@pytest.mark.parametrize("kind", FP8)
def test_every_fp8_code_decodes_as_in_ml_dtypes(kind):
    codes = np.arange(256, dtype=np.uint8)
    assert same_bits(from_fp8(codes, kind), codes.view(FP8[kind]).astype(np.float32))


@pytest.mark.parametrize("kind", FP8)
def test_fp8_codes_equal_ml_dtypes_after_clipping(kind):
    values = some_f32(1_000_000)
    with np.errstate(invalid="ignore"):
        clipped = np.clip(values, -LARGEST[kind], LARGEST[kind]).astype(FP8[kind])
    assert same_bits(to_fp8(values, kind).view(FP8[kind]), clipped)


def cast(source, target):
    """A compiled cast, of vectors and (by an odd stride) of scalars."""
    return ACG.compile(lambda x: x.astype(target)), ACG.compile(lambda x: x[::3].astype(target))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"])
def test_compiled_casts_equal_ml_dtypes(name):
    narrow = np.dtype(getattr(ml_dtypes, name, None) or np.float16)
    patterns = np.arange(1 << 8 * narrow.itemsize).astype(f"u{narrow.itemsize}").view(narrow)
    numbers = some_f32(1_000_000)
    with np.errstate(all="ignore"):
        wide, rounded = patterns.astype(np.float32), numbers.astype(narrow)
    for widen, step in zip(cast(name, "float32"), (1, 3)):
        assert same_bits(widen(patterns), wide[::step])
    for narrowed, step in zip(cast("float32", name), (1, 3)):
        assert same_bits(narrowed(numbers), rounded[::step])


def test_compiled_casts_between_narrow_types():
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    for name in ("bfloat16", "float8_e5m2"):
        target = np.dtype(getattr(ml_dtypes, name))
        expected = codes.astype(np.float32).astype(target)
        assert same_bits(ACG.compile(lambda x, name=name: x.astype(name))(codes), expected)


SCALED = ["int8_g64", "int8_g128", "int8_g576", "int4_g64", "int4_g128", "int4_g576", "fp8_e4m3_g64", "fp8_e5m2_g576"]


@pytest.mark.parametrize("name", [*SCALED, "q8_0", "q5_0", "q4_0"])
def test_blocks_decode_to_code_times_scale(name):
    """`encode` and the compiled and numpy decoders agree with the product written out, bit for bit."""
    form = find_format(name)
    columns = 1152
    values = rng.standard_normal((37, columns)).astype(np.float32)
    scales = form.round_scales(np.abs(values.reshape(37, -1, form.elements)).max(-1) / form.largest)
    numbers = form.round_codes(values / np.repeat(scales, form.elements, 1))
    raw = form.encode(numbers, scales)
    assert raw.shape == (37, form.row_bytes(columns))
    expected = numbers * np.repeat(scales, form.elements, 1)
    assert np.array_equal(form.decode(raw), expected)
    compiled = ACG.compile(lambda w: ACG.dequantize(w, form.name))
    assert np.array_equal(compiled(raw.view(np.int8)), expected)
    part = ACG.compile(lambda w: ACG.dequantize(w, form.name)[:, 5:])  # lanes across blocks
    assert np.array_equal(part(raw.view(np.int8)), expected[:, 5:])


@pytest.mark.parametrize("rows", [1, 2, 7, 127])
@pytest.mark.parametrize("name", SCALED)
def test_products_read_blocks(name, rows):
    """x w^T with w in blocks, packed in panels; few rows decode in registers, many in a stage."""
    from deepseek.acg import graph  # noqa: F401

    form = find_format(name)
    columns, outputs = 1152, 100
    weights = rng.standard_normal((outputs, columns)).astype(np.float32)
    scales = form.round_scales(np.abs(weights.reshape(outputs, -1, form.elements)).max(-1) / form.largest)
    raw = form.encode(form.round_codes(weights / np.repeat(scales, form.elements, 1)), scales)
    program = ACG.trace(
        lambda x: ACG.matmul(x, ACG.dequantize(ACG.weight("w", raw.shape, "i8"), form.name), transpose_rhs=True),
        ACG.spec("f32", ("m", columns)),
    ).compile()
    program.bind_weights({"w": raw})
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    expected = x.astype(np.float64) @ form.decode(raw).astype(np.float64).T
    assert np.abs(program(x) - expected).max() <= 2e-6 * np.abs(expected).max() * np.sqrt(columns)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("int8_g48", None),
        ("int8_g0", None),
        ("int8_row", None),
        ("int8_row", 100),
        ("fp9_g64", None),
        ("int8_g064", None),
    ],
)
def test_names_that_are_no_format(name, columns):
    assert find_format(name, columns) is None


def test_rows_are_resolved():
    assert find_format("int8_row", 576) == find_format("int8_g576")
    assert find_format("int8_row", 576).bytes == 580
    assert find_format("int4_g64").bytes == 34


def block_reference(x: np.ndarray, block: tuple[int, int], largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales, x in units of its scale, and the scale of each element, with loops over blocks."""
    rows, columns = block
    blocks = (-(-x.shape[0] // rows), -(-x.shape[1] // columns))
    scales = np.ones(blocks, np.float32)
    each = np.empty_like(x)
    for i in range(blocks[0]):
        for j in range(blocks[1]):
            at = np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            top = np.abs(x[at]).max()
            scales[i, j] = top / np.float32(largest) if top else 1
            each[at] = scales[i, j]
    return scales, np.clip(x / each, -largest, largest), each


@pytest.mark.parametrize("shape", [(300, 200), (1, 127), (128, 128), (7, 1000)])
@pytest.mark.parametrize("block", [(1, 128), (128, 128), (1, 1000)])
@pytest.mark.parametrize("kind", ["fp8_e4m3", "fp8_e5m2"])
def test_quantize_in_blocks_is_bit_exact(shape, block, kind):
    x = (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape) * 4)).astype(np.float32)
    x[0, :5] = 0
    dtype = np.dtype(FP8[kind]).name
    codes, scales = ACG.compile(lambda x: ACG.quantize(x, dtype, block))(x)
    wanted, in_units, each = block_reference(x, block, LARGEST[kind])
    assert np.array_equal(scales, wanted)
    assert same_bits(codes, in_units.astype(FP8[kind]))
    back = ACG.compile(lambda c, s: ACG.dequantize_blocks(c, s, block))(codes, scales)
    assert np.array_equal(back, codes.astype(np.float32) * each)


def test_quantize_to_int8_and_of_zeros():
    x = rng.standard_normal((5, 64)).astype(np.float32)
    x[2] = 0
    codes, scales = ACG.compile(lambda x: ACG.quantize(x, "int8", (1, 64)))(x)
    wanted, in_units, _ = block_reference(x, (1, 64), 127)
    assert codes.dtype == np.int8 and np.array_equal(codes, np.rint(in_units)) and np.array_equal(scales, wanted)
    assert scales[2, 0] == 1 and not codes[2].any()


def test_product_of_block_fp8_operands():
    """K = 4096: activations in blocks of (1, 128), weights of (128, 128), within 1e-4 of float64 on the same numbers."""
    a = rng.standard_normal((33, 4096)).astype(np.float32)
    w = rng.standard_normal((200, 4096)).astype(np.float32)

    def product(a, w):
        left = ACG.dequantize_blocks(*ACG.quantize(a, "f8e4m3fn", (1, 128)), (1, 128))
        right = ACG.dequantize_blocks(*ACG.quantize(w, "f8e4m3fn", (128, 128)), (128, 128))
        return ACG.matmul(left, right, transpose_rhs=True)

    def rounded(x, block):
        _, in_units, each = block_reference(x, block, 448)
        return in_units.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * each

    expected = rounded(a, (1, 128)) @ rounded(w, (128, 128)).T
    assert np.abs(ACG.compile(product)(a, w) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_quantize_refuses():
    from deepseek.errors import CompileError

    x = np.ones((2, 3), np.float32)
    for options, said in (({"dtype": "f16"}, "not supported"), ({"block": (0, 1)}, "block must be")):
        with pytest.raises(CompileError, match=said):
            ACG.compile(lambda x, options=options: ACG.quantize(x, **options))(x)
    with pytest.raises(CompileError, match="a matrix of floats"):
        ACG.compile(lambda x: ACG.quantize(x))(x[0])
