"""Values of GGUF block formats, from the layouts in ggml-common.h of the GGML project.

A row is a sequence of blocks; `d` (scale) and `m` (minimum) are little-endian f16. Values are
computed in float32 in the order that ggml's dequantize_row_* writes, so they are bit-equal to it.

    q4_0  18 bytes, 32 values   d, 16 nibble pairs           (q - 8) * d
    q4_1  20 bytes, 32 values   d, m, 16 nibble pairs        q * d + m
    q5_0  22 bytes, 32 values   d, u32 high bits, 16 pairs   (q - 16) * d
    q5_1  24 bytes, 32 values   d, m, u32 high bits, pairs   q * d + m
    q8_0  34 bytes, 32 values   d, 32 signed bytes           q * d
    q4_k 144 bytes, 256 values  d, m, 8 6-bit scales and minimums, 128 nibble pairs   d * scale * q - m * minimum
    q5_k 176 bytes, 256 values  d, m, 8 6-bit scales and minimums, 256 high bits, 128 pairs   as q4_k
    q6_k 210 bytes, 256 values  128 low nibbles, 64 high 2-bit groups, 16 signed scales, d
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def dequantize(raw: np.ndarray, format: str) -> np.ndarray:
    """Raw bytes [..., bytes_per_row] (int8 or uint8) to float32 [..., values_per_row].

    Raises ValueError for an unknown format and for rows that are not whole blocks.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown block format {format!r}, known are {', '.join(FORMATS)}")
    block_bytes, block_values, decode = FORMATS[format]
    raw = np.ascontiguousarray(raw).view(np.uint8)
    *leading, row_bytes = raw.shape
    if row_bytes % block_bytes:
        raise ValueError(f"a row of {row_bytes} bytes is not a whole number of {block_bytes}-byte {format} blocks")
    blocks_per_row = row_bytes // block_bytes
    values = decode(raw.reshape(-1, block_bytes)) if raw.size else np.empty((0, block_values), np.float32)
    return values.astype(np.float32, copy=False).reshape(*leading, blocks_per_row * block_values)


def _half(blocks: np.ndarray, offset: int) -> np.ndarray:
    """The f16 at a byte offset of each block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """[blocks, 16] bytes to [blocks, 32]: low nibbles are values 0..15, high nibbles 16..31."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(blocks: np.ndarray, offset: int) -> np.ndarray:
    """Bit i of the u32 at a byte offset is bit 4 of value i."""
    word = np.ascontiguousarray(blocks[:, offset : offset + 4]).view("<u4")
    return ((word >> np.arange(32, dtype=np.uint32)) & 1).astype(np.uint8) << 4


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return (_nibbles(blocks[:, 2:]).astype(np.float32) - 8) * _half(blocks, 0)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _nibbles(blocks[:, 4:]).astype(np.float32) * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    values = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return (values.astype(np.float32) - 16) * _half(blocks, 0)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    values = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return values.astype(np.float32) * _half(blocks, 0) + _half(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _half(blocks, 0)


def _scales_and_minimums(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[blocks, 12] bytes to two times [blocks, 8, 1] 6-bit numbers, as float32. The low 6 bits of bytes 0..3
    (scales) and 4..7 (minimums) are the first four; the others have the halves of bytes 8..11 as low bits, and
    the 2 high bits of bytes 0..3 and 4..7."""
    scales, minimums, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    both = (
        np.concatenate([scales & 63, (rest & 15) | (scales >> 6) << 4], axis=1),
        np.concatenate([minimums & 63, (rest >> 4) | (minimums >> 6) << 4], axis=1),
    )
    return tuple(x.astype(np.float32)[:, :, None] for x in both)


def _q4_or_q5_k(blocks: np.ndarray, quants: np.ndarray) -> np.ndarray:
    """Scales and minimums, the 16 bytes at the front of a block, applied to quants [blocks, 8, 32]."""
    scales, minimums = _scales_and_minimums(blocks[:, 4:16])
    d, m = _half(blocks, 0)[:, :, None], _half(blocks, 2)[:, :, None]
    return (d * scales * quants.astype(np.float32) - m * minimums).reshape(-1, 256)


def _nibble_runs(packed: np.ndarray) -> np.ndarray:
    """[blocks, 128] bytes to [blocks, 8, 32]: the low nibbles of each 32 bytes, then their high nibbles."""
    packed = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([packed & 0x0F, packed >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    return _q4_or_q5_k(blocks, _nibble_runs(blocks[:, 16:]))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    """Bit r of high byte i is bit 4 of value 32 r + i."""
    high = blocks[:, 16:48].reshape(-1, 1, 32) >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1
    return _q4_or_q5_k(blocks, _nibble_runs(blocks[:, 48:]) | high << 4)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """Two halves of 128 values; in each, value 32 g + i has its low nibble in byte (32 (g % 2) + i),
    low half for g < 2, and its two high bits in bits 2 g of high byte i. Scales cover 16 values."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([low & 0x0F, low >> 4], axis=2)
    group_shift = np.arange(0, 8, 2, dtype=np.uint8).reshape(1, 1, 4, 1)
    quants = (low | ((high >> group_shift) & 3) << 4).astype(np.float32) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (scales[:, :, None] * quants.reshape(-1, 16, 16)).reshape(-1, 256)


# name: bytes of a block, values of a block, decoder of [blocks, bytes] uint8
FORMATS: dict[str, tuple[int, int, Callable[[np.ndarray], np.ndarray]]] = {
    "q4_0": (18, 32, _q4_0),
    "q4_1": (20, 32, _q4_1),
    "q5_0": (22, 32, _q5_0),
    "q5_1": (24, 32, _q5_1),
    "q8_0": (34, 32, _q8_0),
    "q4_k": (144, 256, _q4_k),
    "q5_k": (176, 256, _q5_k),
    "q6_k": (210, 256, _q6_k),
}
