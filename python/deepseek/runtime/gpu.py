"""NVIDIA GPUs through libdsc_rt: devices, their memory, events, graphs. Nothing is looked for before the first call.

    if probe().ok:
        with Device(0) as device:
            weights = device.upload(array)

All work of a device is ordered as it was issued; methods return before it is done, but for `synchronize` and
`download`. An error of the GPU is raised by the first call after it shows, and names the kernel.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepseek import runtime
from deepseek.buffers import address_of
from deepseek.errors import ExecutionError, GpuError, GpuMemoryError, InputError
from deepseek.runtime.gpu_binding import DeviceStruct, Handle, MemoryStruct, load_library

__all__ = ["Buffer", "Code", "Device", "DeviceInfo", "Event", "Graph", "Memory", "Probe", "probe"]

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


@dataclass(frozen=True)
class DeviceInfo:
    """What a GPU is: `capability` (9, 0) is sm_90, `driver` (12, 4) the CUDA that its driver supports."""

    index: int
    name: str
    capability: tuple[int, int]
    driver: tuple[int, int]
    multiprocessors: int
    shared_bytes: int  # of a block
    clock_khz: int
    memory_bytes: int
    l2_bytes: int


@dataclass(frozen=True)
class Probe:
    """Whether compiled code can run on a GPU of this machine; if not, `reason` says why in one sentence."""

    ok: bool
    reason: str
    devices: tuple[DeviceInfo, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes: `used` by allocations (at most `high_water`; `count` of them), `reserved` from the device by this context,
    and what is `free` of the device's `total`."""

    used: int
    high_water: int
    reserved: int
    count: int
    free: int
    total: int


def probe() -> Probe:
    """Look for the driver and its devices; makes no context. Raises ExecutionError only without libdsc_rt."""
    library, message = load_library(), ctypes.create_string_buffer(1024)
    code = library.dsc_rt_gpu_probe(message, len(message))
    devices = tuple(_info(index) for index in range(library.dsc_rt_gpu_count()))
    return Probe(code == 0, message.value.decode(errors="replace") if code else "", devices)


