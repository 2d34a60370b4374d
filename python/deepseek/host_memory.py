"""How programs of a CPU get their arguments: callers' arrays as they are, results in memory that is used again."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from deepseek.buffers import ResultPool, address_of, aligned_parts, aligned_zeros, mapped_files
from deepseek.errors import ExecutionError, InputError
from deepseek.runtime import Context
from deepseek.signature import Binding, Entry, Signature

__all__ = ["HostMemory"]

_SMALL = 64 << 10  # bytes
_NOTHING: Callable[[], None] = lambda: None  # noqa: E731


class HostMemory:
    """What one program on `threads` threads works in."""

    kinds: tuple[type, ...] = ()  # of arguments, beside numpy's arrays
    context: Context

    def __init__(self, threads: int | None) -> None:
        self.context = Context.default(threads)
        self._pool = ResultPool()
        # The last call's tied arguments, and their addresses.
        self._known: list[tuple[Callable[[], np.ndarray | None], int]] = []

    @staticmethod
    def address(array: np.ndarray) -> int:
        """Where the first element lies."""
        return address_of(array)

    def place(self, array: np.ndarray) -> np.ndarray:
        """A weight where the program can read it: where it lies, but for small ones, around each of which the operating
        system would keep 64 KiB of its file in memory."""
        return array if array.nbytes > _SMALL or array.flags.owndata else array.copy()

    def reserve(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """Memory of the given sizes in bytes."""
        return aligned_parts(sizes)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A tied argument."""
        return aligned_zeros(shape, dtype)

    def initialize(self, entry: Entry, buffers: int, dims: int, weights: Iterable[np.ndarray]) -> None:
        """Run dsc_init, which reads `weights`; raises ExecutionError."""
        # What was read of a file is in the prepared weights, too: both in memory would be twice the model.
        with self.context.lock, self.context.reading_once(mapped_files(weights)):
            code = entry(self.context.handle, buffers, dims)
        check_code(code, "preparing the weights")

    def run(
        self,
        main: Entry,
        signature: Signature,
        buffers: ctypes.Array,
        arrays: Sequence[np.ndarray],
        binding: Binding,
        out: Mapping[int, object],
    ) -> list[np.ndarray]:
        """Run dsc_main; the results, a tied one being its argument. Raises InputError for memory of a GPU."""
        if out:
            raise InputError(f"result {min(out)} cannot stay on a GPU: the program runs on the CPU")
        addresses = self._addresses(signature, arrays)
        signature.check_overlap(arrays, addresses)
        results, result_addresses = self._make_results(signature, arrays, binding)
        with self.context.lock:
            for spec, address in zip(signature.inputs, addresses, strict=True):
                buffers[spec.slot] = address
            for slot, address in result_addresses:
                buffers[slot] = address
            code = main(self.context.handle, ctypes.addressof(buffers), ctypes.addressof(binding.dims))
        if code:
            check_code(code, "running the program")
        return results

    def _addresses(self, signature: Signature, arrays: Sequence[np.ndarray]) -> list[int]:
        """Of each argument. Tied ones, as caches, are often the same arrays in every call: asking numpy takes a
        microsecond for each."""
        known = self._known
        if len(known) != len(arrays):
            known = self._known = [(_NOTHING, 0)] * len(arrays)
        addresses = []
        for index, (spec, array) in enumerate(zip(signature.inputs, arrays, strict=True)):
            reference, address = known[index]
            if reference() is not array:
                address = address_of(array)
                if spec.tied:  # numpy does not resize an array that is referred to
                    known[index] = weakref.ref(array), address
            addresses.append(address)
        return addresses

    def _make_results(
        self, signature: Signature, arrays: Sequence[np.ndarray], binding: Binding
    ) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        results, addresses = [], []
        for result, shape in zip(signature.results, binding.shapes, strict=True):
            if result.tied:
                results.append(arrays[result.slot])
                continue
            try:
                array, address = self._pool.empty(shape, result.dtype)
            except (MemoryError, ValueError) as error:
                raise ExecutionError(f"out of memory for a result of shape {shape} and {result.dtype}") from error
            results.append(array)
            addresses.append((result.slot, address))
        return results, addresses


def check_code(code: int, action: str) -> None:
    """Raises ExecutionError for what a function of a program returned, unless it is 0."""
    if code == 1:
        raise ExecutionError(f"out of memory while {action}")
    if code:
        raise ExecutionError(f"{action} failed with code {code}")
