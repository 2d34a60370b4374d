"""Matrices that other libraries quantized, in the blocks that products read."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from deepseek.errors import CheckpointError
from deepseek.formats import Format, find_format, from_fp8

__all__ = ["QuantizedMatrix", "to_f32", "unpack_words"]

_SLAB = 1 << 22  # numbers that are repacked at once
_ROWS = 32  # a slab's rows are a multiple: words that hold several rows are then whole
_GROUPS_OF_32 = {"int4_g32": "q4_0", "int8_g32": "q8_0"}  # the same bytes; ggml's names have more kernels


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [out, in] of weights (code - zero) * scale.

    `codes(begin, end)` gives rows: int8 of which `bits` count, or 8-bit floats (`bits` is 0) as uint8. `scales` are as
    they are stored (`to_f32`), [ceil(out / height), ceil(in / width)]. `zeros(begin, end)` gives [rows, ceil(in / width)];
    None: all are 0. `order` [in] names the column of `scales` for each column; None: its number divided by `width`.
    """

    shape: tuple[int, int]
    bits: int
    codes: Callable[[int, int], np.ndarray]
    scales: np.ndarray
    height: int
    width: int
    zeros: Callable[[int, int], np.ndarray] | None = None
    order: np.ndarray | None = None

    def format(self) -> Format:
        """The smallest format that holds the values exactly; but see below for zeros.

        Blocks are what divides both a group and a row, and multiples of 32. Integers are `int4_gN`, `q5_0` or `int8_gN`,
        with their scales in f16 if that is exact. Integers of up to 5 bits, and differences of those of 4, are numbers
        of e4m3 too, which is the format for scales that are not. Integers of 4 bits with zeros are `q4_1`, which adds
        -zero * scale *rounded to f16*: an error of at most 2^-11 of that. All else is f32.
        """
        unit = math.gcd(self.width, self.shape[1])
        if unit % 32 or self.order is not None:
            return find_format("f32")
        floats = find_format(f"fp8_e4m3_g{unit}")
        if self.bits == 0:
            return floats
        name = f"int{4 if self.bits <= 4 else 8}_g{unit}"
        name = "q5_0" if self.bits == 5 else _GROUPS_OF_32.get(name, name)
        if self.zeros is not None:
            if self.bits > 4:
                return find_format("f32")
            name = "q4_1"
        form = find_format(name)
        if form.scale_bytes == 4 or is_f16(self.scales):
            return form
        return floats if self.bits <= 5 else find_format("f32")

    def encode(self, form: Format, error: Callable[[str], CheckpointError]) -> np.ndarray:
        """The matrix in the blocks of `format()`: uint8 [out, bytes per row]."""
        rows, columns = self.shape
        step = max(_SLAB // columns // _ROWS, 1) * _ROWS
        result = np.empty((rows, form.row_bytes(columns)), np.uint8)

        def fill(begin: int) -> None:
            end = min(begin + step, rows)
            result[begin:end] = self._rows(form, begin, end, error)

        with ThreadPoolExecutor() as pool:  # numpy lets other threads run
            list(pool.map(fill, range(0, rows, step)))
        return result

    def _rows(self, form: Format, begin: int, end: int, error: Callable[[str], CheckpointError]) -> np.ndarray:
        rows, columns = end - begin, self.shape[1]
        codes = self.codes(begin, end)
        scales = to_f32(self.scales[np.arange(begin, end) // self.height])
        zeros = None if self.zeros is None else self.zeros(begin, end)
        if form.name == "f32":
            group = np.arange(columns) // self.width if self.order is None else self.order
            numbers = from_fp8(codes, "fp8_e4m3") if self.bits == 0 else codes.astype(np.float32)
            numbers = numbers if zeros is None else numbers - zeros[:, group]
            return (numbers * scales[:, group]).view(np.uint8)
        group = np.arange(0, columns, form.elements) // self.width  # of each block
        scales = scales[:, group]
        if self.bits == 0:
            return form.join(codes.reshape(rows, -1, form.elements), scales)
        if zeros is None:
            return form.encode(codes, scales)
        zeros = zeros[:, group].astype(np.float32)
        if form.codes:
            return form.encode(codes - np.repeat(zeros, form.elements, 1), scales)
        with np.errstate(over="ignore"):
            least = ((-8 - zeros) * scales).astype("<f2")
        if not np.isfinite(least).all():
            raise error("its zero points times its scales are beyond what f16 holds")
        nibbles = (codes + np.int8(8)).view(np.uint8).reshape(rows, -1, 2, 16)
        numbers = np.stack([scales.astype("<f2"), least], axis=2).view(np.uint8)
        return np.concatenate([numbers, nibbles[:, :, 0] | nibbles[:, :, 1] << 4], axis=2).reshape(rows, -1)


def to_f32(numbers: np.ndarray) -> np.ndarray:
    """f32 of f16 and f32, and of bf16 as uint16."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32)


def is_f16(numbers: np.ndarray) -> bool:
    """Whether f16 holds all of `numbers` (as of `to_f32`) exactly."""
    if numbers.dtype == np.float16:
        return True
    exact = to_f32(numbers)
    with np.errstate(over="ignore"):
        return bool((exact.astype(np.float16) == exact).all())


def unpack_words(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` numbers of int32 words [rows, words], the low bits first: uint8 [rows, count]."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return raw[:, :count]
    if bits == 4:
        return np.stack([raw & 15, raw >> 4], axis=2).reshape(len(raw), -1)[:, :count]
    stream = np.unpackbits(raw, axis=1, bitorder="little")[:, : count * bits].reshape(len(raw), count, bits)
    return np.packbits(stream, axis=2, bitorder="little")[..., 0]
