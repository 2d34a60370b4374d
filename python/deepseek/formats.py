"""How numbers lie in memory: plain types, ggml's blocks, and codes with one scale for each group of a row.

Names are those of the dialect (`dsc.dequantize`). `int8_g64` are 8-bit integers with an f16 scale for 64 neighbours of
a row; `int8_row` stands for one scale per row, whatever its length. 8-bit floats are e4m3 without infinities and e5m2
(OCP 8-bit floating point, revision 1.0).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

__all__ = ["ML_DTYPES", "PLAIN_BITS", "Format", "find_format", "from_fp8", "to_fp8"]

PLAIN_BITS = {"f32": 32, "f16": 16, "bf16": 16}
"""Bits of a number of each plain format."""

ML_DTYPES = {"bf16": "bfloat16", "f8E4M3FN": "float8_e4m3fn", "f8E5M2": "float8_e5m2"}
"""Element types that numpy lacks, by MLIR's name: what the package ml_dtypes calls them."""

# (elements, bytes) of a block, ggml-common.h of the GGML project.
_GGML = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34),
    "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210),
}  # fmt: skip
_SCALED = re.compile(r"(int4|int8|fp8_e4m3|fp8_e5m2)_(row|g([1-9][0-9]*))")
_LARGEST_GROUP_OF_HALF_SCALE = 128  # integers in larger groups, and all floats, have f32 scales
# significand bits, exponent bias, code of the largest number, code of NaN
_FP8 = {"fp8_e4m3": (3, 7, 0x7E, 0x7F), "fp8_e5m2": (2, 15, 0x7B, 0x7E)}


