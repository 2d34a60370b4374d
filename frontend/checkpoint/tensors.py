"""How tensors lie in a file: block formats, one entry of a tensor table, and what the compiler needs to know of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deepseek.formats import PLAIN_BITS, Format, find_format

__all__ = ["BLOCK_FORMATS", "PLAIN_FORMATS", "RepackedTensor", "StoredTensor", "Tensor"]


# By GGUF's number: ggml.h (enum ggml_type).
BLOCK_FORMATS = {
    number: find_format(name)
    for number, name in {
        0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0",
        12: "q4_k", 13: "q5_k", 14: "q6_k", 30: "bf16",
    }.items()
}  # fmt: skip
PLAIN_FORMATS = tuple(PLAIN_BITS)


@dataclass(frozen=True)
class Tensor:
    """One entry of a checkpoint's tensor table.

    `shape` is row-major, in elements. `data` is a read-only uint8 view of the mapped file:
    [*shape[:-1], bytes per row]. It begins at byte `offset` of the checkpoint's file number `file_index`; None: it stands
    in no file.
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    data: np.ndarray
    file_index: int | None = 0
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Size of the stored blocks in bytes."""
        return self.data.nbytes

    @property
    def sources(self) -> tuple[np.ndarray, ...]:
        """What the file holds of it, uint8."""
        return (self.data,)

    @property
    def array(self) -> np.ndarray:
        """The data as a weight argument takes it: f32 numbers, f16 and bf16 as raw 16-bit integers, else bytes."""
        dtype = {"f32": "<f4", "f16": "<u2", "bf16": "<u2"}.get(self.format.name)
        return self.data if dtype is None else self.data.view(dtype)

    @property
    def stored(self) -> StoredTensor:
        """What a graph needs to know of this tensor."""
        return StoredTensor(self.format.name, self.shape)


class RepackedTensor(Tensor):
    """A tensor made from others in the file, `sources`. `make` gives its `data` when that is first asked for."""

    def __init__(
        self,
        name: str,
        format: Format,
        shape: tuple[int, ...],
        sources: tuple[np.ndarray, ...],
        make: Callable[[], np.ndarray],
    ) -> None:
        vars(self).update(name=name, format=format, shape=shape, file_index=None, _sources=sources, _make=make)

    @cached_property
    def data(self) -> np.ndarray:
        """uint8 [*shape[:-1], bytes per row], read-only."""
        made = self._make()
        made.flags.writeable = False
        return made

    @property
    def nbytes(self) -> int:
        """Size of the stored blocks in bytes."""
        return self.stored.nbytes

    @property
    def sources(self) -> tuple[np.ndarray, ...]:
        """What the file holds of it, uint8."""
        return self._sources


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
        return math.prod(self.shape[:-1]) * find_format(self.format).row_bytes(self.shape[-1])

    @property
    def argument(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the entry argument: plain numbers as they are, blocks as raw bytes."""
        if self.format in PLAIN_FORMATS:
            return self.shape, self.format
        return (*self.shape[:-1], find_format(self.format).row_bytes(self.shape[-1])), "i8"
