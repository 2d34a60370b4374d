"""Collectives between the GPUs of several processes, through NCCL; nothing is loaded before the first call.

with TcpStore(29500, rank) as store, Device(rank) as device:
    group = Communicator(device, store, rank, ranks)
    group.all_reduce(buffer, "bf16")
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deepseek.errors import GpuError, InputError
from deepseek.runtime.gpu import Buffer, Device
from deepseek.runtime.gpu_binding import load_library

__all__ = ["Communicator", "Nccl", "Store", "find_nccl"]

_ELEMENTS = {"u8": 0, "u32": 2, "i32": 3, "i64": 4, "f16": 5, "bf16": 6, "f32": 7, "f64": 8}  # DSC_RT_U8 ..
_BYTES = {"u8": 1, "f16": 2, "bf16": 2, "i64": 8, "f64": 8}
_OPERATIONS = {"sum": 0, "max": 1}
_ID_BYTES = 128
_POLL_SECONDS = 0.001


class Store(Protocol):
    """What passes the group's id on: `deepseek.runtime.store.TcpStore`, or a store of torch.distributed."""

    def set(self, key: str, value: bytes) -> object:
        """Store a value."""

    def get(self, key: str) -> bytes:
        """The value of a key, as soon as there is one."""


@dataclass(frozen=True)
class Nccl:
    """The NCCL of this machine: its version, or the reason why there is none and how to get it."""

    ok: bool
    version: str
    reason: str


def find_nccl() -> Nccl:
    """Load NCCL: $DEEPSEEK_LIBNCCL, or the package nvidia-nccl-cu13, or the system's."""
    message = ctypes.create_string_buffer(1024)
    path = None if os.environ.get("DEEPSEEK_LIBNCCL") else _packaged()
    number = load_library().dsc_rt_comm_load(path.encode() if path else None, message, len(message))
    if number < 0:
        return Nccl(False, "", message.value.decode(errors="replace"))
    return Nccl(True, f"{number // 10000}.{number // 100 % 100}.{number % 100}", "")


def _packaged() -> str | None:
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(folder).glob("*/lib/libnccl.so.2")):
            return str(path)
    return None