@dataclass(frozen=True)
class Format:
    """`elements` consecutive numbers of a row take `bytes` bytes.

    `codes` is "int4", "int5", "int8", "fp8_e4m3" or "fp8_e5m2" where a block is a scale of `scale_bytes` and its codes,
    else "". Scales of int4 and int5 may be negative: codes reach one step further down than up.
    """

    name: str
    elements: int
    bytes: int
    codes: str = ""
    scale_bytes: int = 0

    def row_bytes(self, elements: int) -> int:
        """Bytes of a row of `elements` numbers, which must be whole blocks."""
        return elements // self.elements * self.bytes

    @property
    def largest(self) -> float:
        """The greatest magnitude that a code of either sign stands for."""
        return {"int4": 7.0, "int5": 15.0, "int8": 127.0, "fp8_e4m3": 448.0, "fp8_e5m2": 57344.0}[self.codes]

    @property
    def lowest(self) -> float:
        """The least number that has a code."""
        return {"int4": -8.0, "int5": -16.0}.get(self.codes, -self.largest)

    def round_codes(self, values: np.ndarray) -> np.ndarray:
        """The nearest number that has a code, ties to even, for values in units of the scale; saturates."""
        if self.codes in _FP8:
            return from_fp8(to_fp8(values, self.codes), self.codes)
        return np.clip(np.rint(values), self.lowest, self.largest).astype(np.float32)

    def round_scales(self, scales: np.ndarray) -> np.ndarray:
        """Scales as they are stored, as f32; 1 where nothing else can be (zero and what rounds to it or is infinite)."""
        kept = scales.astype(np.float16 if self.scale_bytes == 2 else np.float32).astype(np.float32)
        return np.where((kept != 0) & np.isfinite(kept), kept, np.float32(1))

    def encode(self, numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Bytes [rows, bytes per row] of code numbers [rows, columns] (`round_codes`) and scales [rows, blocks]."""
        rows, columns = numbers.shape
        blocks = columns // self.elements
        grouped = np.ascontiguousarray(numbers).reshape(rows, blocks, self.elements)
        if self.codes in _FP8:
            codes = to_fp8(grouped, self.codes)
        elif self.codes == "int8":
            codes = grouped.astype(np.int8).view(np.uint8)
        else:  # nibbles of each 32: the low halves are the first 16
            bits = (grouped - int(self.lowest)).astype(np.uint8)
            nibbles = (bits & 15).reshape(rows, blocks, -1, 2, 16)
            codes = (nibbles[..., 0, :] | nibbles[..., 1, :] << 4).reshape(rows, blocks, -1)
            if self.codes == "int5":  # bit 4 of weight i is bit i of the 32 in front of the nibbles
                codes = np.concatenate([np.packbits(bits >> 4, axis=2, bitorder="little"), codes], axis=2)
        return self.join(codes, scales)

    def join(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Bytes [rows, bytes per row] of codes as they are stored, uint8 [rows, blocks, bytes], and scales."""
        stored = np.ascontiguousarray(scales, "<f2" if self.scale_bytes == 2 else "<f4")
        return np.concatenate([stored[..., None].view(np.uint8), codes], axis=2).reshape(len(codes), -1)

    def split(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes [rows, columns] and f32 scales [rows, blocks] of bytes [rows, bytes per row]: integers as their value,
        floats of 8 bits as uint8."""
        rows = raw.shape[0]
        blocks = np.ascontiguousarray(raw).view(np.uint8).reshape(rows, -1, self.bytes)
        kind = "<f2" if self.scale_bytes == 2 else "<f4"
        scales = np.ascontiguousarray(blocks[..., : self.scale_bytes]).view(kind)[..., 0].astype(np.float32)
        codes = blocks[..., self.scale_bytes :]
        if self.codes == "int8":
            codes = codes.view(np.int8)
        elif self.codes not in _FP8:
            high = 0
            if self.codes == "int5":
                high = np.unpackbits(codes[..., :4], axis=2, bitorder="little").reshape(rows, -1, 1, 2, 16) << 4
                codes = codes[..., 4:]
            pairs = codes.reshape(rows, blocks.shape[1], -1, 1, 16)
            bits = np.concatenate([pairs & 15, pairs >> 4], axis=3) | high
            codes = bits.astype(np.int8) + np.int8(self.lowest)
        return codes.reshape(rows, -1), scales

    def decode(self, raw: np.ndarray) -> np.ndarray:
        """The numbers f32 [rows, columns] of bytes [rows, bytes per row]: code times scale, in f32."""
        codes, scales = self.split(raw)
        numbers = from_fp8(codes, self.codes) if self.codes in _FP8 else codes.astype(np.float32)
        grouped = numbers.reshape(len(raw), -1, self.elements)
        return (grouped * scales[..., None]).reshape(len(raw), -1)


def find_format(name: str, columns: int | None = None) -> Format | None:
    """The format of a name, `_row` with the `columns` of a row; None for a name that is no format."""
    if name in PLAIN_BITS:
        return Format(name, 1, PLAIN_BITS[name] // 8)
    if name in _GGML:
        codes = {"q8_0": "int8", "q5_0": "int5", "q4_0": "int4"}.get(name, "")
        return Format(name, *_GGML[name], codes, 2 if codes else 0)
    match = _SCALED.fullmatch(name)
    if match is None or (match[2] == "row" and columns is None):
        return None
    codes, group = match[1], columns if match[2] == "row" else int(match[3])
    if group < 32 or group % 32:
        return None
    scale = 2 if codes.startswith("int") and group <= _LARGEST_GROUP_OF_HALF_SCALE else 4
    return Format(f"{codes}_g{group}", group, scale + (group // 2 if codes == "int4" else group), codes, scale)


def to_fp8(values: np.ndarray, codes: str) -> np.ndarray:
    """f32 values to 8-bit floats (uint8), rounded to nearest even; beyond the range the largest, NaN stays NaN."""
    significand, bias, largest, nan = _FP8[codes]
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    magnitude = (bits & 0x7FFFFFFF).astype(np.int64)
    shift = 23 - significand
    rebias = (1 << (shift - 1)) - 1 - ((127 - bias) << 23)
    normal = (magnitude + ((magnitude >> shift) & 1) + rebias) >> shift
    step = np.float32(2.0 ** (24 - bias - significand))  # its last place is that of the subnormals
    small = (bits & 0x7FFFFFFF).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        subnormal = (small + step).view(np.uint32).astype(np.int64) - int(step.view(np.uint32))
    result = np.where(magnitude < (128 - bias) << 23, subnormal, np.minimum(normal, largest))
    result = np.where(magnitude > 0x7F800000, nan, result)
    return (result | (bits >> 24 & 0x80)).astype(np.uint8)


def from_fp8(codes: np.ndarray, kind: str) -> np.ndarray:
    """The f32 numbers that 8-bit floats (uint8) stand for."""
    return _fp8_table(kind)[codes]


def _fp8_table(kind: str) -> np.ndarray:
    significand, bias, largest, _ = _FP8[kind]
    code = np.arange(128)
    exponent, fraction = code >> significand, (code & ((1 << significand) - 1)) / (1 << significand)
    with np.errstate(over="ignore"):
        magnitude = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    magnitude[code > largest] = np.nan
    if kind == "fp8_e5m2":
        magnitude[0x7C] = np.inf
    return np.concatenate([magnitude, -magnitude]).astype(np.float32)
