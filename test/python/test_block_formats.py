"""Compiled code reads GGUF weights: the same bits as gguf-py, and products with them against float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from block_formats import BLOCKS, ROWS, assert_same_bits, random_blocks, values

from deepseek import ACG

pytest.importorskip("deepseek.compiler")


@pytest.mark.parametrize("format", BLOCKS)
@pytest.mark.parametrize("columns", [256, 1280])
def test_blocks_are_bit_equal_to_gguf(format: str, columns: int) -> None:
    read = ACG.compile(lambda w: ACG.dequantize(w, format))
    for rows in ROWS:
        raw = random_blocks(format, rows, columns // BLOCKS[format][1])
        assert_same_bits(read(raw.view(np.int8)), values(raw, format))


@pytest.mark.parametrize("format", BLOCKS)
def test_rows_that_no_vector_fits(format: str) -> None:
    """Shifted and strided reads put the weights of one vector into several blocks."""
    block = BLOCKS[format][1]

    @ACG.compile
    def parts(w):
        all_values = ACG.dequantize(w, format)
        return all_values[:, 5:], all_values[:, ::3], all_values.T

    raw = random_blocks(format, 7, 3)
    expected = values(raw, format)
    assert expected.shape == (7, 3 * block)
    for actual, part in zip(parts(raw.view(np.int8)), (expected[:, 5:], expected[:, ::3], expected.T), strict=True):
        assert_same_bits(actual, np.ascontiguousarray(part))


@pytest.mark.parametrize("format", ["f16", "bf16"])
@pytest.mark.parametrize("columns", [256, 1280])
def test_half_floats_are_bit_equal_to_gguf(format: str, columns: int) -> None:
    read = ACG.compile(lambda w: w.astype(np.float32))
    dtype = np.dtype(ml_dtypes.bfloat16 if format == "bf16" else np.float16)
    for rows in ROWS:
        bits = np.random.default_rng(rows).integers(0, 1 << 16, (rows, columns), dtype=np.uint16)
        with np.errstate(invalid="ignore"):
            bits[~np.isfinite(bits.view(dtype))] = 1  # the smallest subnormal
        assert_same_bits(read(bits.view(dtype)), values(bits.view(np.uint8), format))


@pytest.mark.parametrize("format", BLOCKS)
def test_product_with_blocks(format: str) -> None:
    """x w^T of a weight of several blocks per row; scales in +-[2^-7, 1)."""
    product = ACG.compile(lambda x, w: ACG.matmul(x, ACG.dequantize(w, format), transpose_rhs=True))
    for rows in ROWS:
        raw = random_blocks(format, rows, 512 // BLOCKS[format][1], keep=0x9B, put=0x20)
        x = np.random.default_rng(rows).standard_normal((5, 512)).astype(np.float32)
        expected = x.astype(np.float64) @ values(raw, format).astype(np.float64).T
        # A float32 sum of 512 products, and every |w| is far below its column's norm.
        np.testing.assert_allclose(
            product(x, raw.view(np.int8)), expected, rtol=0, atol=2e-5 * np.max(np.abs(expected))
        )
