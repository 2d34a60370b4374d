"""How tensors lie in a file: block formats, one entry of a tensor table, and what the compiler needs to know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["BLOCK_FORMATS", "PLAIN_FORMATS", "BlockFormat", "StoredTensor", "Tensor"]


@dataclass(frozen=True)
class BlockFormat:
    """How a row is stored: `elements` consecutive numbers take `bytes` bytes."""

    name: str
    elements: int
    bytes: int

    def row_bytes(self, elements: int) -> int:
        """Bytes of a row of `elements` numbers, which must be whole blocks."""
        return elements // self.elements * self.bytes


# By GGUF's number: ggml.h (enum ggml_type) and ggml-common.h (block sizes).
BLOCK_FORMATS = {
    0: BlockFormat("f32", 1, 4),
    1: BlockFormat("f16", 1, 2),
    2: BlockFormat("q4_0", 32, 18),
    3: BlockFormat("q4_1", 32, 20),
    6: BlockFormat("q5_0", 32, 22),
    7: BlockFormat("q5_1", 32, 24),
    8: BlockFormat("q8_0", 32, 34),
    12: BlockFormat("q4_k", 256, 144),
    13: BlockFormat("q5_k", 256, 176),
    14: BlockFormat("q6_k", 256, 210),
    30: BlockFormat("bf16", 1, 2),
}
PLAIN_FORMATS = ("f32", "f16", "bf16")
_BY_NAME = {form.name: form for form in BLOCK_FORMATS.values()}


@dataclass(frozen=True)
class Tensor:
    """One entry of a checkpoint's tensor table.

    `shape` is row-major, in elements. `data` is a read-only uint8 view of the mapped file:
    [*shape[:-1], bytes per row]. It begins at byte `offset` of the checkpoint's file number `file_index`.
    """

    name: str
    format: BlockFormat
    shape: tuple[int, ...]
    data: np.ndarray
    file_index: int = 0
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Size of the stored blocks in bytes."""
        return self.data.nbytes

    @property
    def array(self) -> np.ndarray:
        """The data as a weight argument takes it: f32 numbers, f16 and bf16 as raw 16-bit integers, else bytes."""
        dtype = {"f32": "<f4", "f16": "<u2", "bf16": "<u2"}.get(self.format.name)
        return self.data if dtype is None else self.data.view(dtype)

    @property
    def stored(self) -> StoredTensor:
        """What a graph needs to know of this tensor."""
        return StoredTensor(self.format.name, self.shape)


@dataclass(frozen=True)
class StoredTensor:
    """How one weight is stored: `format` as in `BLOCK_FORMATS`, `shape` in elements ([out, in])."""

    format: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the stored blocks in bytes."""
        return math.prod(self.shape[:-1]) * _BY_NAME[self.format].row_bytes(self.shape[-1])

    @property
    def argument(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the entry argument: plain numbers as they are, blocks as raw bytes."""
        if self.format in PLAIN_FORMATS:
            return self.shape, self.format
        return (*self.shape[:-1], _BY_NAME[self.format].row_bytes(self.shape[-1])), "i8"
