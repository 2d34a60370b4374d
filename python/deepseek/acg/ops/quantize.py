"""Numbers as narrow codes with one scale for each block of a matrix."""

from __future__ import annotations

from typing import Any

from ..array import Array, as_array, describe, function
from ..dtypes import F8E4M3, F8E5M2, F32, I8, parse
from ..source import fail
from . import elementwise, reduce
from .layout import expand_dims, reshape
from .window import pad

_LARGEST = {F8E4M3: 448.0, F8E5M2: 57344.0, I8: 127.0}


@function
def quantize(x: Any, dtype: Any = "f8e4m3fn", block: tuple[int, int] = (1, 128)) -> tuple[Array, Array]:
    """Codes [m, n] and f32 scales [ceil(m / rows), ceil(n / columns)] of x [m, n], one scale per block of (rows, columns).

    The largest magnitude of a block becomes the largest number of `dtype` (f8e4m3fn, f8e5m2 or int8); codes are
    x / scale rounded to nearest even, never beyond that range. Blocks at the edges may be smaller. A block of zeros has
    the scale 1. DeepSeek-V3 (2024) uses blocks of (1, 128) for activations and (128, 128) for weights.
    """
    x, dtype = as_array(x), parse(dtype)
    if x.ndim != 2 or not x.type.is_float:
        fail(f"quantize needs a matrix of floats, got {describe(x)}")
    if dtype not in _LARGEST:
        fail(f"quantize to {dtype} is not supported", f"one of {', '.join(map(str, _LARGEST))}")
    if len(block) != 2 or min(block) < 1:
        fail(f"quantize: block must be two sizes of at least 1, got {block}")
    x = x.astype(F32)
    m, n = x.shape
    rows, columns = block
    blocks = (m + rows - 1) // rows, (n + columns - 1) // columns
    padded = pad(x, ((0, blocks[0] * rows - m), (0, blocks[1] * columns - n)))
    grouped = reshape(padded, (blocks[0], rows, blocks[1], columns))
    largest = _LARGEST[dtype]
    scales = reduce.max(elementwise.abs(grouped), (1, 3)) / largest
    scales = elementwise.where(scales == 0, 1.0, scales)
    codes = elementwise.clip(grouped / _over_blocks(scales), -largest, largest)
    codes = (elementwise.round(codes) if dtype is I8 else codes).astype(dtype)
    return reshape(codes, padded.shape)[:m, :n], scales


@function
def dequantize_blocks(codes: Any, scales: Any, block: tuple[int, int] = (1, 128)) -> Array:
    """The f32 numbers that `quantize` made codes [m, n] and scales of: code times scale."""
    codes, scales = as_array(codes), as_array(scales)
    if codes.ndim != 2 or scales.ndim != 2:
        fail(f"dequantize_blocks needs two matrices, got {describe(codes)} and {describe(scales)}")
    m, n = codes.shape
    rows, columns = block
    blocks = scales.shape
    padded = pad(codes.astype(F32), ((0, blocks[0] * rows - m), (0, blocks[1] * columns - n)))
    values = reshape(padded, (blocks[0], rows, blocks[1], columns)) * _over_blocks(scales)
    return reshape(values, padded.shape)[:m, :n]


def _over_blocks(scales: Array) -> Array:
    return expand_dims(scales, (1, 3))
