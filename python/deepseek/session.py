"""KV caches of a batch of sequences, and one forward pass that appends to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import ExecutionError, InputError
from deepseek.guard import caches_of
from deepseek.heap import trim_heap
from deepseek.sampling import Candidates

if TYPE_CHECKING:
    from deepseek.executable import Executable
    from deepseek.model import Model
    from deepseek.runtime import SaturationCounter

__all__ = ["Session", "integers"]

_FIRST_CAPACITY = 128
_TEMPERATURES = 1e-30, 1e30  # beyond, all tokens but the first weigh nothing, or all the same
_NUMPY = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}  # what caches are made of


class Session:
    """The KV caches of `batch` sequences; `lengths` [batch] counts the positions they hold."""

    def __init__(self, model: Model, batch: int) -> None:
        self.model = model
        self.batch = batch
        self.capacity = 0
        self.lengths = np.zeros(batch, np.int32)
        self._program = model.executable
        self._planes = _planes(self._program)
        self._ranks = _ranks(self._program)
        self._passes = 0
        self._caches: list[Any] = []  # arrays, or DeviceArrays that stay on the GPU
        self._logits: Any = None  # of the last pass, on a GPU
        self._step: _DecodeStep | None = None  # the last pass of one token
        self._counter: SaturationCounter | None = None  # of these caches

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches, used and not."""
        return sum(cache.nbytes for cache in self._caches)

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
            _copy_positions(cache[target : target + 1], cache[source : source + 1], int(length))
        self.lengths[target] = length

    def forward(self, ids: Any, lengths: Any = None, rows: range | None = None) -> np.ndarray:
        """Appends `ids` [rows, s]; logits f32 [rows, vocabulary] (all positions for an `all_logits` model).

        `rows`: which of the sequences, neighbours; default: all. `lengths` [rows] are the lengths afterwards; default:
        the present ones plus s. A smaller length goes back to an earlier position. Raises `InputError` for rows, ids
        or lengths out of range.
        """
        logits = self._append(ids, lengths, rows, 0.0)[0]
        return logits if isinstance(logits, np.ndarray) else logits.numpy()

    def step(
        self, ids: Any, lengths: Any = None, rows: range | None = None, temperature: float = 0.0
    ) -> list[Candidates]:
        """As `forward`, but what a sampler of that temperature chooses the next token of each row from.

        The logits of all tokens are there until the next pass of this session.
        """
        logits, *found = self._append(ids, lengths, rows, temperature, repeats=True)
        if not found:
            return [Candidates.of(own if own.ndim == 1 else own[-1]) for own in logits]
        number = self._passes

        def everything(row: int) -> np.ndarray:
            if number != self._passes:
                raise ExecutionError("the logits of an earlier step are gone, ask for them before the next one")
            return logits[row].copy() if isinstance(logits, np.ndarray) else logits[row : row + 1].numpy()[0]

        top_ids, top_logits, totals = found
        return [
            Candidates(own, top, total, partial(everything, row))
            for row, (own, top, total) in enumerate(zip(top_ids.copy(), top_logits.copy(), totals.tolist()))
        ]

    def _append(
        self, ids: Any, lengths: Any, rows: range | None, temperature: float, repeats: bool = False
    ) -> list[Any]:
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
        longest = _check_range(f"length after {s} new positions", after, s, model.context)
        if lengths is not None and (over := after > held + s).any():
            row = int(over.argmax())
            raise InputError(
                f"length of row {rows[row]} is {after[row]}, expected at most {held[row]} held + {s} new positions"
            )
        self._reserve(longest)
        results = self._run(array, after, rows, temperature, repeats)
        self.lengths[rows.start : rows.stop] = after
        return results

    def _run(self, ids: np.ndarray, after: np.ndarray, rows: range, temperature: float, repeats: bool) -> list[Any]:
        """One pass, and another one by a safer program where the guard asks for it: it writes the same positions.

        Logits, and of a program that looks for candidates: their ids, their logits, and the sum of all weights. They
        may lie where those of the next pass of one token do, if it `repeats` this one.
        """
        guard = self.model.guard
        self._passes += 1
        while True:
            if self._program is not self.model.executable:
                self._adopt(self.model.executable)
            results = self._pass(ids, after, rows, temperature, repeats)
            if guard is None:
                return results
            begins, ends = np.zeros((2, self.batch), np.int32)
            ends[rows.start : rows.stop] = after
            begins[rows.start : rows.stop] = after - np.int32(ids.shape[1])
            self._counter = self._counter or guard.watch(self._program, self._caches)
            # The greatest logits, where they are known: a NaN is the first of them, or infinity.
            seen = results[2] if self._ranks else results[0]
            if guard.admits(self._program, seen, self._counter, begins, ends):
                return results

    def _pass(self, ids: np.ndarray, after: np.ndarray, rows: range, temperature: float, repeats: bool) -> list[Any]:
        if repeats and self._ranks and ids.shape[1] == 1:
            step = self._step
            if step is None or step.rows != rows or not step.is_current:
                step = self._step = _DecodeStep(self._program, rows, self._views(rows), self._kept(rows))
            found = step(ids, after, temperature)
        else:
            at = (np.full(len(rows), _in_f32(temperature), np.float32),) if self._ranks else ()
            given = np.ascontiguousarray(ids, np.int32), np.ascontiguousarray(after, np.int32)
            found = self._program(*given, *self._views(rows), *at, out=self._kept(rows))
        return [found[0], *found[-3:]] if self._ranks else [found[0]]

    def _views(self, rows: range) -> list[Any]:
        return [cache[rows.start : rows.stop] for cache in self._caches]

    def _kept(self, rows: range) -> dict[int, Any] | None:
        """Where a GPU keeps the logits of those rows; other sessions of the program have theirs."""
        if not self._ranks or isinstance(self._caches[0], np.ndarray):
            return None
        if self._logits is None:
            self._logits = self._program.zeros((self.batch, self.model.vocabulary), np.dtype(np.float32))
        return {0: self._logits[rows.start : rows.stop]}

    def _adopt(self, program: Executable) -> None:
        """Goes on with another program, whose caches may be of other types."""
        self._program, self._planes, self._ranks = program, _planes(program), _ranks(program)
        if self.capacity:
            self._allocate(self.capacity)

    def _reserve(self, positions: int) -> None:
        """Makes room; the capacity grows by powers of two, so that copying stays a constant share."""
        if positions > self.capacity:
            capacity = max(_FIRST_CAPACITY, 1 << (positions - 1).bit_length())
            self._allocate(min(capacity, self.model.context))

    def _allocate(self, capacity: int) -> None:
        """Caches of `capacity` positions as the program has them, with what is held. Raises `ExecutionError`."""
        self._step = None  # it would keep the old ones
        held = int(self.lengths.max())
        try:
            for index, (heads, size, dtype) in enumerate(self._planes):
                made = self._program.zeros((self.batch, 2, heads, capacity, size), _NUMPY[dtype])
                if self.capacity:
                    _copy_positions(made, self._caches[index], held)
                    self._caches[index] = made  # one old cache at a time stays beside its copy
                else:
                    self._caches.append(made)
        except BaseException as error:  # Ctrl-C too: caches of two sizes are of no use
            self._caches, self.capacity = [], 0
            self.reset()
            if not isinstance(error, MemoryError) or isinstance(error, ExecutionError):  # one of a GPU has the numbers
                raise
            raise ExecutionError(f"out of memory for a KV cache of {capacity} positions x {self.batch}") from None
        grown, self.capacity, self._counter = self.capacity > 0, capacity, None
        if grown:
            trim_heap()  # the old caches are as large as all that follows


