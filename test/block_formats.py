"""Random weights in every GGUF format, and their values by gguf-py."""

from __future__ import annotations

import gguf
import numpy as np

# name: bytes of a block, values of a block, offsets of its f16 scales (ggml-common.h).
BLOCKS = {
    "q4_0": (18, 32, (0,)),
    "q4_1": (20, 32, (0, 2)),
    "q5_0": (22, 32, (0,)),
    "q5_1": (24, 32, (0, 2)),
    "q8_0": (34, 32, (0,)),
    "q4_k": (144, 256, (0, 2)),
    "q5_k": (176, 256, (0, 2)),
    "q6_k": (210, 256, (208,)),
}
ROWS = (1, 7, 127)


def random_blocks(
    format: str,
    rows: int,
    blocks: int,
    *,
    rng: np.random.Generator | None = None,
    keep: int = 0xBB,
    put: int = 0,
) -> np.ndarray:
    """Bytes [rows, blocks * bytes of a block], uint8, any but for the high bytes of scales: there only the bits of
    `keep` are random and those of `put` are 1. The default clears two bits of the exponent: every scale is finite,
    some are subnormal."""
    block_bytes, _, scales = BLOCKS[format]
    rng = rng or np.random.default_rng(rows * 100 + blocks)
    raw = rng.integers(0, 256, (rows, blocks * block_bytes), dtype=np.uint8)
    for offset in scales:
        raw[:, offset + 1 :: block_bytes] = raw[:, offset + 1 :: block_bytes] & keep | put
    return raw


def values(raw: np.ndarray, format: str) -> np.ndarray:
    """What gguf-py reads out of the bytes, float32."""
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[format.upper()])


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Two float32 arrays are one, signs of zeros included."""
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
