"""KV caches of a batch of sequences, and one forward pass that appends to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import ExecutionError, InputError

if TYPE_CHECKING:
    from deepseek.model import Model

__all__ = ["Session", "integers"]

_FIRST_CAPACITY = 128
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_NUMPY = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}  # what caches are made of


class Session:
    """The KV caches of `batch` sequences; `lengths` [batch] counts the positions they hold."""

    def __init__(self, model: Model, batch: int) -> None:
        self.model = model
        self.batch = batch
        self.capacity = 0
        self.lengths = np.zeros(batch, np.int32)
        arguments = (argument for argument in model.executable.manifest["main"]["args"] if argument["tied"])
        self._planes = [(argument["shape"][2], argument["shape"][4], argument["dtype"]) for argument in arguments]
        self._caches: list[np.ndarray] = []

    def reset(self) -> None:
        """Forgets the sequences, keeps the memory."""
        self.truncate(0)

    def truncate(self, length: int) -> None:
        """Forgets what each sequence holds beyond `length` positions."""
        self.lengths = np.minimum(self.lengths, np.int32(length))

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`."""
        length = self.lengths[source]
        for cache in self._caches:
            cache[target, :, :, :length] = cache[source, :, :, :length]
        self.lengths[target] = length

    def forward(self, ids: Any, lengths: Any = None, rows: range | None = None) -> np.ndarray:
        """Appends `ids` [rows, s]; logits f32 [rows, vocabulary] (all positions for an `all_logits` model).

        `rows`: which of the sequences, neighbours; default: all. `lengths` [rows] are the lengths afterwards; default:
        the present ones plus s. A smaller length goes back to an earlier position. Raises `InputError` for rows, ids
        or lengths out of range.
        """
        array = integers("ids", ids)
        model = self.model
        rows = range(self.batch) if rows is None else rows
        if not 0 <= rows.start < rows.stop <= self.batch or rows.step != 1:
            raise InputError(f"rows is {rows}, expected neighbours among the {self.batch} rows of the session")
        if array.ndim != 2 or array.shape[0] != len(rows) or not array.shape[1]:
            raise InputError(f"ids has shape {list(array.shape)}, expected [{len(rows)}, s] with s of at least 1")
        _check_range("token id", array, 0, model.vocabulary - 1)
        s = array.shape[1]
        held = self.lengths[rows.start : rows.stop]
        after = held + s if lengths is None else integers("lengths", lengths)
        if after.shape != (len(rows),):
            raise InputError(f"lengths has shape {list(after.shape)}, expected [{len(rows)}]")
        _check_range(f"length after {s} new positions", after, s, model.context)
        if lengths is not None and (over := after > held + s).any():
            row = int(over.argmax())
            raise InputError(
                f"length of row {rows[row]} is {after[row]}, expected at most {held[row]} held + {s} new positions"
            )
        self._reserve(int(after.max(initial=s)))
        after = np.ascontiguousarray(after, np.int32)
        caches = [cache[rows.start : rows.stop] for cache in self._caches]
        logits = model.executable(np.ascontiguousarray(array, np.int32), after, *caches)[0]
        self.lengths[rows.start : rows.stop] = after
        return logits

    def _reserve(self, positions: int) -> None:
        """Makes room; the capacity grows by powers of two, so that copying stays a constant share."""
        if positions <= self.capacity:
            return
        capacity = max(_FIRST_CAPACITY, 1 << (positions - 1).bit_length())
        capacity = min(capacity, self.model.context)
        held = int(self.lengths.max())
        try:
            for index, (heads, size, dtype) in enumerate(self._planes):
                grown = _aligned_zeros((self.batch, 2, heads, capacity, size), _NUMPY[dtype])
                if self.capacity:
                    grown[:, :, :, :held] = self._caches[index][:, :, :, :held]
                    self._caches[index] = grown  # one old cache at a time stays beside its copy
                else:
                    self._caches.append(grown)
        except BaseException as error:  # Ctrl-C too: caches of two sizes are of no use
            self._caches, self.capacity = [], 0
            self.reset()
            if not isinstance(error, MemoryError):
                raise
            raise ExecutionError(f"out of memory for a KV cache of {capacity} positions x {self.batch}") from None
        self.capacity = capacity


def integers(name: str, values: Any) -> np.ndarray:
    """`values` as an integer array; raises `InputError` for other types."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array if array.size else array.astype(np.int32)


def _check_range(name: str, array: np.ndarray, least: int, most: int) -> None:
    # Beyond it the machine code would read or write outside its buffers.
    if array.size and not (least <= (low := array.min()) and (high := array.max()) <= most):
        raise InputError(f"{name} is {low if low < least else high}, expected {least} to {most}")


def _aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros whose pages the operating system gives on first use."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)
