"""Block formats are bit-equal to gguf-py's dequantization of the same random bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from deepseek.reference import FORMATS, dequantize


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (7, 3), (64, 2)])
def test_bit_equal_to_gguf(format: str, rows: int, blocks: int) -> None:
    rng = np.random.default_rng(rows)
    block_bytes, block_values, _ = FORMATS[format]
    raw = rng.integers(0, 256, (rows, blocks * block_bytes), dtype=np.uint8)
    # Scales are f16 anywhere in a block: clear the exponents that would make them NaN or infinite.
    for offset in {"q6_k": [208], "q4_1": [0, 2], "q5_1": [0, 2]}.get(format, [0]):
        raw[:, offset + 1 :: block_bytes] &= 0xBB
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[format.upper()])
    for typed in (raw, raw.view(np.int8)):
        actual = dequantize(typed, format)
        assert actual.dtype == np.float32
        assert actual.shape == (rows, blocks * block_values)
        np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_quantized_by_gguf_comes_back(format: str) -> None:
    """One step of a 4-bit grid over [-amax, amax] is amax / 8: rounding stays below it."""
    x = np.random.default_rng(0).standard_normal((5, 96)).astype(np.float32)
    raw = gguf.quants.quantize(x, gguf.GGMLQuantizationType[format.upper()])
    assert np.max(np.abs(dequantize(raw, format) - x)) < np.max(np.abs(x)) / 7


def test_no_rows() -> None:
    assert dequantize(np.zeros((0, 20), np.uint8), "q4_1").shape == (0, 32)
    assert dequantize(np.zeros((3, 0), np.uint8), "q4_1").shape == (3, 0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="unknown block format 'q3_k'"):
        dequantize(np.zeros((1, 20), np.uint8), "q3_k")
    with pytest.raises(ValueError, match="a row of 21 bytes is not a whole number of 20-byte q4_1 blocks"):
        dequantize(np.zeros((1, 21), np.uint8), "q4_1")
