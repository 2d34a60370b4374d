"""A compiled program as a callable on numpy arrays: checks arguments, makes results, calls the machine code."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek import runtime
from deepseek.errors import ExecutionError, GpuError, InputError
from deepseek.host_memory import HostMemory
from deepseek.runtime.gpu_target import is_gpu
from deepseek.signature import ENTRY, ITEM_BYTES, Binding, BoundWeights, Signature, check_weights

__all__ = ["ITEM_BYTES", "Executable", "Prepared"]

_MANIFEST_VERSION = 1


class Executable:
    """One compiled object with its manifest, ready to be called on this machine, or on its GPU if it is for one.

    Results are 64-byte aligned arrays of their own that alias no input, except tied ones: these are the very input
    arrays, updated in place. Memory of large results is used again once nobody holds them. Calls from several
    threads take turns (one lock per context).
    """

    def __init__(self, object: bytes, manifest: dict[str, Any], *, threads: int | None = None) -> None:
        """Load the object; raises ExecutionError if this machine cannot run it or it is damaged.

        `threads`: None takes all CPUs of the process; a GPU takes no other.
        """
        if manifest.get("version") != _MANIFEST_VERSION:
            raise ExecutionError(
                f"compiled code has manifest version {manifest.get('version')!r}, this package reads "
                f"{_MANIFEST_VERSION}: compile it again"
            )
        gpu = is_gpu(str(manifest.get("target")))
        if problem := runtime.unsupported(manifest):
            raise (GpuError if gpu else ExecutionError)(problem)
        if gpu and threads is not None:
            raise InputError(f"threads is {threads}, but {manifest['target']} is a GPU: leave it out")
        self.manifest = manifest
        self._module = runtime.Module(object)  # keeps the code mapped
        self._main = ENTRY(self._module.symbol("dsc_main"))
        try:
            self._signature = Signature(manifest, self._module.symbol)
            init, arguments = manifest["init"], manifest["main"]["args"]
            needs_weights = any(argument["kind"] != "input" for argument in arguments) or bool(init and init["args"])
            self._memory = _gpu_memory(self._module, manifest) if gpu else HostMemory(threads)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ExecutionError(
                f"compiled code has a malformed manifest ({type(error).__name__}: {error}): compile it again"
            ) from None
        self.context = self._memory.context
        self._weights: BoundWeights | None = None
        if not needs_weights:
            self.bind_weights({})

    @property
    def kept_bytes(self) -> int:
        """Bytes of the weights that calls read: given ones where they lie, and prepared ones."""
        return sum(array.nbytes for array in self._weights.kept) if self._weights else 0

    @property
    def bound(self) -> bool:
        """Whether the program has its weights, or needs none."""
        return self._weights is not None

    def bind_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Give the program its weights by name and run its initialization (dsc_init) on them.

        An array must have the manifest's shape and dtype, or integers of the same width (raw bits). Arrays that
        the program reads later are kept, not copied (but to the GPU, and small ones of a file): do not write to them.
        Names that it does not use are ignored. Raises InputError for a missing or ill-shaped weight, ExecutionError
        when out of memory.
        """
        init, arguments = self.manifest["init"], self.manifest["main"]["args"]
        needed = [argument for argument in arguments if argument["kind"] == "weight"]
        checked = check_weights(needed + (init["args"] if init else []), weights)
        arrays = {name: self._memory.place(array) for name, array in checked.items()}
        prepared = self._run_init(init, arrays) if init else []
        kept = {
            slot: arrays[argument["weight"]] if argument["kind"] == "weight" else prepared[argument["prepared"]]
            for slot, argument in enumerate(arguments)
            if argument["kind"] != "input"
        }
        buffers = (ctypes.c_void_p * max(self._signature.slots, 1))()
        for slot, array in kept.items():
            buffers[slot] = self._memory.address(array)
        self._weights = BoundWeights(buffers, list(kept.values()))

    def _run_init(self, init: dict[str, Any], weights: Mapping[str, Any]) -> list[Any]:
        sizes = [math.prod(result["shape"]) * ITEM_BYTES[result["dtype"]] for result in init["results"]]
        try:
            # As bytes: only the machine code reads them, so bf16 needs no numpy dtype.
            prepared = self._memory.reserve(sizes)
        except MemoryError as error:
            raise ExecutionError(f"out of memory while allocating the prepared weights: {error}") from error
        used = [weights[argument["weight"]] for argument in init["args"]]
        addresses = [self._memory.address(array) for array in (*used, *prepared)]
        buffers = (ctypes.c_void_p * max(len(addresses), 1))(*addresses)
        dims = (ctypes.c_int64 * max(len(self._signature.symbols), 1))()
        entry = ENTRY(self._module.symbol("dsc_init"))
        self._memory.initialize(entry, ctypes.addressof(buffers), ctypes.addressof(dims), weights.values())
        return prepared

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Zeros for an argument that is updated in place, where the program works: an array, or a DeviceArray that
        stays on the GPU. Raises MemoryError."""
        return self._memory.zeros(shape, np.dtype(dtype))

    def __call__(self, *inputs: Any, out: Mapping[int, Any] | None = None) -> tuple[Any, ...]:
        """Run the program; raises InputError for arguments that do not fit, ExecutionError when out of memory.

        Arguments are numpy arrays; a program of a GPU takes DeviceArrays, too. `out`: DeviceArrays by the number of the
        result that goes there and stays on the GPU.
        """
        arrays, binding = self._signature.check(inputs, self._memory.kinds)
        results = self._prepared(arrays, binding, out)()
        # The caller's own objects, even where a subclass of ndarray was given.
        specs = self._signature.results
        return tuple([inputs[r.slot] if r.tied else a for r, a in zip(specs, results, strict=True)])

    def prepare(self, *inputs: Any, out: Mapping[int, Any] | None = None) -> Prepared:
        """A call to be repeated, which reads the contents of these arrays each time, and the weights that are bound now.

        Arguments and errors are those of a call, but numpy's arrays must be C-contiguous and aligned.
        """
        arrays, binding = self._signature.check(inputs, self._memory.kinds)
        for spec, given, array in zip(self._signature.inputs, inputs, arrays, strict=True):
            if array is not given:
                raise InputError(f"{spec.label}: must be C-contiguous and aligned, got strides {given.strides}")
        weights = self._weights
        return Prepared(self._prepared(arrays, binding, out), lambda: self._weights is weights)

    def _prepared(
        self, arrays: Sequence[Any], binding: Binding, out: Mapping[int, Any] | None
    ) -> Callable[[], Sequence[Any]]:
        weights = self._weights
        if weights is None:
            raise ExecutionError("the program has no weights yet: call bind_weights first")
        return self._memory.prepare(self._main, self._signature, weights, arrays, binding, dict(out or {}))


class Prepared:
    """A call of a program whose arguments were checked. One thread at a time may repeat it.

    Results of a CPU are the same arrays each time, valid until it is repeated.
    """

    def __init__(self, run: Callable[[], Sequence[Any]], is_current: Callable[[], bool]) -> None:
        """`run` is what the program's memory has prepared; `is_current`: whether its weights are the program's."""
        self._run = run
        self._is_current = is_current

    @property
    def is_current(self) -> bool:
        """Whether the program has no other weights since."""
        return self._is_current()

    def __call__(self) -> Sequence[Any]:
        """The results of the program; tied ones are arguments."""
        return self._run()


def _gpu_memory(module: runtime.Module, manifest: Mapping[str, Any]) -> Any:
    from deepseek.gpu_memory import GpuMemory

    return GpuMemory(module, manifest)
