"""The emulated address space: global buffers with gaps between them; windows for shared, local and parameter memory.

An access is checked for bounds and alignment before it happens. Addresses are int64 arrays, one per thread.
"""

from __future__ import annotations

import numpy as np

from .errors import PtxError
from .kinds import UNSIGNED

GLOBAL_BASE = 1 << 40
GAP = 1 << 34  # between buffers: an index wrong by less than that never hits a neighbour
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61
PARAM_WINDOW = (1 << 61) | (1 << 60)
CLUSTER_RANK = 24  # bit from which an address of shared::cluster has the number of its block + 1; 0: the block's own
SHARED_START = 1024  # the first KiB of shared memory belongs to the system on sm_90: address 0 is never valid
VIEWS = [(i, c) for i in (1, 2, 4, 8) for c in (1, 2, 4, 8) if i * c <= 32]


class Views:
    """Bytes as arrays of each access type: `views[item, count]` has shape [size // item] or [size // bytes, count]."""

    def __init__(self, raw: np.ndarray) -> None:
        self.raw, self.found = raw, {}

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        found = self.found.get(key)
        if found is None:
            item, count = key
            total = item * count
            found = self.raw[: len(self.raw) // total * total].view(UNSIGNED[item])
            if count > 1:
                found = found.reshape(-1, count)
            self.found[key] = found
        return found


class Buffer:
    def __init__(self, base: int, raw: np.ndarray, name: str) -> None:
        self.base, self.size, self.name = base, len(raw), name
        self.views = Views(raw)


class GlobalMemory:
    """Buffers by address."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.bases = np.zeros(0, np.int64)
        self.maps: dict[int, object] = {}  # tensor maps by address
        self.next = GLOBAL_BASE

    def add(self, array: np.ndarray, name: str) -> int:
        """Makes an array reachable; returns its address."""
        for buffer in self.buffers:
            if buffer.size and buffer.size == array.nbytes and buffer.source is array:
                return buffer.base
        if not array.flags.c_contiguous:
            raise PtxError(f"{name} must be C-contiguous")
        raw = array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
        buffer = Buffer(self.next, raw, name)
        self.keep(buffer, array)
        self.next += GAP * (1 + len(raw) // GAP)
        return buffer.base

    def place(self, array: np.ndarray, name: str) -> None:
        """Makes bytes reachable at the address that they have in this process."""
        self.keep(Buffer(array.ctypes.data, array, name), array)

    def keep(self, buffer: Buffer, source: np.ndarray) -> None:
        buffer.source = source
        self.buffers.append(buffer)
        self.buffers.sort(key=lambda b: b.base)
        self.bases = np.array([b.base for b in self.buffers], np.int64)

    def locate(self, low: int) -> Buffer | None:
        at = int(np.searchsorted(self.bases, low, "right")) - 1
        return self.buffers[at] if at >= 0 else None

    def find(self, address: np.ndarray, total: int, hint: Buffer | None) -> Buffer | None:
        """The buffer that holds all accesses, or None if they go to several or to none."""
        low, high = int(address.min()), int(address.max())
        if hint is None or low < hint.base or high + total > hint.base + hint.size:
            hint = self.locate(low)
            if hint is None or high + total > hint.base + hint.size:
                return None
        return hint

    def describe(self, address: int) -> str:
        buffer = self.locate(address)
        if buffer is None or address - buffer.base > GAP:
            return f"address {address:#x} belongs to no buffer"
        offset = address - buffer.base
        if offset > GAP // 2 and buffer is not self.buffers[-1]:
            follower = self.buffers[self.buffers.index(buffer) + 1]
            return f"byte {address - follower.base} of {follower.name}, which has {follower.size} bytes"
        return f"byte {offset} of {buffer.name}, which has {buffer.size} bytes"


class MemoryAccess:
    """Loads and stores of all spaces; mixed into the machine."""

    def check(self, sel, address: np.ndarray, total: int, low: int, high: int, what: str) -> None:
        """Raises unless low <= address, address + total <= high and address is a multiple of total."""
        if not len(address):
            return
        if int(address.min()) < low or int(address.max()) + total > high:
            bad = int(np.flatnonzero((address < low) | (address + total > high))[0])
            self.fault(sel, bad, f"{what} access out of bounds: address {int(address[bad])}, valid [{low}, {high})")
        if total > 1 and int(np.bitwise_or.reduce(address)) & (total - 1):
            bad = int(np.flatnonzero(address & (total - 1))[0])
            self.fault(sel, bad, f"misaligned {what} access of {total} bytes at {int(address[bad]):#x}")

    def fault(self, sel, position: int, message: str) -> None:
        raise PtxError(f"{message} ({self.thread_name(int(self.ids[sel][position]))})")

    def shared_index(self, sel, address: np.ndarray, item: int, count: int, write: bool, values=None) -> np.ndarray:
        total = item * count
        self.check(sel, address, total, SHARED_START, self.shared_end, "shared memory")
        where = address + self.shared_base[sel]
        if self.races is not None:
            self.races.access(self, sel, where, total, write, values)
        return where // total if total > 1 else where

    def local_index(self, sel, address: np.ndarray, item: int, count: int) -> np.ndarray:
        total = item * count
        self.check(sel, address, total, 0, self.local_size, "local memory")
        return (address + self.local_base[sel]) // total

    def global_check(self, sel, address: np.ndarray, total: int) -> None:
        for i, each in enumerate(address.tolist()):
            buffer = self.memory.locate(each)
            if buffer is None or each + total > buffer.base + buffer.size:
                self.fault(sel, i, f"global memory access of {total} bytes out of bounds: {self.memory.describe(each)}")

    def load(self, space: str, sel, address: np.ndarray, item: int, count: int, hint: list) -> np.ndarray:
        """Raw unsigned values, [threads] or [threads, count]."""
        if space == "shared":
            index = self.shared_index(sel, address, item, count, False)
            return self.shared_views[item, count][index]
        if space == "local":
            return self.local_views[item, count][self.local_index(sel, address, item, count)]
        if space == "param":
            self.check(sel, address, item * count, 0, len(self.param_bytes), "parameter")
            return self.param_views[item, count][address // (item * count)]
        if space == "generic" and int(address.max()) >= SHARED_WINDOW:
            return self.split(sel, address, lambda s, space, a: self.load(space, s, a, item, count, [None]))
        total = item * count
        buffer = self.memory.find(address, total, hint[0])
        if buffer is None:
            self.global_check(sel, address, total)
            parts = self.by_buffer(sel, address, lambda s, a: self.load("global", s, a, item, count, [None]))
            return parts
        hint[0] = buffer
        offset = address - buffer.base
        self.check(sel, offset, total, 0, buffer.size, f"global memory ({buffer.name})")
        return buffer.views[item, count][offset // total if total > 1 else offset]

    def store(self, space: str, sel, address: np.ndarray, item: int, count: int, values, hint: list) -> None:
        if space == "shared":
            index = self.shared_index(sel, address, item, count, True, values)
            self.shared_views[item, count][index] = values
            return
        if space == "local":
            self.local_views[item, count][self.local_index(sel, address, item, count)] = values
            return
        if space == "generic" and int(address.max()) >= SHARED_WINDOW:
            self.split(sel, address, lambda s, space, a, v: self.store(space, s, a, item, count, v, [None]), values)
            return
        if space not in ("global", "generic"):
            raise PtxError(f"a store to .{space} memory")
        total = item * count
        buffer = self.memory.find(address, total, hint[0])
        if buffer is None:
            self.global_check(sel, address, total)
            self.by_buffer(sel, address, lambda s, a, v: self.store("global", s, a, item, count, v, [None]), values)
            return
        hint[0] = buffer
        offset = address - buffer.base
        self.check(sel, offset, total, 0, buffer.size, f"global memory ({buffer.name})")
        if not buffer.views.raw.flags.writeable:
            raise PtxError(f"a store to {buffer.name}, which is read-only")
        buffer.views[item, count][offset // total if total > 1 else offset] = values

    def split(self, sel, address: np.ndarray, visit, values=None):
        """Generic addresses by space (PTX ISA, 'Generic Addressing')."""
        window = np.where(address >= PARAM_WINDOW, 3, np.where(address >= LOCAL_WINDOW, 2, address >= SHARED_WINDOW))
        bases = (0, SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW)
        return self.parts(sel, window, lambda s, key, a, *v: visit(s, SPACES[key], a - bases[key], *v), address, values)

    def by_buffer(self, sel, address: np.ndarray, visit, values=None):
        keys = np.searchsorted(self.memory.bases, address, "right")
        return self.parts(sel, keys, lambda s, key, a, *v: visit(s, a, *v), address, values)

    def parts(self, sel, keys: np.ndarray, visit, address: np.ndarray, values):
        out = None
        for key in np.unique(keys).tolist():
            mask = keys == key
            extra = () if values is None else (values[mask],)
            got = visit(self.ids[sel][mask], key, address[mask], *extra)
            if got is not None:
                out = np.zeros((len(address), *got.shape[1:]), got.dtype) if out is None else out
                out[mask] = got
        return out


SPACES = ("global", "shared", "local", "param")