class _DecodeStep:
    """Passes of one token for the same rows, whose arguments and results stay where they are.

    To check the caches of each layer takes a twentieth of a small model's pass.
    """

    def __init__(self, program: Executable, rows: range, caches: list[Any], out: dict[int, Any] | None) -> None:
        self.rows = rows
        self._ids = np.zeros((len(rows), 1), np.int32)
        self._lengths = np.zeros(len(rows), np.int32)
        self._temperatures = np.zeros(len(rows), np.float32)
        self._run = program.prepare(self._ids, self._lengths, *caches, self._temperatures, out=out)

    @property
    def is_current(self) -> bool:
        """Whether the program has no other weights since."""
        return self._run.is_current

    def __call__(self, ids: np.ndarray, lengths: np.ndarray, temperature: float) -> Sequence[Any]:
        self._ids[:] = ids
        self._lengths[:] = lengths
        self._temperatures.fill(_in_f32(temperature))
        return self._run()


def _in_f32(temperature: float) -> float:
    return min(max(temperature, _TEMPERATURES[0]), _TEMPERATURES[1]) if temperature else 1.0


def _ranks(program: Executable) -> bool:
    """Whether a program looks for candidates: it takes a temperature."""
    return any(argument.get("name") == "temperature" for argument in program.manifest["main"]["args"])


def _planes(program: Executable) -> list[tuple[int, int, str]]:
    """(heads, size of a head, dtype) of each cache."""
    return [(cache["shape"][2], cache["shape"][4], cache["dtype"]) for cache in caches_of(program.manifest)]


def integers(name: str, values: Any) -> np.ndarray:
    """`values` as an integer array; raises `InputError` for other types."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array if array.size else array.astype(np.int32)


def _check_range(name: str, array: np.ndarray, least: int, most: int) -> int:
    """The greatest of some numbers. Beyond the range the machine code would read or write outside its buffers."""
    values = array.ravel().tolist()  # of few, which is the usual case, a list is several times as fast as numpy
    low, high = min(values), max(values)
    if low < least or high > most:
        raise InputError(f"{name} is {low if low < least else high}, expected {least} to {most}")
    return high


def _copy_positions(target: Any, source: Any, count: int) -> None:
    """The first `count` positions of caches [rows, 2, heads, positions, size]."""
    if isinstance(target, np.ndarray):
        target[:, :, :, :count] = source[:, :, :, :count]
    else:
        target.copy_positions(source, count)