class Communicator:
    """Rank `rank` of `ranks` processes with a GPU each; made in all of them at once, which it waits for.

    Rank 0 passes the group's id to the others through `store`, under a key with `name`: groups of one store have names
    of their own. Collectives are work of the device, ordered with its launches. They take whole buffers, of elements "u8",
    "i32", "u32", "i64", "f16", "bf16", "f32" or "f64". Raises GpuError without NCCL, or when it fails.
    """

    def __init__(self, device: Device, store: Store, rank: int, ranks: int, name: str = "0") -> None:
        if not 0 <= rank < ranks:
            raise InputError(f"rank must be 0 to {ranks - 1}, got {rank}")
        nccl = find_nccl()
        if not nccl.ok:
            raise GpuError(nccl.reason)
        library, message = device.library, ctypes.create_string_buffer(1024)
        identity, key = ctypes.create_string_buffer(_ID_BYTES), f"deepseek/nccl/{name}"
        if rank == 0:
            if library.dsc_rt_comm_id(identity, message, len(message)):
                raise GpuError(message.value.decode(errors="replace"))
            store.set(key, identity.raw)
        received = bytes(store.get(key))
        if len(received) != _ID_BYTES:
            raise GpuError(f"the store has {len(received)} bytes under {key!r}, the id of a group has {_ID_BYTES}")
        with device.lock:
            pointer = library.dsc_rt_comm_create(device.handle, received, ranks, rank, message, len(message))
            if not pointer:
                raise GpuError(message.value.decode(errors="replace"))
            device._owner.adopt(self, pointer, library.dsc_rt_comm_destroy)
        self.device, self.rank, self.ranks = device, rank, ranks
        self._pointer = pointer

    def all_reduce(self, target: Buffer, element: str, operation: str = "sum", source: Buffer | None = None) -> None:
        """Sum or greatest ("max") of all ranks' `source` (default: `target` itself)."""
        self._same(target, source, 1)
        self._call("all_reduce", target, source or target, self._count(target, element), element, operation)

    def all_gather(self, target: Buffer, source: Buffer, element: str) -> None:
        """All ranks' `source`, one behind the other; `target` has `ranks` times its bytes."""
        self._same(target, source, self.ranks)
        self._call("all_gather", target, source, self._count(source, element), element)

    def reduce_scatter(self, target: Buffer, source: Buffer, element: str, operation: str = "sum") -> None:
        """This rank's part of the sum or greatest of all ranks' `source`, which has `ranks` times the bytes of `target`."""
        self._same(source, target, self.ranks)
        self._call("reduce_scatter", target, source, self._count(target, element), element, operation)

    def all_to_all(self, target: Buffer, source: Buffer, element: str) -> None:
        """Part r of `source` goes to rank r; part r of `target` comes from it. Both have the same bytes."""
        self._same(target, source, 1)
        count = self._count(target, element)
        if count % self.ranks or source is target:
            raise InputError(
                f"all_to_all needs two buffers of equal parts for {self.ranks} ranks, got {count} elements"
            )
        self._call("all_to_all", target, source, count // self.ranks, element)

    def broadcast(self, target: Buffer, element: str, root: int = 0) -> None:
        """The `target` of rank `root`, in all ranks."""
        self._call("broadcast", target, target, self._count(target, element), element, root=root)

    def send(self, source: Buffer, element: str, peer: int) -> None:
        """Send to one rank, which calls `receive`."""
        self._issue("send", source.address, self._count(source, element), _element(element), peer)

    def receive(self, target: Buffer, element: str, peer: int) -> None:
        """Receive what rank `peer` sends."""
        self._issue("receive", target.address, self._count(target, element), _element(element), peer)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Sends and receives of the block run beside each other, and wait for none of each other."""
        self._issue("group_begin")
        try:
            yield
        finally:
            self._issue("group_end")

    def check(self) -> None:
        """Raise GpuError if a collective failed, for example because another rank is gone; does not wait."""
        self._issue("check")

    def wait(self, timeout: float = 600.0) -> None:
        """Wait for the work so far; aborts the group and raises GpuError when a rank fails or `timeout` seconds pass."""
        event, end = self.device.event().record(), time.monotonic() + timeout
        try:
            while not event.done:
                self.check()
                if time.monotonic() > end:
                    raise GpuError(f"rank {self.rank} has waited {timeout:g} s for the other {self.ranks - 1} ranks")
                time.sleep(_POLL_SECONDS)
        except GpuError:
            self.abort()
            raise

    def abort(self) -> None:
        """End collectives that wait for ranks that are gone; the group cannot be used after that."""
        self._issue("abort")

    def close(self) -> None:
        """Leave the group, once its work is done."""
        self.device._owner.release(self._pointer)

    def _count(self, buffer: Buffer, element: str) -> int:
        _element(element)
        size = _BYTES.get(element, 4)
        if buffer.nbytes % size:
            raise InputError(f"{buffer.nbytes} bytes are no whole number of {element}")
        return buffer.nbytes // size

    def _same(self, large: Buffer, small: Buffer | None, times: int) -> None:
        if small is not None and large.nbytes != times * small.nbytes:
            raise InputError(f"{large.nbytes} bytes are not {times} times {small.nbytes}")

    def _call(
        self, name: str, target: Buffer, source: Buffer, count: int, element: str, operation: str = "", root: int = -1
    ) -> None:
        last = [_operation(operation)] if operation else [root] if root >= 0 else []
        self._issue(name, target.address, source.address, count, _element(element), *last)

    def _issue(self, name: str, *arguments: int) -> None:
        self.device.call_with(f"dsc_rt_comm_{name}", self._pointer, *arguments)


def _element(name: str) -> int:
    if name not in _ELEMENTS:
        raise InputError(f"collectives have no element {name!r}: {', '.join(_ELEMENTS)}")
    return _ELEMENTS[name]


def _operation(name: str) -> int:
    if name not in _OPERATIONS:
        raise InputError(f"collectives have no operation {name!r}: {', '.join(_OPERATIONS)}")
    return _OPERATIONS[name]
