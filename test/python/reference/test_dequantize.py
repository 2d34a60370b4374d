"""Block formats are bit-equal to gguf-py's dequantization of the same random bytes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from block_formats import BLOCKS, ROWS, assert_same_bits, random_blocks, values

from deepseek.reference import FORMATS, dequantize


def test_formats() -> None:
    assert {name: sizes for name, (*sizes, _) in FORMATS.items()} == {
        name: sizes for name, (*sizes, _) in BLOCKS.items()
    }


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("rows", ROWS)
def test_bit_equal_to_gguf(format: str, rows: int, blocks: int) -> None:
    raw = random_blocks(format, rows, blocks)
    for typed in (raw, raw.view(np.int8)):
        assert_same_bits(dequantize(typed, format), values(raw, format))


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
