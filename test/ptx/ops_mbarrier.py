"""mbarrier objects (PTX ISA, 'Parallel Synchronization: mbarrier').

The object's 64 bits are opaque, so its state is kept beside shared memory, by block and address. A wait for a phase
that is not over takes its threads out of the run queue until the phase ends; only where nobody else can run does it
return false, as the ISA allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decode import Control, op
from .errors import PtxError, Unsupported
from .memory import CLUSTER_RANK, SHARED_START
from .syntax import Imm, Sym

LIMIT = (1 << 20) - 1  # of counts, PTX ISA, 'mbarrier: Contents'


@dataclass
class MBarrier:
    """Counts of one barrier: arrivals that a phase takes and still misses, bytes on the way, phases that are over."""

    expected: int
    pending: int
    bytes: int = 0
    phase: int = 0

    def __str__(self) -> str:
        return f"phase {self.phase}, {self.pending} of {self.expected} arrivals and {self.bytes} bytes missing"

    def settle(self) -> bool:
        if self.pending or self.bytes:
            return False
        self.phase += 1
        self.pending = self.expected
        return True


def groups(m, sel, address: np.ndarray):
    """(key, ids, positions in sel) for each barrier that these threads name, of their block or of their cluster."""
    ids = m.ids[sel]
    address = address & ((1 << 60) - 1)
    rank, block = address >> CLUSTER_RANK, m.block_of[ids]
    address = address & ((1 << CLUSTER_RANK) - 1)
    block = np.where(rank > 0, block - m.rank[block] + rank - 1, block)
    m.check(sel, address, 8, SHARED_START, m.shared_end, "shared memory")
    keys = block * (1 << 24) + address
    if len(keys) == 1 or keys.min() == keys.max():
        yield (int(block[0]), int(address[0])), ids, slice(None)
        return
    for key in np.unique(keys).tolist():
        here = np.flatnonzero(keys == key)
        yield (key >> 24, key & ((1 << 24) - 1)), ids[here], here


def find(m, key) -> MBarrier:
    barrier = m.barriers.get(key)
    if barrier is None:
        raise PtxError(f"no mbarrier was initialised at {key[1]:#x} (block {int(m.blocks[key[0]])})")
    return barrier


def settle(m, key) -> None:
    """Ends the phase if nothing is missing, and wakes who waits for that."""
    m.events += 1
    if not m.barriers[key].settle():
        return
    if m.races is not None:
        m.races.phase_over(key)
    for ids, pc, _ in m.waiting.pop(key, ()):
        m.resume(ids, pc)


def complete_bytes(m, key, count: int) -> None:
    find(m, key).bytes -= count
    settle(m, key)


def arrive(m, key, ids: np.ndarray, count: int, expect: int = 0) -> int:
    """Arrivals of some threads; returns the phase that they arrived at."""
    barrier = find(m, key)
    if not m.alive[key[0]]:
        raise PtxError(f"mbarrier {key[1]:#x} lies in a block that has ended")
    phase = barrier.phase
    barrier.bytes += expect
    if count > barrier.pending:
        raise PtxError(f"mbarrier {key[1]:#x} gets {count} arrivals, but {barrier}")
    if m.races is not None:
        m.races.arrived(key, ids)
    barrier.pending -= count
    settle(m, key)
    return phase


@op("mbarrier")
def mbarrier(d, ins):
    action = next(m for m in ins.mods if m in DECODERS)
    return DECODERS[action](d, ins)


def number(d, operand):
    """A count operand as a function of the machine."""
    if isinstance(operand, Imm):
        value = int(operand.value)
        return lambda m, sel: np.broadcast_to(np.int64(value), len(m.ids[sel]))
    slot = d.src(operand, "u32")
    return lambda m, sel: m.V[slot][sel].astype(np.int64)


def init(d, ins):
    base, offset = d.address(ins.operands[0])
    count = number(d, ins.operands[1])

    def run(m, sel):
        values = count(m, sel)
        for key, ids, here in groups(m, sel, m.V[base][sel].astype(np.int64) + offset):
            expected = int(values[here][0])
            if not 1 <= expected <= LIMIT:
                raise PtxError(f"an mbarrier for {expected} arrivals")
            m.barriers[key] = MBarrier(expected, expected)
            if m.races is not None:
                m.races.new_barrier(key, ids)

    return run


def inval(d, ins):
    base, offset = d.address(ins.operands[0])

    def run(m, sel):
        for key, _, _ in groups(m, sel, m.V[base][sel].astype(np.int64) + offset):
            find(m, key)
            del m.barriers[key]

    return run


def arrive_form(d, ins):
    operands = list(ins.operands)
    has_state = len(operands) > 1 and not hasattr(operands[0], "rest")
    target = operands.pop(0) if has_state else Sym("_")
    to = d.dst(target, "u64")
    base, offset = d.address(operands.pop(0))
    expects, drops = "expect_tx" in ins.mods, "arrive_drop" in ins.mods
    if expects:
        amount, count = number(d, operands[0]), number(d, Imm(1))
    else:
        amount, count = number(d, Imm(0)), number(d, operands[0] if operands else Imm(1))

    def run(m, sel):
        counts, amounts = count(m, sel), amount(m, sel)
        for key, ids, here in groups(m, sel, m.V[base][sel].astype(np.int64) + offset):
            if drops:
                find(m, key).expected -= int(counts[here].sum())
            m.V[to][ids] = arrive(m, key, ids, int(counts[here].sum()), int(amounts[here].sum()))

    return run


def bytes_form(d, ins):
    """expect_tx and complete_tx."""
    base, offset = d.address(ins.operands[0])
    amount = number(d, ins.operands[1])
    sign = 1 if "expect_tx" in ins.mods else -1

    def run(m, sel):
        amounts = amount(m, sel)
        for key, _, here in groups(m, sel, m.V[base][sel].astype(np.int64) + offset):
            find(m, key).bytes += sign * int(amounts[here].sum())
            if sign < 0:
                settle(m, key)

    return run


def wait_form(d, ins):
    """test_wait and try_wait, by parity or by the state that an arrival returned (here: its phase)."""
    to = d.dst(ins.operands[0], "pred")
    base, offset = d.address(ins.operands[1])
    by_parity = "parity" in ins.mods
    want = d.src(ins.operands[2], "u32" if by_parity else "u64")

    def run(m, sel, pc):
        values = m.V[want][sel]
        left = False
        done = []
        for key, ids, here in groups(m, sel, m.V[base][sel].astype(np.int64) + offset):
            barrier = find(m, key)
            value = int(values[here][0])
            if len(ids) > 1 and (values[here] != values[here][0]).any():
                raise PtxError("threads that run together wait for different phases of an mbarrier")
            if not over(barrier, value, by_parity):
                m.bulk.land(key)
            if over(barrier, value, by_parity):
                m.V[to][ids] = True
                if m.races is not None:
                    m.races.waited(key, ids)
                done.append(ids)
            else:
                left = True
                m.pc[ids] = 2**31 - 1
                m.waiting.setdefault(key, []).append((ids, pc, to))
        if not left:
            return pc + 1
        for ids in done:
            m.pc[ids] = pc + 1
        return -1

    return Control(run)


def over(barrier: MBarrier, value: int, by_parity: bool) -> bool:
    """Whether the phase of that parity, or the phase with that number, has ended."""
    return barrier.phase & 1 != value if by_parity else barrier.phase > value


def copy_arrive(d, ins):
    """cp.async.mbarrier.arrive: here the thread's copies land at once, then it arrives."""
    base, offset = d.address(ins.operands[0])
    noinc = "noinc" in ins.mods

    def run(m, sel):
        m.copies.wait(sel, -1)
        for key, ids, _ in groups(m, sel, m.V[base][sel].astype(np.int64) + offset):
            if not noinc:
                find(m, key).pending += len(ids)
            arrive(m, key, ids, len(ids))

    return run


def pending_count(d, ins):
    raise Unsupported("mbarrier.pending_count")


DECODERS = {
    "init": init,
    "inval": inval,
    "arrive": arrive_form,
    "arrive_drop": arrive_form,
    "expect_tx": bytes_form,
    "complete_tx": bytes_form,
    "test_wait": wait_form,
    "try_wait": wait_form,
    "pending_count": pending_count,
}
