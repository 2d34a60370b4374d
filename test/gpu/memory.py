"""Memory of an emulated launch: global buffers, the blocks' shared memory, local memory, barriers of shared memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .parser import PtxError

SHARED_WINDOW = 1 << 60  # generic addresses of shared memory begin here
LOCAL_WINDOW = 1 << 61
PARAM_WINDOW = 1 << 62


@dataclass
class TensorMap:
    """A tensor in global memory as cuTensorMapEncodeTiled takes it: sizes in elements and strides in bytes, fastest
    dimension first (strides without that of the fastest), the box of one copy, and the swizzle in bytes."""

    array: np.ndarray
    sizes: list[int]
    strides: list[int]
    box: list[int]
    swizzle: int


@dataclass
class Barrier:
    """An mbarrier of every block of the batch."""

    count: np.ndarray
    pending: np.ndarray
    phase: np.ndarray
    bytes: np.ndarray
    copies: list = field(default_factory=list)  # (block, action): bulk copies that have not arrived yet


class Memory:
    """Global memory: what lies in `arrays`, at their own addresses."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self.regions: dict[int, np.ndarray] = {}
        for array in arrays:
            self.add(array)

    def add(self, array: np.ndarray) -> int:
        """Makes an array known; returns its address."""
        raw = array.reshape(-1).view(np.uint8)
        if raw.size:
            self.regions[raw.ctypes.data] = raw
        return raw.ctypes.data

    def behind(self, address: int) -> np.ndarray:
        """The bytes from an address to the end of the array that it is in."""
        for base, data in self.regions.items():
            if base <= address < base + data.size:
                return data[address - base :]
        raise PtxError(f"no memory at {address:#x}")

    def load(self, address: np.ndarray, size: int, align: int) -> np.ndarray:
        """[n, size] bytes."""
        result = np.empty((address.size, size), np.uint8)
        lanes = np.arange(size)
        for data, chosen, offset in self._spans(address, size, align, "load"):
            result[chosen] = data[offset[:, None] + lanes]
        return result

    def store(self, address: np.ndarray, values: np.ndarray, align: int) -> None:
        lanes = np.arange(values.shape[1])
        for data, chosen, offset in self._spans(address, values.shape[1], align, "store"):
            data[offset[:, None] + lanes] = values[chosen]

    def _spans(self, address: np.ndarray, size: int, align: int, what: str):
        if (address % np.uint64(align)).any():
            raise PtxError(f"{what} of {align} bytes at an address that is no multiple of them")
        bases = np.sort(np.fromiter(self.regions, np.uint64, len(self.regions)))
        index = np.searchsorted(bases, address, side="right").astype(np.int64) - 1
        for number in np.unique(index):
            chosen = np.nonzero(index == number)[0]
            data = self.regions[int(bases[number])] if number >= 0 else np.empty(0, np.uint8)
            offset = (address[chosen] - bases[max(number, 0)]).astype(np.int64)
            outside = offset + size > data.size
            if number < 0 or outside.any():
                raise PtxError(
                    f"{what} of {size} bytes at {int(address[chosen][outside][0]):#x}: "
                    f"byte {int(offset[outside][0])} of the {data.size} bytes at {int(bases[max(number, 0)]):#x}"
                )
            yield data, chosen, offset


def swizzle(offset: np.ndarray, width: int) -> np.ndarray:
    """Where TMA writes a byte: bits 4.. of the address are exchanged with those from bit 7 on (PTX ISA, "Tensor
    swizzling modes": 8 rows of 128 bytes under the mode of 128 bytes, 4 of 64, 2 of 32)."""
    if not width:
        return offset
    mask = width // 16 - 1
    return offset ^ (((offset >> 7) & mask) << 4)


def read_box(map_: TensorMap, coordinates: list[int]) -> np.ndarray:
    """The box as bytes in order, zeros outside of the tensor."""
    element = map_.array.dtype.itemsize
    raw = map_.array.reshape(-1).view(np.uint8)
    strides = [element, *map_.strides]
    shape = list(reversed(map_.box))
    offset = np.zeros(shape, np.int64)
    inside = np.ones(shape, bool)
    for dim, (begin, extent, size, stride) in enumerate(zip(coordinates, map_.box, map_.sizes, strides)):
        position = begin + np.arange(extent)
        view = [1] * len(shape)
        view[len(shape) - 1 - dim] = extent
        offset = offset + (position * stride).reshape(view)
        inside = inside & ((position >= 0) & (position < size)).reshape(view)
    offset = np.where(inside, offset, 0).reshape(-1)
    data = raw[offset[:, None] + np.arange(element)]
    data[~inside.reshape(-1)] = 0
    return data.reshape(-1)