def _info(index: int) -> DeviceInfo:
    found, message = DeviceStruct(), ctypes.create_string_buffer(1024)
    if load_library().dsc_rt_gpu_info(index, ctypes.addressof(found), message, len(message)):
        raise GpuError(message.value.decode(errors="replace"))
    return DeviceInfo(
        index=index,
        name=found.name.decode(errors="replace"),
        capability=(found.major, found.minor),
        driver=(found.driver // 1000, found.driver % 1000 // 10),
        **{
            name: getattr(found, name)
            for name in ("multiprocessors", "shared_bytes", "clock_khz", "memory_bytes", "l2_bytes")
        },
    )


class Device:
    """GPU `index` with its memory; a context manager that gives everything back at its end.

    `handle` is what compiled programs take as their context; hold `lock` around calls with it, then call `check`.
    Several Devices of one index are independent contexts. Raises GpuError if the GPU cannot be used.
    """

    info: DeviceInfo
    profiling = False  # whether `profile` records

    def __init__(self, index: int = 0) -> None:
        library, message = load_library(), ctypes.create_string_buffer(1024)
        context = library.dsc_rt_create_gpu(index, message, len(message))
        if not context:
            raise GpuError(message.value.decode(errors="replace"))
        self.library = library
        self._owner = Handle(library, context)
        weakref.finalize(self, self._owner.close).atexit = False
        self.info = _info(index)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the context: its buffers, events and graphs are gone. Closing twice is harmless."""
        self._owner.close()

    @property
    def handle(self) -> int:
        """Address of the dsc_rt_context; raises GpuError after `close`."""
        if self._owner.context is None:
            raise GpuError(f"the device {self.info.name} is closed")
        return self._owner.context

    @property
    def lock(self) -> threading.RLock:
        """Held around every call that uses the context."""
        return self._owner.lock

    @property
    def threads(self) -> int:
        """Multiprocessors: what a launch may keep busy."""
        return self.info.multiprocessors

    @property
    def arena_bytes(self) -> int:
        """Bytes of scratch memory that the context holds."""
        with self.lock:
            return self.library.dsc_rt_arena_bytes(self.handle)

    @property
    def stream(self) -> int:
        """The CUstream of all work, for other libraries (torch.cuda.ExternalStream)."""
        with self.lock:
            return self.library.dsc_rt_gpu_stream(self.handle)

    def check(self) -> None:
        """Raise the first error since the last call, if there is one; does not wait."""
        with self.lock:
            message = ctypes.create_string_buffer(2048)
            code = self.library.dsc_rt_gpu_error(self.handle, message, len(message))
            if code == 0:
                return
            numbers = [ctypes.c_int64() for _ in range(3)]
            self.library.dsc_rt_gpu_shortage(self.handle, *(ctypes.addressof(number) for number in numbers))
        text = message.value.decode(errors="replace")
        raise GpuMemoryError(text, *(n.value for n in numbers)) if code == _OUT_OF_MEMORY else GpuError(text)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of dsc_rt_gpu.h that takes the context first and returns an error number; raises GpuError."""
        with self.lock:
            if getattr(self.library, name)(self.handle, *arguments):
                self.check()
                raise GpuError(f"{name} failed")

    def call_with(self, name: str, pointer: int | None, *arguments: Any) -> Any:
        """Call a function that takes an event, graph or group of this device; raises what it leaves behind."""
        with self.lock:
            if self._owner.context is None or pointer not in self._owner.children:
                raise GpuError(f"the device {self.info.name} is closed, or what was to be used is gone")
            result = getattr(self.library, name)(pointer, *arguments)
            if result:
                self.check()
            return result

    def synchronize(self) -> None:
        """Wait for all work; raises GpuError if some of it failed."""
        self.call("dsc_rt_gpu_synchronize")

    def memory(self) -> Memory:
        """What is used and what is left."""
        found = MemoryStruct()
        self.call("dsc_rt_gpu_memory_info", ctypes.addressof(found))
        return Memory(**{name: getattr(found, name) for name, _ in found._fields_})

    def trim(self) -> int:
        """Give unused memory back to the device; returns bytes."""
        with self.lock:
            return self.library.dsc_rt_gpu_trim(self.handle)

    def allocate(self, nbytes: int) -> Buffer:
        """Memory of `nbytes` bytes with undefined contents; raises GpuMemoryError when the device has no more."""
        return Buffer(self, nbytes)

    def upload(self, array: np.ndarray, into: Buffer | None = None, *, offset: int = 0) -> Buffer:
        """Copy an array (made contiguous) to `into`, from byte `offset` on, or to new memory of its size."""
        array = np.ascontiguousarray(array)
        target = into if into is not None else self.allocate(offset + array.nbytes)
        target._check_range(offset, array.nbytes)
        self.call("dsc_rt_gpu_upload", target.address + offset, address_of(array), array.nbytes, 1)
        return target

    def download(self, source: Buffer, shape: Sequence[int] | int, dtype: Any, *, offset: int = 0) -> np.ndarray:
        """An array of this shape and dtype from byte `offset` of `source`, once the work so far is done."""
        array = np.empty(shape, dtype)
        source._check_range(offset, array.nbytes)
        self.call("dsc_rt_gpu_download", address_of(array), source.address + offset, array.nbytes)
        return array

    def load(self, module: runtime.Module, image: bytes | str, cache: Path | None = None) -> Code:
        """Bring the GPU code of a module (PTX, a cubin or a fat binary) to this device.

        `cache` is a folder for what the driver makes of PTX. Raises GpuError with the driver's messages if it does not
        take the code, or the code is for another architecture.
        """
        return Code(self, module, image.encode() if isinstance(image, str) else image, cache)

    def compile(self, texts: Iterable[str], cache: Path) -> int:
        """Have the driver compile PTX texts into the folder `cache`, on all CPUs, so that `load` finds them there.

        What is there already is left; what the driver refuses `load` will report. Returns how many were compiled.
        """
        _make_folder(cache)
        images = list(dict.fromkeys(text.encode() for text in texts))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            compiled = pool.map(
                lambda image: self.library.dsc_rt_gpu_compile(self.handle, image, len(image), str(cache).encode()),
                images,
            )
            return sum(compiled)

    def event(self) -> Event:
        """A point in the order of work, not yet recorded."""
        return Event(self)

    @contextmanager
    def graph(self, into: Graph | None = None) -> Iterator[Graph]:
        """Record the launches of the block instead of doing them; `launch` of the graph does them.

        Run the block once before, so that kernels are loaded and the arena is large enough. What it uses must live as long
        as the graph: `graph.keep`. With `into`, a graph of the same launches gets the block's sizes and addresses.
        """
        graph = into if into is not None else Graph(self)
        self.call("dsc_rt_gpu_capture_begin")
        library = self.library
        try:
            yield graph
        except BaseException:
            with self.lock:
                library.dsc_rt_gpu_graph_destroy(library.dsc_rt_gpu_capture_end(self.handle, None))
                library.dsc_rt_gpu_error(self.handle, None, 0)  # the one that is raised matters
            raise
        with self.lock:
            made = library.dsc_rt_gpu_capture_end(self.handle, graph._pointer)
            if not made:
                self.check()
                raise GpuError("the graph could not be made")
            if graph._pointer is None:
                graph._pointer = made
                self._owner.adopt(graph, made, library.dsc_rt_gpu_graph_destroy)

    @contextmanager
    def profile(self, launches: int) -> Iterator[runtime.Profile]:
        """Record the spans of up to `launches` launches, as `Context.profile` does: one each, with part -1."""
        profile = runtime.Profile()
        spans = np.zeros(max(launches, 1), runtime._SPAN)
        with self.lock:
            self.library.dsc_rt_profile(self.handle, spans.ctypes.data, len(spans))
        self.check()
        self.profiling = True
        try:
            yield profile
        finally:
            self.profiling = False
            with self.lock:
                profile.spans = spans[: self.library.dsc_rt_profile(self.handle, None, 0)]


class Buffer:
    """Device memory: `nbytes` bytes at `address`; given back when the last reference is gone, or by `free`."""

    def __init__(self, device: Device, nbytes: int) -> None:
        with device.lock:
            address = device.library.dsc_rt_gpu_alloc(device.handle, nbytes)
            if not address:
                device.check()
                raise GpuMemoryError(f"no device memory for {nbytes} bytes", nbytes)
        self.device, self.address, self.nbytes = device, address, nbytes
        self._finalizer = weakref.finalize(self, device._owner.free, address)
        self._finalizer.atexit = False

    def free(self) -> None:
        """Give the memory back now; work issued so far may still use it."""
        self._finalizer()

    def fill(self, value: int = 0) -> None:
        """Set every byte to `value`."""
        self.device.call("dsc_rt_gpu_fill", self.address, value, self.nbytes)

    def copy_from(self, source: Buffer, nbytes: int | None = None) -> None:
        """Copy the first `nbytes` bytes (default: all) of another buffer of this device."""
        nbytes = source.nbytes if nbytes is None else nbytes
        source._check_range(0, nbytes)
        self._check_range(0, nbytes)
        self.device.call("dsc_rt_gpu_copy", self.address, source.address, nbytes)

    def _check_range(self, offset: int, nbytes: int) -> None:
        if not self._finalizer.alive:
            raise InputError("the device memory was freed")
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise InputError(f"bytes {offset} to {offset + nbytes} are not in device memory of {self.nbytes} bytes")


class Code:
    """GPU code of a module on a device; taken back when the last reference is gone."""

    def __init__(self, device: Device, module: runtime.Module, image: bytes, cache: Path | None) -> None:
        message = ctypes.create_string_buffer(16384)
        folder = str(cache).encode() if cache else None
        if cache:
            _make_folder(cache)
        with device.lock:
            code = device.library.dsc_rt_attach(
                module._handle, device.handle, image, len(image), folder, message, len(message)
            )
        if not code:
            raise GpuError(message.value.decode(errors="replace"))
        self.device, self.module = device, module
        self._finalizer = weakref.finalize(self, device._owner.detach, code, module)
        self._finalizer.atexit = False

    def unload(self) -> None:
        """Take the code back now; graphs that hold its kernels must not be launched after that."""
        self._finalizer()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # code is compiled anew each time


class Event:
    """A point in the order of work of a device."""

    def __init__(self, device: Device) -> None:
        with device.lock:
            pointer = device.library.dsc_rt_gpu_event_create(device.handle)
            if not pointer:
                device.check()
                raise ExecutionError("out of memory")
            device._owner.adopt(self, pointer, device.library.dsc_rt_gpu_event_destroy)
        self.device, self._pointer = device, pointer

    def record(self) -> Event:
        """Put the event behind the work issued so far."""
        self.device.call_with("dsc_rt_gpu_event_record", self._pointer)
        return self

    def synchronize(self) -> None:
        """Wait until the work before it is done."""
        self.device.call_with("dsc_rt_gpu_event_synchronize", self._pointer)

    @property
    def done(self) -> bool:
        """Whether the work before it is done."""
        return self.device.call_with("dsc_rt_gpu_event_done", self._pointer) == 1

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two events that are both done."""
        return self.device.call_with("dsc_rt_gpu_event_elapsed", earlier._pointer, self._pointer)


class Graph:
    """Launches that `Device.graph` recorded."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._pointer: int | None = None
        self._kept: list[object] = []

    def keep(self, *objects: object) -> None:
        """Hold buffers and code as long as the graph."""
        self._kept.extend(objects)

    def launch(self) -> None:
        """Issue the recorded work."""
        self.device.call_with("dsc_rt_gpu_graph_launch", self._pointer)
