"""How programs of a CPU get their arguments: callers' arrays as they are, results in memory that is used again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from deepseek.buffers import ResultPool, address_of, aligned_parts, aligned_zeros, mapped_files
from deepseek.errors import ExecutionError, InputError
from deepseek.runtime import Context
from deepseek.signature import Binding, BoundWeights, Entry, Signature

__all__ = ["HostMemory"]

_SMALL = 64 << 10  # bytes


class HostMemory:
    """What one program on `threads` threads works in."""

    kinds: tuple[type, ...] = ()  # of arguments, beside numpy's arrays
    context: Context

    def __init__(self, threads: int | None) -> None:
        self.context = Context.default(threads)
        self._pool = ResultPool()

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

    def prepare(
        self,
        main: Entry,
        signature: Signature,
        weights: BoundWeights,
        arrays: Sequence[np.ndarray],
        binding: Binding,
        out: Mapping[int, object],
    ) -> Callable[[], Sequence[np.ndarray]]:
        """What runs dsc_main, once or repeatedly, and gives the results, which lie in the same memory each time; a tied
        one is its argument. Raises InputError for memory of a GPU, ExecutionError when out of memory."""
        if out:
            raise InputError(f"result {min(out)} cannot stay on a GPU: the program runs on the CPU")
        addresses = [address_of(array) for array in arrays]
        signature.check_overlap(arrays, addresses)
        results, result_addresses = self._make_results(signature, arrays, binding)
        buffers = type(weights.buffers).from_buffer_copy(weights.buffers)
        for spec, address in zip(signature.inputs, addresses, strict=True):
            buffers[spec.slot] = address
        for slot, address in result_addresses:
            buffers[slot] = address
        given = tuple(results)
        context, where, dims = self.context, ctypes.addressof(buffers), ctypes.addressof(binding.dims)

        def run() -> Sequence[np.ndarray]:
            with context.lock:
                code = main(context.handle, where, dims)
            if code:
                check_code(code, "running the program")
            return given

        run.owners = buffers, binding, weights, arrays  # of the addresses
        return run

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
