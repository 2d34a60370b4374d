"""What cuTensorMapEncodeTiled describes (CUDA driver API, 'Tensor Map Object Management')."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import PtxError


@dataclass
class TensorMap:
    """A tiled tensor map. Sizes, strides and box have the fastest dimension first; strides are bytes from dim 1 on.

    array: the base of the tensor. sizes and strides default to those of `array`, whose last axis is the fastest.
    box: elements of one copy. swizzle: 0, 32, 64 or 128 bytes. Outside of the tensor lie zeros.
    """

    array: np.ndarray
    box: tuple[int, ...]
    swizzle: int = 0
    sizes: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    element_strides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.sizes is None:
            self.sizes = tuple(reversed(self.array.shape))
        if self.strides is None:
            item = self.array.itemsize
            self.strides = tuple(int(item * np.prod(self.sizes[:i])) for i in range(1, len(self.sizes)))
        rank, item = len(self.sizes), self.array.itemsize
        self.element_strides = self.element_strides or (1,) * rank
        if not (1 <= rank <= 5 and len(self.box) == rank and len(self.strides) == rank - 1):
            raise PtxError(f"tensor map of rank {rank}: box {self.box}, strides {self.strides}")
        if any(s % 16 for s in self.strides):
            raise PtxError(f"strides of a tensor map must be multiples of 16 bytes, got {self.strides}")
        if any(not 1 <= b <= 256 for b in self.box) or self.box[0] * item % 16:
            raise PtxError(f"box {self.box} of {item}-byte elements: 1 to 256 each, the first a multiple of 16 bytes")
        if self.swizzle not in (0, 32, 64, 128):
            raise PtxError(f"swizzle must be 0, 32, 64 or 128, got {self.swizzle}")
        if self.swizzle and self.box[0] * item > self.swizzle:
            raise PtxError(f"box {self.box} is wider than its swizzle of {self.swizzle} bytes")

    def bind(self, memory, name: str) -> None:
        self.name = name
        memory.add(self.array, name)
        raw = self.array.reshape(-1).view(np.uint8)
        item = self.array.itemsize
        last = sum(s * (n - 1) for s, n in zip((item, *self.strides), self.sizes)) + item
        if min(self.sizes) > 0 and last > len(raw):
            raise PtxError(f"tensor map {name} reaches byte {last} of an array of {len(raw)} bytes")
        self.elements = raw[: len(raw) // item * item].view(f"u{item}")
        self.raw = raw

    @property
    def bytes(self) -> int:
        """Of one box in shared memory."""
        return int(np.prod(self.box)) * self.array.itemsize

    def places(self, coordinates: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Element index in the array for each element of a box, slowest dimension first, and which are inside."""
        item = self.array.itemsize
        index, inside = np.zeros(1, np.int64), np.ones(1, bool)
        steps = (item, *self.strides)
        for start, count, size, step, jump in zip(coordinates, self.box, self.sizes, steps, self.element_strides):
            at = start + np.arange(-(-count // jump)) * jump
            good = (at >= 0) & (at < size)
            index = ((at * step)[:, None] + index[None, :]).reshape(-1)
            inside = (good[:, None] & inside[None, :]).reshape(-1)
        return index // item, inside


def swizzled(address: np.ndarray, mode: int) -> np.ndarray:
    """Shared addresses under a swizzle: bits 4.. are XORed with bits 7.., 1, 2 or 3 of them for 32, 64 or 128 bytes.

    PTX ISA, 'Swizzling Modes' of 'Tensor', and 'Asynchronous Warpgroup Level Matrix Shared Memory Layout'.
    """
    mask = {0: 0, 32: 1, 64: 3, 128: 7}[mode]
    return address ^ ((address >> 7 & mask) << 4)
