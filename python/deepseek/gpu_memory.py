"""How programs of a GPU get their arguments: weights stay on the device, arrays of numpy go there and back."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek import cache, runtime
from deepseek.buffers import address_of
from deepseek.errors import InputError
from deepseek.host_memory import check_code
from deepseek.runtime.gpu import Buffer, Device, Graph
from deepseek.signature import Binding, BoundWeights, Entry, Signature

__all__ = ["DeviceArray", "GpuMemory", "default_device"]

_LEAST_STAGED = 4 << 10  # bytes: small arguments change their sizes without new memory
_MOST_STAGED = 64 << 20  # bytes of an argument or result whose device memory is kept for the next call
_MOST_GRAPHS = 16  # of one program: a session's decode step is one, until its caches grow

_devices: dict[int, Device] = {}
_devices_lock = threading.Lock()


def default_device(index: int = 0) -> Device:
    """The context of a GPU that all programs share, made on first use; raises GpuError."""
    with _devices_lock:
        if index not in _devices:
            _devices[index] = Device(index)
        return _devices[index]


class DeviceArray:
    """A contiguous array in the memory of a GPU: shape, dtype, address. Slices of rows share its memory."""

    def __init__(self, buffer: Buffer, shape: Sequence[int], dtype: Any, offset: int = 0) -> None:
        """What lies in `buffer` from byte `offset` on."""
        self.buffer, self.shape, self.dtype = buffer, tuple(shape), np.dtype(dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self._offset = offset
        self.address = buffer.address + offset
        buffer._check_range(offset, self.nbytes)

    @classmethod
    def of(cls, device: Device, array: np.ndarray) -> DeviceArray:
        """A copy of an array on a GPU."""
        return cls(device.upload(array), array.shape, array.dtype)

    @classmethod
    def zeros(cls, device: Device, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """An array of zeros on a GPU; raises GpuMemoryError."""
        made = cls(device.allocate(math.prod(shape) * np.dtype(dtype).itemsize), shape, dtype)
        made.buffer.fill(0)
        return made

    @property
    def device(self) -> Device:
        """Where it lies."""
        return self.buffer.device

    def numpy(self) -> np.ndarray:
        """A copy on the host, once the work so far is done; raises GpuError."""
        return self.device.download(self.buffer, self.shape, self.dtype, offset=self._offset)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        begin, end, step = rows.indices(self.shape[0]) if isinstance(rows, slice) and self.shape else (0, 0, 0)
        if step != 1:
            raise InputError(f"a slice of neighbouring rows is expected, got {rows}")
        row = self.nbytes // max(self.shape[0], 1)
        return DeviceArray(self.buffer, (max(end - begin, 0), *self.shape[1:]), self.dtype, self._offset + begin * row)

    def copy_positions(self, source: DeviceArray, count: int) -> None:
        """Take the first `count` positions (of the axis before the last) from an array of the same other sizes.

        Raises InputError for other shapes, or memory that the two share.
        """
        mine, theirs = self.shape, source.shape
        fits = mine[:-2] == theirs[:-2] and mine[-1] == theirs[-1] and count <= min(mine[-2], theirs[-2])
        if not fits or self.dtype != source.dtype:
            raise InputError(f"{count} positions of {theirs} {source.dtype} do not fit into {mine} {self.dtype}")
        position = mine[-1] * self.dtype.itemsize
        if not count * position:
            return
        with self.device.lock:
            for plane in range(math.prod(mine[:-2])):
                target_at = self.address + plane * mine[-2] * position
                source_at = source.address + plane * theirs[-2] * position
                self.device.call("dsc_rt_gpu_copy", target_at, source_at, count * position)


class GpuMemory:
    """What one program on a GPU works in.

    Arrays of numpy are copied to memory of the program's own, one place for each argument, and results from there. A
    call that repeats another's shapes and addresses, as decode steps do, is launched as one CUDA graph.
    """

    kinds: tuple[type, ...] = (DeviceArray,)
    context: Device

    def __init__(self, module: runtime.Module, manifest: Mapping[str, Any]) -> None:
        """Brings the kernels of a module to the GPU. Raises GpuError."""
        self.context = default_device()
        folder = _cubin_folder()
        kernels = manifest["kernels"].values()
        if folder is not None:
            self.context.compile((kernel["ptx"] for kernel in kernels), folder)
        self._code = [self.context.load(module, kernel["ptx"], folder) for kernel in kernels]
        self._staging: dict[tuple[str, int], Buffer] = {}
        self._graphs: OrderedDict[tuple[int, ...], Graph | None] = OrderedDict()  # None: seen once

    @staticmethod
    def address(array: DeviceArray) -> int:
        """Where the first element lies."""
        return array.address

    def place(self, array: np.ndarray) -> DeviceArray:
        """A weight where the program can read it."""
        return DeviceArray.of(self.context, array)

    def reserve(self, sizes: Sequence[int]) -> list[DeviceArray]:
        """Memory of the given sizes in bytes."""
        return [DeviceArray(self.context.allocate(size), (size,), np.uint8) for size in sizes]

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """A tied argument, which stays on the device."""
        return DeviceArray.zeros(self.context, shape, dtype)

    def initialize(self, entry: Entry, buffers: int, dims: int, weights: Iterable[DeviceArray]) -> None:
        """Run dsc_init, which reads `weights`; raises GpuError."""
        with self.context.lock:
            self._call(entry, buffers, dims, "preparing the weights")
            self.context.synchronize()

    def prepare(
        self,
        main: Entry,
        signature: Signature,
        weights: BoundWeights,
        arrays: Sequence[np.ndarray | DeviceArray],
        binding: Binding,
        out: Mapping[int, DeviceArray],
    ) -> Callable[[], list[Any]]:
        """What runs dsc_main, once or repeatedly, and gives the results: on the host, but for those that go to `out`; a
        tied one is its argument."""
        for spec, array in zip(signature.inputs, arrays, strict=True):
            if isinstance(array, DeviceArray) and array.device is not self.context:
                raise InputError(f"{spec.label}: lies on another device than the program")
        signature.check_overlap(arrays, [_address(array) for array in arrays])
        self._check_out(out, signature, binding, arrays)

        def run() -> list[Any]:
            buffers = weights.buffers  # the lock is the program's, too
            with self.context.lock:
                placed = [self._enter(index, array) for index, array in enumerate(arrays)]
                for spec, array in zip(signature.inputs, placed, strict=True):
                    buffers[spec.slot] = array.address
                results: list[Any] = []
                for index, (result, shape) in enumerate(zip(signature.results, binding.shapes, strict=True)):
                    if result.tied:
                        results.append(placed[result.slot])
                        continue
                    if index in out:
                        results.append(out[index])
                    else:
                        nbytes = math.prod(shape) * result.dtype.itemsize
                        results.append(DeviceArray(self._staged("result", index, nbytes), shape, result.dtype))
                    buffers[result.slot] = results[-1].address
                self._launch(main, buffers, binding)
                for spec, array, inside in zip(signature.inputs, arrays, placed, strict=True):
                    if spec.tied and isinstance(array, np.ndarray):
                        _download(inside, array)
                return [
                    arrays[result.slot] if result.tied else array if index in out else array.numpy()
                    for index, (result, array) in enumerate(zip(signature.results, results, strict=True))
                ]

        return run

    def _check_out(
        self, out: Mapping[int, DeviceArray], signature: Signature, binding: Binding, arrays: Sequence[Any]
    ) -> None:
        """Raises InputError where results cannot go: to arrays of other shapes, or that the call reads or writes."""
        taken = [array for array in arrays if isinstance(array, DeviceArray)]
        for index, array in out.items():
            if not 0 <= index < len(signature.results) or signature.results[index].tied:
                raise InputError(f"there is no result {index} of its own")
            shape, dtype = binding.shapes[index], signature.results[index].dtype
            if array.device is not self.context or array.shape != shape or array.dtype != dtype:
                raise InputError(f"result {index} is {shape} {dtype}, but goes to {array.shape} {array.dtype}")
            for other in taken:
                if array.address < other.address + other.nbytes and other.address < array.address + array.nbytes:
                    raise InputError(f"result {index} must not share memory with an argument or another result")
            taken.append(array)

    def _enter(self, index: int, array: np.ndarray | DeviceArray) -> DeviceArray:
        if isinstance(array, DeviceArray):
            return array
        target = self._staged("argument", index, array.nbytes)
        self.context.upload(array, target)
        return DeviceArray(target, array.shape, array.dtype)

    def _staged(self, kind: str, index: int, nbytes: int) -> Buffer:
        """Device memory of an argument or result, the same as last time if it suffices."""
        buffer = self._staging.get((kind, index))
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self.context.allocate(max(nbytes, _LEAST_STAGED))
            if nbytes <= _MOST_STAGED:
                self._staging[kind, index] = buffer
        return buffer

    def _launch(self, main: Entry, buffers: ctypes.Array, binding: Binding) -> None:
        arguments = main, ctypes.addressof(buffers), ctypes.addressof(binding.dims), "running the program"
        if self.context.profiling:  # graphs have no spans
            self._call(*arguments)
            return
        # Addresses and sizes are all that the launches of a call depend on. A graph whose memory was given back is not
        # launched again before all of it lies at the same addresses.
        key = (*binding.dims, *(address or 0 for address in buffers))
        if key not in self._graphs:
            self._call(*arguments)
            self._graphs[key] = None
            if len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            return
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        if graph is None:
            with self.context.graph() as graph:
                self._call(*arguments)
            self._graphs[key] = graph
        graph.launch()

    def _call(self, entry: Entry, buffers: int, dims: int, action: str) -> None:
        code = entry(self.context.handle, buffers, dims)
        self.context.check()
        check_code(code, action)


def _address(array: np.ndarray | DeviceArray) -> int:
    return array.address if isinstance(array, DeviceArray) else address_of(array)


def _download(source: DeviceArray, array: np.ndarray) -> None:
    source.device.call("dsc_rt_gpu_download", address_of(array), source.address, array.nbytes)


def _cubin_folder() -> Any:
    """Where the driver's machine code is kept, beside the compiled objects; None where nothing is kept."""
    try:
        return None if os.environ.get("DEEPSEEK_CACHE_MAX_BYTES") == "0" else cache.directory().parent / "cubin"
    except OSError:
        return None
