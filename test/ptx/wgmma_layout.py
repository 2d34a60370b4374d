"""Where wgmma finds its operands in shared memory.

Sources: PTX ISA, 'Asynchronous Warpgroup Level Matrix Shared Memory Layout' with 'Matrix Descriptor Format' and
'Strides'; the canonical forms are those that CUTLASS states above `make_gmma_desc` (cute/atom/mma_traits_sm90_gmma.hpp):
in units of elements, T of them in 16 bytes and w = swizzle / 16 bytes,
    K-major   none: ((8,m),(T,2)):((T,SBO),(1,LBO))        swizzled: ((8,m),(T,2)):((wT,SBO),(1,T))
    MN-major  none: ((T,1,m),(8,k)):((1,T,SBO),(T,LBO))    swizzled: ((T,w,m),(8,k)):((1,T,LBO),(wT,SBO))
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .errors import Unsupported

SWIZZLES = {0: 0, 1: 128, 2: 64, 3: 32}  # bits 62 and 63 of a descriptor


def describe(descriptor: int) -> tuple[int, int, int, int]:
    """(start address, leading byte offset, stride byte offset, swizzle in bytes)."""
    if descriptor >> 49 & 7:
        raise Unsupported("matrix descriptors with a base offset")
    start, leading, stride = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    return start, leading, stride, SWIZZLES[descriptor >> 62 & 3]


@cache
def chunk_offsets(mn_major: bool, swizzle: int, leading: int, stride: int, rows: int, k: int, size: int) -> np.ndarray:
    """Byte offsets of 16-byte chunks before swizzling: [rows, k chunks] K-major, [k, row chunks] MN-major."""
    wide = max(swizzle, 16)
    if not mn_major:
        row, chunk = np.arange(rows)[:, None], np.arange(k * size // 16)[None, :]
        return row % 8 * wide + row // 8 * stride + chunk * (16 if swizzle else leading)
    column, chunk = np.arange(k)[:, None], np.arange(rows * size // 16)[None, :]
    if not swizzle:
        return column % 8 * 16 + column // 8 * leading + chunk * stride
    per = swizzle // 16
    return column % 8 * swizzle + column // 8 * stride + chunk % per * 16 + chunk // per * leading
