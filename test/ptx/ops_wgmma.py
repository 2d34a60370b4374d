"""wgmma (PTX ISA, 'Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions').

The product is computed at issue, as mma's is (ops_mma). Until a wait_group covers it, its accumulators may be touched
by further wgmma only and its A registers may not be written; its shared operands count as being read.
Layouts: PTX ISA, 'Register Fragments' of 'wgmma.mma_async'; wgmma_layout for shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decode import WarpWide, op
from .errors import PtxError, Unsupported
from .memory import SHARED_START
from .ops_mma import BYTES, a_index, items, to_real
from .syntax import Imm, Instruction, Vec
from .tensor_map import swizzled
from .wgmma_layout import chunk_offsets, describe


@dataclass
class Issued:
    """A wgmma that runs: its warpgroups and their group numbers, its registers."""

    ids: np.ndarray
    group: np.ndarray  # of each warpgroup
    accumulators: frozenset[int]
    sources: frozenset[int]
    line: int


class Running:
    """The wgmma of a batch that nobody has waited for."""

    def __init__(self, m) -> None:
        self.open = np.zeros(m.n, np.int64)  # the group that each thread's warpgroup is filling
        self.issued: list[Issued] = []
        self.accumulators: frozenset[int] = frozenset()
        self.sources: frozenset[int] = frozenset()

    def renew(self) -> None:
        self.accumulators = frozenset().union(*(i.accumulators for i in self.issued))
        self.sources = frozenset().union(*(i.sources for i in self.issued))


def running(m) -> Running:
    if m.wgmma is None:
        m.wgmma = Running(m)
    return m.wgmma


def check(m, ins: Instruction, sel, used: frozenset[int], written: frozenset[int]) -> None:
    """Raises if an instruction touches registers of a wgmma that runs."""
    hot, written = m.wgmma.accumulators & used, m.wgmma.sources & written
    if not (hot or written):
        return
    ids = m.ids[sel]
    for issued in m.wgmma.issued:
        both = np.intersect1d(issued.ids, ids)
        touched = (issued.accumulators & hot) | (issued.sources & written)
        if len(both) and touched:
            name = m.program.function.registers[min(touched)].name
            raise PtxError(
                f"{name} belongs to the wgmma of line {issued.line}, for which no wgmma.wait_group has waited "
                f"({m.thread_name(int(both[0]))})",
                ins.line,
                ins.text,
            )


@op("wgmma")
def wgmma(d, ins):
    if "fence" in ins.mods:
        return WarpWide(fence, group=True)
    if "commit_group" in ins.mods:
        return WarpWide(commit, group=True)
    if "wait_group" in ins.mods:
        pending = int(ins.operands[0].value)
        return WarpWide(lambda m, sel: wait(m, sel, pending), group=True)
    return multiply(d, ins)


def fence(m, sel) -> None:
    """Orders what was done to registers before the wgmma that follow (PTX ISA, 'wgmma.fence')."""
    if not m.touched_rows:
        return
    rows = np.array(sorted(m.touched_rows))
    m.touched[rows[:, None], m.ids[sel]] = False
    m.touched_rows = set(rows[m.touched[rows].any(1)].tolist())


def check_fence(m, sel, named: list[int]) -> None:
    late = [register for register in named if m.program.wgmma_rows[register] in m.touched_rows]
    for register in late:
        if m.touched[m.program.wgmma_rows[register]][sel].any():
            name = m.program.function.registers[register].name
            raise PtxError(f"{name} was used by other instructions, and no wgmma.fence came after them")


def commit(m, sel) -> None:
    running(m).open[sel] += 1


def wait(m, sel, pending: int) -> None:
    state = running(m)
    limit = np.zeros(m.n, np.int64)
    limit[sel] = state.open[sel] - pending
    kept = []
    for issued in state.issued:
        heads = issued.ids[::128]
        rest = issued.group >= limit[heads]
        if rest.any():
            ids = issued.ids.reshape(-1, 128)[rest].ravel()
            kept.append(Issued(ids, issued.group[rest], issued.accumulators, issued.sources, issued.line))
    state.issued = kept
    state.renew()
    m.tracked = state if kept and m.launch.check_accumulators else None
    if m.races is not None:
        m.races.wgmma_waited(sel, limit)


def multiply(d, ins):
    if "mma_async" not in ins.mods or "sp" in ins.mods:
        raise Unsupported("this form of wgmma")
    shape = next(m for m in ins.mods if m.startswith("m64n"))
    n, k = (int(v) for v in shape[4:].split("k"))
    d_type, a_type, b_type = ins.mods[ins.mods.index(shape) + 1 :][:3]
    if a_type not in BYTES or d_type not in ("f32", "s32", "f16"):
        raise Unsupported(f"wgmma of {a_type} to {d_type}")
    size = BYTES[a_type]
    if k * size != 32 or n % 8 or not 8 <= n <= 256:
        raise PtxError(f"wgmma shape {shape} of {a_type}")
    target, a, b, scale, *rest = ins.operands
    from_registers = isinstance(a, Vec)
    places = items(target)
    if len(places) != n // (4 if d_type == "f16" else 2):
        raise PtxError(f"{len(places)} accumulators for shape {shape}")
    a_slots = [d.src(r, "u32") for r in a.items] if from_registers else [d.src(a, "u64")]
    if from_registers and len(a_slots) != 4:
        raise PtxError("A has 4 registers")
    b_slot, keep = d.src(b, "u64"), d.pred(scale)
    flags = [int(o.value) for o in rest if isinstance(o, Imm)]
    sign = flags[0] * flags[1] if len(flags) >= 2 else 1
    trans = flags[2:] if not from_registers else [0, *flags[2:]]
    a_mn, b_mn = (bool(t) for t in (*trans, 0, 0)[:2])
    if (a_mn or b_mn) and size != 2:
        raise PtxError("only 16-bit operands can be transposed")
    rows = np.array([r.index for r in places])
    a_at = a_index(k, size)
    warp, i = np.arange(128) // 32, np.arange(n // 2)
    lane = np.arange(128) % 32
    row = (warp * 16 + lane // 4)[:, None] + 8 * (i // 2 % 2)
    column = (lane % 4 * 2)[:, None] + i % 2 + 8 * (i // 4)
    accumulators = frozenset(rows.tolist())
    sources = frozenset(r.index for r in a.items) if from_registers else frozenset()

    named = sorted(accumulators | sources)

    def run(m, sel):
        ids = m.ids[sel].reshape(-1, 128)
        if not m.whole_groups(sel):
            raise PtxError("wgmma needs whole warpgroups: four warps from a multiple of four on")
        state = running(m)
        if m.tracked is not None:
            check(m, ins, sel, sources, frozenset())
        if m.launch.check_fences and m.touched_rows:
            check_fence(m, sel, named)
        if from_registers:
            a = fragments(m, ids, a_slots, a_at, k, size, a_type)
            reads = []
        else:
            a, where = operand(m, ids, a_slots[0], a_mn, 64, k, size, a_type)
            reads = [where]
        b, where = operand(m, ids, b_slot, b_mn, n, k, size, b_type)
        reads.append(where)
        if m.races is not None:
            for each in reads:
                m.races.wgmma_read(ids, each, state.open[ids[:, 0]])
        total = (a @ b.transpose(0, 2, 1))[:, row, column]  # [warpgroups, 128, n / 2]
        total = (total * sign if sign != 1 else total).reshape(-1, n // 2).T
        flat = ids.ravel()
        where = np.array([m.places[r][1] for r in rows.tolist()])
        kind = {"f32": np.float32, "s32": np.int32, "f16": np.float16}[d_type]
        block = m.files["32"][where[:, None], flat[None, :]]
        old = block.view(kind)
        if d_type == "f16":  # [registers, threads * 2] to [registers * 2, threads]
            old = old.reshape(len(where), -1, 2).transpose(0, 2, 1).reshape(n // 2, -1)
        adds = m.V[keep[0]][flat] != keep[1]
        old = np.where(adds, old.astype(np.float64), 0.0)
        new = (old + total).astype(np.int64).astype(kind) if d_type == "s32" else (old + total).astype(kind)
        if d_type == "f16":
            new = np.ascontiguousarray(new.reshape(len(where), 2, -1).transpose(0, 2, 1)).reshape(len(where), -1)
        m.files["32"][where[:, None], flat[None, :]] = np.ascontiguousarray(new).view(np.uint32)
        state.issued.append(Issued(flat, state.open[ids[:, 0]], accumulators, sources, ins.line))
        state.renew()
        if m.launch.check_accumulators:
            m.tracked = state

    return WarpWide(run, group=True)


def fragments(m, ids, slots, at, k, size, kind):
    """A from registers: each warp holds 16 rows as mma's A."""
    warps = ids.reshape(-1, 32)
    raw = np.stack([m.V[s][warps] for s in slots], -1)
    raw = np.ascontiguousarray(raw).view(f"u{size}")
    a = np.empty((len(warps), 16, k))
    a[:, at[0], at[1]] = to_real(raw, kind)
    return a.reshape(len(ids), 64, k)


def operand(m, ids, slot, mn_major, rows, k, size, kind):
    """A matrix [warpgroups, rows, k] from shared memory, and the places of its chunks."""
    descriptors = m.V[slot][ids]
    if (descriptors != descriptors[:, :1]).any():
        raise PtxError("the threads of a warpgroup have different matrix descriptors")
    places = []
    for group, descriptor in zip(ids, descriptors[:, 0].tolist()):
        start, leading, stride, swizzle = describe(descriptor)
        offsets = chunk_offsets(mn_major, swizzle, leading, stride, rows, k, size)
        address = swizzled(start + offsets, swizzle)
        flat = address.ravel()
        m.check(np.broadcast_to(group[0], flat.shape), flat, 16, SHARED_START, m.shared_end, "shared memory")
        places.append(address + m.shared_base[group[0]])
    where = np.stack(places)
    chunks = to_real(m.shared_views[size, 16 // size][where // 16], kind)
    if mn_major:  # [groups, k, row chunks, elements] to [groups, rows, k]
        return chunks.reshape(len(ids), k, rows).transpose(0, 2, 1), where
    return chunks.reshape(len(ids), rows, k), where
