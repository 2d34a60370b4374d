"""Runs PTX without a GPU: every register is an array over the threads of a batch of blocks.

Threads that stand at the smallest program counter run next, together, so that what diverged meets again. Copies arrive
as late as they may (cp.async when they are waited for, TMA when its barrier is, wgmma at its wait), so that a missing
wait reads what was there before; shared memory begins as NaN. A launch in which no thread can go on is an error.
Arithmetic is numpy's: fma and matrix products are computed in f64 and rounded once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .flow import meeting_points
from .memory import LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Memory, TensorMap
from .parser import Program, PtxError, immediate, parse

__all__ = ["Kernel", "PtxError", "TensorMap"]

_CLASSES = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "f32": np.uint32, "f64": np.uint64}
_BATCH_THREADS = 1 << 14
_WARP = 32


class Kernel:
    """One entry point of a PTX text."""

    def __init__(self, text: str) -> None:
        from .instructions import decode

        self.program = parse(text)
        self._code = [decode(instruction, self.program) for instruction in self.program.instructions]
        self._meets = meeting_points(self.program)

    def launch(
        self, grid: int, parameters: Sequence[object], shared_bytes: int = 0, memory: Memory | None = None
    ) -> None:
        """Runs `grid` blocks. Parameters are arrays (buffers, written in place), numbers and `TensorMap`s; numbers may
        be addresses in `memory` (default: the arrays)."""
        memory = memory or Memory([p for p in parameters if isinstance(p, np.ndarray)])
        code, meets = self._code, self._meets
        per_batch = max(1, _BATCH_THREADS // self.program.threads)
        for begin in range(0, grid, per_batch):
            blocks = np.arange(begin, min(grid, begin + per_batch))
            Batch(self.program, code, meets, memory, parameters, blocks, grid, shared_bytes).run()


class Batch:
    """Some blocks of a launch, which run at the same time."""

    def __init__(
        self, program: Program, code, meets, memory: Memory, parameters, blocks, grid: int, shared_bytes: int
    ) -> None:
        self.program, self.code, self.meets, self.memory, self.grid = program, code, meets, memory, grid
        self.threads = program.threads
        self.blocks = blocks
        self.count = blocks.size * self.threads
        self.thread = np.tile(np.arange(self.threads, dtype=np.uint32), blocks.size)
        self.block = np.repeat(np.arange(blocks.size), self.threads)
        self.registers: dict[str, np.ndarray] = {}
        self.symbols: dict[str, int] = {}
        self.maps: dict[int, TensorMap] = {}
        self._place_variables(shared_bytes)
        self._bind(parameters)
        self.groups: dict[int, np.ndarray] = {0: np.arange(self.count)}
        self.ended = np.zeros(self.count, bool)
        self.parked: dict[tuple, list] = {}  # (block, barrier) -> [(pc, threads)]
        self.arrived: dict[tuple, int] = {}
        self.barriers: dict[int, object] = {}
        self.pending_copies: list = []  # of cp.async
        self.committed = np.zeros(self.count, np.int64)
        self.pending_products: list = []  # of wgmma
        self.apart: dict[int, list] = {}  # warp -> [where it meets, threads still missing, threads that wait]
        self.points = set(meets.values())

    def _place_variables(self, shared_bytes: int) -> None:
        shared, local = 0, 0
        dynamic = []
        for name, variable in self.program.variables.items():
            if variable.space == "shared" and variable.size:
                shared = -(-shared // variable.align) * variable.align
                self.symbols[name] = shared
                shared += variable.size
            elif variable.space == "shared":
                dynamic.append(name)
            elif variable.space == "local":
                local = -(-local // variable.align) * variable.align
                self.symbols[name] = LOCAL_WINDOW + local
                local += variable.size
            else:
                constants = np.empty(variable.size + 16, np.uint8)
                constants = constants[-constants.ctypes.data % 16 :][: variable.size]
                constants[:] = np.frombuffer(variable.data or bytes(variable.size), np.uint8)
                self.symbols[name] = self.memory.add(constants)
        shared = -(-shared // 1024) * 1024
        for name in dynamic:
            self.symbols[name] = shared
        self.shared = np.full((self.blocks.size, shared + shared_bytes + 16), 0xFF, np.uint8)
        self.shared_size = shared + shared_bytes
        self.local = np.zeros((self.count, local), np.uint8)

    def _bind(self, parameters) -> None:
        self.parameters: dict[str, int] = {}
        if len(parameters) != len(self.program.parameters):
            raise PtxError(
                f"{self.program.name} takes {len(self.program.parameters)} parameters, got {len(parameters)}"
            )
        for number, ((name, _, _), value) in enumerate(zip(self.program.parameters, parameters)):
            if isinstance(value, TensorMap):
                address = PARAM_WINDOW + number * 128
                self.maps[address] = value
                self.symbols[name] = address
                continue
            if isinstance(value, np.ndarray):
                value = value.ctypes.data
            self.parameters[name] = int(value)

    # Registers and operands.

    def register(self, name: str) -> np.ndarray:
        found = self.registers.get(name)
        if found is None:
            kinds = self.program.registers
            kind = kinds.get(name) or kinds.get(name.rstrip("0123456789"))
            if kind is None:
                raise PtxError(f"unknown register {name}")
            found = self.registers[name] = np.zeros(self.count, _CLASSES[kind])
        return found

    def special(self, name: str, at: np.ndarray) -> np.ndarray:
        values = {
            "%tid.x": lambda: self.thread[at],
            "%ctaid.x": lambda: self.blocks[self.block[at]].astype(np.uint32),
            "%ntid.x": lambda: np.full(at.size, self.threads, np.uint32),
            "%nctaid.x": lambda: np.full(at.size, self.grid, np.uint32),
            "%laneid": lambda: self.thread[at] % 32,
        }
        if name in values:
            return values[name]()
        if name.startswith(("%tid.", "%ctaid.")):
            return np.zeros(at.size, np.uint32)
        return np.ones(at.size, np.uint32)

    def value(self, operand: str, at: np.ndarray, dtype) -> np.ndarray:
        """An operand for the threads `at`, its low bits seen as `dtype`."""
        dtype = np.dtype(dtype)
        if operand.startswith("%") or operand in self.program.registers:
            if "." in operand or operand == "%laneid":
                raw = self.special(operand, at)
            else:
                raw = self.register(operand)[at]
            return _reinterpret(raw, dtype)
        number = immediate(operand)
        if number is None:
            if operand not in self.symbols:
                raise PtxError(f"unknown operand {operand}")
            number = self.symbols[operand]
        bits = number % (1 << 8 * dtype.itemsize) if dtype != np.bool_ else number
        raw = np.array([bits], np.dtype(f"u{dtype.itemsize}") if dtype != np.bool_ else np.bool_).view(dtype)
        return np.broadcast_to(raw, at.shape)

    def set(self, operand: str, at: np.ndarray, values: np.ndarray) -> None:
        if operand == "_":
            return
        target = self.register(operand)
        if target.dtype == np.bool_:
            target[at] = values
            return
        values = np.ascontiguousarray(values)
        raw = values.view(np.dtype(f"u{values.dtype.itemsize}")) if values.dtype != np.bool_ else values
        target[at] = raw.astype(target.dtype)

    # Running.

    def run(self) -> None:
        while self.groups:
            pc = min(self.groups)
            at = self.groups.pop(pc)
            instruction = self.program.instructions[pc]
            try:
                self._step(pc, at, instruction)
            except PtxError as error:
                raise PtxError(f"{self.program.name} line {instruction.line}: {instruction.text}: {error}") from None
        if not self.ended.all():
            places = sorted({pc for waits in self.parked.values() for pc, _ in waits})
            lines = ", ".join(f"line {self.program.instructions[pc].line}" for pc in places)
            raise PtxError(f"{self.program.name}: deadlock, threads wait for ever at {lines}")

    def _step(self, pc: int, at: np.ndarray, instruction) -> None:
        if instruction.guard is not None:
            name, negated = instruction.guard
            chosen = self.register(name)[at] != negated
            skipped, at = at[~chosen], at[chosen]
            if skipped.size and at.size and instruction.name[0] == "bra":
                self._part(pc, at, skipped)
            if skipped.size:
                self.go(pc + 1, skipped)
            if not at.size:
                return
        if self.code[pc](self, at, pc) is None:
            self.go(pc + 1, at)

    def _part(self, pc: int, taken: np.ndarray, skipped: np.ndarray) -> None:
        """Warps whose threads go both ways meet again."""
        meet = self.meets.get(pc)
        if meet is None:
            return
        both = np.intersect1d(taken // _WARP, skipped // _WARP)
        counts = np.bincount(np.concatenate([taken, skipped]) // _WARP, minlength=self.count // _WARP + 1)
        for warp in both.tolist():
            self.apart.setdefault(warp, []).append([meet, int(counts[warp]), []])

    def go(self, pc: int, at: np.ndarray) -> None:
        """Lets threads go on at `pc`, those of a warp that is to meet there once all have come."""
        if pc in self.points and self.apart:
            at = self._meet(pc, at)
            if not at.size:
                return
        other = self.groups.get(pc)
        self.groups[pc] = at if other is None else np.sort(np.concatenate([other, at]))

    def _meet(self, pc: int, at: np.ndarray) -> np.ndarray:
        warps = at // _WARP
        free = np.ones(at.size, bool)
        released = []
        for warp in np.unique(warps).tolist():
            stack = self.apart.get(warp)
            if not stack or stack[-1][0] != pc:
                continue
            mine = warps == warp
            free &= ~mine
            threads = at[mine]
            while stack and stack[-1][0] == pc:
                entry = stack[-1]
                entry[1] -= threads.size
                entry[2].append(threads)
                threads = threads[:0]
                if entry[1] > 0:
                    break
                threads = np.concatenate(entry[2])
                stack.pop()
            if not stack:
                del self.apart[warp]
            released.append(threads)
        return np.sort(np.concatenate([at[free], *released])) if released else at

    def end(self, at: np.ndarray) -> None:
        self.ended[at] = True
        for thread in at[np.isin(at // _WARP, list(self.apart))] if self.apart else []:
            for entry in self.apart[int(thread) // _WARP]:
                entry[1] -= 1
        for key in [key for key in self.arrived if key[1] == "bar"]:
            self._release(key)

    def barrier(self, pc: int, at: np.ndarray, number: int, count: int | None) -> None:
        """bar.sync: threads wait until as many of their block have come."""
        blocks = self.block[at]
        for block in np.unique(blocks):
            key = (int(block), "bar", number, count)
            mine = at[blocks == block]
            self.parked.setdefault(key, []).append((pc, mine))
            self.arrived[key] = self.arrived.get(key, 0) + mine.size
            self._release(key)

    def _release(self, key: tuple) -> None:
        block, _, _, count = key
        alive = slice(block * self.threads, (block + 1) * self.threads)
        needed = count if count is not None else int((~self.ended[alive]).sum())
        if self.arrived.get(key, 0) < needed or not self.arrived.get(key):
            return
        for pc, threads in self.parked.pop(key, []):
            self.go(pc + 1, threads)
        del self.arrived[key]

    # Memory.

    def load(self, space: str, address: np.ndarray, size: int, align: int, at: np.ndarray) -> np.ndarray:
        """[threads, size] bytes."""
        space = self._space(space, address)
        lanes = np.arange(size)
        if space == "shared":
            offset = self._shared_offset(address, size, align)
            return self.shared[self.block[at][:, None], offset[:, None] + lanes]
        if space == "local":
            return self.local[at[:, None], (address % LOCAL_WINDOW).astype(np.int64)[:, None] + lanes]
        return self.memory.load(address, size, align)

    def store(self, space: str, address: np.ndarray, values: np.ndarray, align: int, at: np.ndarray) -> None:
        space = self._space(space, address)
        lanes = np.arange(values.shape[1])
        if space == "shared":
            offset = self._shared_offset(address, values.shape[1], align)
            self.shared[self.block[at][:, None], offset[:, None] + lanes] = values
        elif space == "local":
            self.local[at[:, None], (address % LOCAL_WINDOW).astype(np.int64)[:, None] + lanes] = values
        else:
            self.memory.store(address, values, align)

    @staticmethod
    def _space(space: str, address: np.ndarray) -> str:
        if space:
            return space
        first = int(address.flat[0])
        return "shared" if SHARED_WINDOW <= first < LOCAL_WINDOW else "local" if first >= LOCAL_WINDOW else "global"

    def _shared_offset(self, address: np.ndarray, size: int, align: int) -> np.ndarray:
        offset = (address % SHARED_WINDOW).astype(np.int64)
        if (offset % align).any():
            raise PtxError(f"access of {align} bytes at an address that is no multiple of them")
        if (offset + size > self.shared_size).any():
            raise PtxError(f"byte {int(offset.max())} of {self.shared_size} of shared memory")
        return offset


def _reinterpret(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if raw.dtype == dtype:
        return raw
    if dtype == np.bool_ or raw.dtype == np.bool_:
        return raw.astype(dtype)
    if raw.dtype.itemsize != dtype.itemsize:
        raw = raw.astype(np.dtype(f"u{dtype.itemsize}"))
    return raw.view(dtype)
