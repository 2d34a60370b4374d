"""Aligned memory of arrays that compiled code reads and writes."""

from __future__ import annotations

import itertools
import math
import mmap
import sys
import threading
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["ResultPool", "address_of", "aligned_empty", "aligned_parts", "aligned_zeros", "mapped_files"]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
_LEAST_KEPT = 64 << 10  # bytes: below, the C library keeps freed memory itself
_MOST_KEPT = 4  # blocks of one pool
_FREE = 2  # references to a block that only the pool holds: its list and the call that counts


def address_of(array: np.ndarray) -> int:
    """Address of the first element."""
    return array.__array_interface__["data"][0]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, int]:
    """An uninitialized 64-byte aligned array and its address."""
    return _view(np.empty(math.prod(shape) * dtype.itemsize + _ALIGNMENT, np.uint8), shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A 64-byte aligned array of zeros whose pages the operating system gives on first use."""
    return _view(np.zeros(math.prod(shape) * dtype.itemsize + _ALIGNMENT, np.uint8), shape, dtype)[0]


def aligned_parts(sizes: Sequence[int]) -> list[np.ndarray]:
    """Uninitialized 64-byte aligned byte arrays of the given sizes, in one allocation.

    numpy asks for huge pages where an allocation is large: memory that is read once per pass spends a quarter of its
    time in address translation with pages of 4 KiB.
    """
    padded = [size + -size % _ALIGNMENT for size in sizes]
    memory = aligned_empty((sum(padded),), np.dtype(np.uint8))[0]
    ends = itertools.accumulate(padded)
    return [memory[end - room : end - room + size] for end, room, size in zip(ends, padded, sizes, strict=True)]


def mapped_files(arrays: Iterable[np.ndarray]) -> dict[int, int]:
    """Address and size in bytes of every read-only file mapping that one of `arrays` is a view of."""
    found: dict[int, int] = {}
    for array in arrays:
        base: object = array
        while isinstance(base, np.ndarray | memoryview):
            base = base.base if isinstance(base, np.ndarray) else base.obj
        if isinstance(base, mmap.mmap):
            whole = np.frombuffer(base, np.uint8)
            if not whole.flags.writeable:
                found[address_of(whole)] = whole.nbytes
    return found


class ResultPool:
    """Memory of results that nobody holds any more, for the next ones of the same size.

    A large array from the operating system costs a page fault per page, which zeroes it: for a product of two
    matrices up to a third of its time. At most four blocks are kept, the last ones used.
    """

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, int]:
        """As `aligned_empty`."""
        size = math.prod(shape) * dtype.itemsize + _ALIGNMENT
        if size < _LEAST_KEPT:
            return aligned_empty(shape, dtype)
        with self._lock:
            # An array, every view of it and whoever else reads it refer to the block, not to each other.
            for index in range(len(self._blocks)):
                if len(self._blocks[index]) == size and sys.getrefcount(self._blocks[index]) == _FREE:
                    block = self._blocks.pop(index)
                    break
            else:
                block = np.empty(size, np.uint8)
            self._blocks = [*self._blocks[1 - _MOST_KEPT :], block]
            return _view(block, shape, dtype)


def _view(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, int]:
    start = address_of(memory)
    offset = -start % _ALIGNMENT
    return np.ndarray(shape, dtype, memory, offset), start + offset
