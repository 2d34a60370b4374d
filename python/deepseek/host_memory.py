"""How programs of a CPU get their arguments: callers' arrays as they are, results in memory that is used again."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deepseek.buffers import ResultPool, address_of, aligned_parts, aligned_zeros, mapped_files
from deepseek.errors import ExecutionError, InputError
from deepseek.runtime import Context
from deepseek.signature import Call, Entry, Held, Input

__all__ = ["HostMemory"]

_SMALL = 64 << 10  # bytes


class HostMemory:
    """What one program on `threads` threads works in."""

    kinds: tuple[type, ...] = ()  # of arguments, beside numpy's arrays
    context: Context

    def __init__(self, threads: int | None) -> None:
        self.context = Context.default(threads)
        self._pool = ResultPool()
        self._entered: weakref.ref[Held] | None = None  # held arguments whose addresses the buffers have

    @staticmethod
    def address(array: np.ndarray) -> int:
        """Where the first element lies."""
        return address_of(array)

    @staticmethod
    def held_address(_: Input, array: np.ndarray) -> int:
        """As `address`; of an argument to be held."""
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

    def run(self, main: Entry, buffers: ctypes.Array, call: Call, out: Mapping[int, object]) -> list[np.ndarray]:
        """Run dsc_main; the results, a tied one being its argument. Raises InputError for memory of a GPU."""
        if out:
            raise InputError(f"result {min(out)} cannot stay on a GPU: the program runs on the CPU")
        addresses = [address_of(array) for array in call.arrays]
        call.check_overlap(addresses)
        results, result_addresses = self._make_results(call)
        with self.context.lock:
            self._enter(call.held, buffers)
            for spec, address in zip(call.form.inputs, addresses, strict=True):
                buffers[spec.slot] = address
            for slot, address in result_addresses:
                buffers[slot] = address
            code = main(self.context.handle, ctypes.addressof(buffers), ctypes.addressof(call.binding.dims))
        if code:
            check_code(code, "running the program")
        return results

    def _enter(self, held: Held | None, buffers: ctypes.Array) -> None:
        """Brings held arguments to the buffers, unless the last call left them there."""
        if held is None:
            self._entered = None
        elif self._entered is None or self._entered() is not held:
            for slot, address in held.slots:
                buffers[slot] = address
            self._entered = weakref.ref(held)

    def _make_results(self, call: Call) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        specs = list(zip(call.form.results, call.binding.shapes, strict=True))
        try:
            made = iter(self._pool.empty([(shape, result.dtype) for result, shape in specs if not result.tied]))
        except (MemoryError, ValueError) as error:
            sizes = ", ".join(f"{shape} {result.dtype}" for result, shape in specs if not result.tied)
            raise ExecutionError(f"out of memory for results: {sizes}") from error
        results, addresses = [], []
        for result, _ in specs:
            if result.tied:
                results.append(call.arrays[result.slot])
                continue
            array, address = next(made)
            results.append(array)
            addresses.append((result.slot, address))
        return results, addresses


def check_code(code: int, action: str) -> None:
    """Raises ExecutionError for what a function of a program returned, unless it is 0."""
    if code == 1:
        raise ExecutionError(f"out of memory while {action}")
    if code:
        raise ExecutionError(f"{action} failed with code {code}")
