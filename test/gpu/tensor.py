"""What threads of a warp or block do together: shuffles, matrix instructions, asynchronous copies, barriers in memory.

Layouts are those of the PTX ISA 8.x: "Matrix Fragments for mma.m16n8k16", "ldmatrix", "Register Fragments and Shared
Memory Matrix Layouts" of wgmma with their matrix descriptors, "cp.async.bulk.tensor" and "mbarrier".
"""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np

from .memory import Barrier, read_box, swizzle
from .parser import PtxError, immediate

_FACTORS = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}
_WARP = 32


def _names(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{}").split(",")]


def _whole(at: np.ndarray, threads: int, what: str) -> np.ndarray:
    """[groups, threads]: all threads of each group must take part."""
    if (
        at.size % threads
        or (at.reshape(-1, threads)[:, 0] % threads).any()
        or (np.diff(at.reshape(-1, threads)) != 1).any()
    ):
        raise PtxError(f"{what} without all {threads} threads of a group")
    return at.reshape(-1, threads)


def _shfl(name, operands):
    mode = name[2]
    target = operands[0].split("|")[0]

    def run(batch, at, pc):
        warps = _whole(at, _WARP, "shfl")
        values = batch.value(operands[1], at, np.uint32).reshape(warps.shape)
        amount = batch.value(operands[2], at, np.uint32).reshape(warps.shape).astype(int)
        lanes = np.arange(_WARP)[None, :]
        source = {"bfly": lanes ^ amount, "idx": amount, "up": lanes - amount, "down": lanes + amount}[mode]
        source = np.where((source < 0) | (source >= _WARP), lanes, source) + np.zeros_like(amount)
        batch.set(target, at, np.take_along_axis(values, source, 1).reshape(-1))

    return run


def _ldmatrix(name, operands):
    count = {"x1": 1, "x2": 2, "x4": 4}[next(part for part in name if part in ("x1", "x2", "x4"))]
    transposed = "trans" in name
    targets = _names(operands[0])

    def run(batch, at, pc):
        from .instructions import address

        warps = _whole(at, _WARP, "ldmatrix")
        places = address(batch, operands[1], at).reshape(warps.shape)
        for i, target in enumerate(targets[:count]):
            rows = places[:, 8 * i : 8 * i + 8]
            blocks = np.repeat(warps[:, :1], 8, axis=1)
            data = batch.load("shared", rows.reshape(-1), 16, 16, blocks.reshape(-1))
            matrix = np.ascontiguousarray(data).view(np.uint16).reshape(-1, 8, 8)
            if transposed:
                matrix = matrix.transpose(0, 2, 1)
            batch.set(target, at, np.ascontiguousarray(matrix).view(np.uint32).reshape(-1))

    return run


def _pairs(batch, registers, at, shape, dtype):
    """[groups, threads, registers, 2] elements."""
    words = np.stack([batch.value(register, at, np.uint32) for register in registers], axis=1)
    return np.ascontiguousarray(words).view(dtype).reshape(*shape, len(registers), 2).astype(np.float64)


def _mma(name, operands):
    if "m16n8k16" not in name:
        raise PtxError(f"unknown shape of {'.'.join(name)}")
    dtype = _FACTORS[name[-3]]
    d, a, b, c = (_names(operand) for operand in operands)
    lane = np.arange(_WARP)
    group, member = lane // 4, lane % 4

    def run(batch, at, pc):
        warps = _whole(at, _WARP, "mma")
        left, right = _pairs(batch, a, at, warps.shape, dtype), _pairs(batch, b, at, warps.shape, dtype)
        rows, columns = np.zeros((len(warps), 16, 16)), np.zeros((len(warps), 16, 8))
        for i in range(4):
            for e in range(2):
                rows[:, group + 8 * (i % 2), member * 2 + e + 8 * (i // 2)] = left[:, :, i, e]
        for i in range(2):
            for e in range(2):
                columns[:, member * 2 + e + 8 * i, group] = right[:, :, i, e]
        product = rows @ columns
        for i in range(4):
            before = batch.value(c[i], at, np.float32).reshape(warps.shape)
            sums = before + product[:, group + 8 * (i // 2), member * 2 + i % 2]
            batch.set(d[i], at, sums.astype(np.float32).reshape(-1))

    return run


# Copies by threads.


def _cp(name, operands):
    if name[1] == "async" and name[2] == "bulk":
        return _bulk(name, operands)
    if name[2] == "commit_group":

        def run(batch, at, pc):
            batch.committed[at] += 1

        return run
    if name[2] in ("wait_group", "wait_all"):
        left = immediate(operands[0]) if operands else 0

        def run(batch, at, pc):
            waiting = np.zeros(batch.count, bool)
            waiting[at] = True
            kept = []
            for threads, number, target, data in batch.pending_copies:
                done = waiting[threads] & (number < batch.committed[threads] - left)
                if done.any():
                    batch.store("shared", target[done], data[done], data.shape[1], threads[done])
                if not done.all():
                    kept.append((threads[~done], number[~done], target[~done], data[~done]))
            batch.pending_copies = kept

        return run

    def run(batch, at, pc):
        from .instructions import address

        size = immediate(operands[2])
        target, source = address(batch, operands[0], at), address(batch, operands[1], at)
        count = batch.value(operands[3], at, np.uint32) if len(operands) > 3 else np.full(at.size, size, np.uint32)
        data = np.zeros((at.size, size), np.uint8)
        reads = count > 0
        if ((count != 0) & (count != size)).any():
            raise PtxError("cp.async of a part of its bytes")
        if reads.any():
            data[reads] = batch.load("global", source[reads], size, size, at[reads])
        batch.pending_copies.append((at, batch.committed[at].copy(), target, data))

    return run


# Barriers in shared memory, and TMA.


def _barrier(batch, place: int) -> Barrier:
    found = batch.barriers.get(place)
    if found is None:
        zeros = [np.zeros(batch.blocks.size, np.int64) for _ in range(4)]
        found = batch.barriers[place] = Barrier(*zeros)
    return found


def _complete(batch, place: int, block: int) -> None:
    """Turns the phase over when all have arrived, with their bytes; wakes who waits for it."""
    barrier = _barrier(batch, place)
    if barrier.pending[block] or barrier.bytes[block] or not barrier.count[block]:
        return
    barrier.phase[block] += 1
    barrier.pending[block] = barrier.count[block]
    for pc, threads in batch.parked.pop((block, "mbarrier", place), []):
        batch.go(pc, threads)


def _mbarrier(name, operands):
    kind = name[1]

    def places(batch, at, operand):
        from .instructions import address

        return (address(batch, operand, at) & np.uint64((1 << 60) - 1)).astype(np.int64)

    def init(batch, at, pc):
        counts = batch.value(operands[1], at, np.uint32)
        for place, block, count in zip(places(batch, at, operands[0]), batch.block[at], counts):
            barrier = _barrier(batch, int(place))
            barrier.count[block] = barrier.pending[block] = count
            barrier.phase[block] = barrier.bytes[block] = 0

    def arrive(batch, at, pc):
        expects = "expect_tx" in name
        operand = operands[1]
        sizes = batch.value(operands[2], at, np.uint32) if expects else np.zeros(at.size, np.uint32)
        for place, block, size in zip(places(batch, at, operand), batch.block[at], sizes):
            barrier = _barrier(batch, int(place))
            if barrier.pending[block] <= 0:
                raise PtxError("more arrivals at a barrier than it counts")
            barrier.pending[block] -= 1
            barrier.bytes[block] += int(size)
            _complete(batch, int(place), int(block))

    def wait(batch, at, pc):
        parity = batch.value(operands[2], at, np.uint32)
        where, blocks = places(batch, at, operands[1]), batch.block[at]
        done = np.zeros(at.size, bool)
        for place, block in {(int(p), int(b)) for p, b in zip(where, blocks)}:
            barrier = _barrier(batch, place)
            chosen = (where == place) & (blocks == block)
            if ((barrier.phase[block] & 1) == parity[chosen]).any():
                arrived = [action for b, action in barrier.copies if b == block]
                barrier.copies = [(b, action) for b, action in barrier.copies if b != block]
                for action in arrived:
                    action()
            done[chosen] = (barrier.phase[block] & 1) != parity[chosen]
            if not done[chosen].all():
                batch.parked.setdefault((block, "mbarrier", place), []).append((pc, at[chosen & ~done]))
        batch.set(operands[0], at[done], np.ones(int(done.sum()), bool))
        batch.go(pc + 1, at[done]) if done.any() else None
        return True

    if kind == "init":
        return init
    if kind == "arrive":
        return arrive
    if kind in ("try_wait", "test_wait"):
        if "parity" not in name:
            raise PtxError("only barriers waited for by parity are known")
        return wait
    raise PtxError(f"unknown instruction {'.'.join(name)}")


def _bulk(name, operands):
    if not (name[3] == "tensor" and name[5].startswith("shared::cluster")):
        raise PtxError(f"unknown instruction {'.'.join(name)}")
    map_name, coordinates = re.match(r"\[\s*([^,\s]+)\s*,\s*\{(.*?)\}\s*\]", operands[1]).groups()
    coordinates = [part.strip() for part in coordinates.split(",")]

    def run(batch, at, pc):
        from .instructions import address

        targets, bars = address(batch, operands[0], at), address(batch, operands[2], at)
        handles = batch.value(map_name, at, np.uint64)
        positions = np.stack([batch.value(part, at, np.int32) for part in coordinates], axis=1)
        for i, block in enumerate(batch.block[at]):
            map_ = batch.maps.get(int(handles[i]))
            if map_ is None:
                raise PtxError("a tensor map that is no parameter")
            place = int(bars[i]) & (1 << 60) - 1
            target = int(targets[i]) & (1 << 60) - 1
            if target % 128:
                raise PtxError("TMA to an address that is no multiple of 128")
            data = read_box(map_, [int(p) for p in positions[i]])
            _barrier(batch, place).copies.append((int(block), _arrival(batch, int(block), place, target, data, map_)))

    return run


def _arrival(batch, block: int, place: int, target: int, data: np.ndarray, map_):
    def action():
        offset = swizzle(target + np.arange(data.size), map_.swizzle)
        batch.shared[block, offset] = data
        barrier = _barrier(batch, place)
        barrier.bytes[block] -= data.size
        _complete(batch, place, block)

    return action


# wgmma.


def _matrix(batch, block: int, descriptor: int, lines: int, dtype, transposed: bool) -> np.ndarray:
    """[lines, 16] in shared memory, under a swizzle: lines are rows of the swizzle's width, eight of them `stride` bytes
    apart. Transposed, a row holds an element of many lines: `leading` bytes lie between as many as fill a row, `stride`
    between eight elements along the reduction."""
    start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    width = {1: 128, 2: 64, 3: 32}.get(descriptor >> 62 & 3)
    if width is None:
        raise PtxError("a matrix descriptor without swizzle is not known")
    line, k = np.arange(lines)[:, None], np.arange(16)[None, :]
    if transposed:
        per_row = width // 2
        linear = start + line // per_row * leading + line % per_row * 2 + k // 8 * stride + k % 8 * width
    else:
        linear = start + line // 8 * stride + line % 8 * width + k * 2
    data = batch.shared[block][swizzle(linear[:, :, None], width) + np.arange(2)]
    return np.ascontiguousarray(data).view(dtype).reshape(lines, 16).astype(np.float64)


def _wgmma(name, operands):
    if name[1] in ("fence", "commit_group"):
        return lambda batch, at, pc: None
    if name[1] == "wait_group":
        if immediate(operands[0]):
            raise PtxError("only wgmma.wait_group 0 is known")

        def run(batch, at, pc):
            groups = _whole(at, 128, "wgmma.wait_group")
            waiting = set(groups[:, 0].tolist())
            kept = []
            for group, action in batch.pending_products:
                action() if group in waiting else kept.append((group, action))
            batch.pending_products = kept

        return run
    shape = next(part for part in name if part.startswith("m64"))
    columns = int(re.fullmatch(r"m64n(\d+)k16", shape).group(1))
    dtype = _FACTORS[name[-1]]
    registers = _names(operands[0])
    left_registers = _names(operands[1]) if operands[1].startswith("{") else None
    numbers = [immediate(operand) for operand in operands[4:]]
    if numbers[:2] != [1, 1] or (left_registers is None and numbers[2]):
        raise PtxError("only wgmma without negation, and with the left side along its rows, is known")
    transposed = bool(numbers[-1])
    thread = np.arange(128)
    row, member = thread // 32 * 16 + thread % 32 // 4, thread % 4

    def run(batch, at, pc):
        groups = _whole(at, 128, "wgmma")
        keep = bool(batch.value(operands[3], at, np.bool_)[0])
        descriptors = [None if left_registers else operands[1], operands[2]]
        values = [d and batch.value(d, at, np.uint64).reshape(groups.shape) for d in descriptors]
        for i, group in enumerate(groups):
            same = [value is None or (value[i] == value[i, 0]).all() for value in values]
            if not all(same):
                raise PtxError("descriptors differ within a warpgroup")
            a, b = (None if value is None else int(value[i, 0]) for value in values)
            batch.pending_products.append((int(group[0]), _product(batch, group, a, b, keep)))

    def _left(batch, group):
        words = _pairs(batch, left_registers, group, (128,), dtype)
        matrix = np.zeros((64, 16))
        for i in range(4):
            for e in range(2):
                matrix[row + 8 * (i % 2), member * 2 + e + 8 * (i // 2)] = words[:, i, e]
        return matrix

    def _product(batch, group, a, b, keep):
        def action():
            block = int(batch.block[group[0]])
            left = _left(batch, group) if a is None else _matrix(batch, block, a, 64, dtype, False)
            product = left @ _matrix(batch, block, b, columns, dtype, transposed).T
            for i, register in enumerate(registers):
                part = product[row + i % 4 // 2 * 8, i // 4 * 8 + member * 2 + i % 2]
                before = batch.value(register, group, np.float32) if keep else 0
                batch.set(register, group, (before + part).astype(np.float32))

        return action

    return run


ACTIONS = {"shfl": _shfl, "ldmatrix": _ldmatrix, "mma": _mma, "cp": _cp, "mbarrier": _mbarrier, "wgmma": _wgmma}
