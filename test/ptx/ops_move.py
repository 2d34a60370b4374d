"""mov, ld, st, cvta, isspacep, mapa and other ways to move bits."""

from __future__ import annotations

import numpy as np

from .decode import op
from .errors import PtxError, Unsupported
from .kinds import type_of
from .memory import CLUSTER_RANK, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW
from .syntax import BYTES, Mem, Pair, Reg, Sym, Vec

WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW, "global": 0, "const": 0}


def space_of(ins) -> str:
    """The state space that an instruction names; constants live in global memory."""
    for mod in ins.mods:
        head = mod.split("::")[0]
        if head in WINDOWS:
            return "global" if head == "const" else head
    return "generic"


STRONG = ("volatile", "relaxed", "acquire", "release", "mmio")


def strong(ins, run):
    """Strong accesses synchronise, so they are no races (PTX ISA, 'Morally strong operations')."""
    if not any(m in STRONG for m in ins.mods):
        return run

    def marked(m, sel):
        if m.races is None:
            run(m, sel)
            return
        m.races.atomic = True
        try:
            run(m, sel)
        finally:
            m.races.atomic = False

    return marked


def vector_of(ins) -> int:
    return next((int(m[1:]) for m in ins.mods if m in ("v2", "v4", "v8")), 1)


@op("mov")
def mov(d, ins):
    target, source = ins.operands
    kind = type_of(ins)
    if isinstance(source, Vec):
        return pack(d, target, source, kind)
    if isinstance(target, Vec):
        return unpack(d, target, source, kind)
    if kind == "b128":
        to, at = d.dst(target, "b128"), d.src(source, "b128")
    else:
        bits = kind if kind == "pred" else f"u{8 * BYTES[kind]}"
        to, at = d.dst(target, bits), d.src(source, bits)

    def run(m, sel):
        m.V[to][sel] = m.V[at][sel]

    return run


def parts_of(kind: str, count: int) -> str:
    return f"u{8 * BYTES[kind] // count}"


def pack(d, target, source, kind):
    part = parts_of(kind, len(source.items))
    slots = [d.src(i, part) for i in source.items]
    if kind == "b128":
        to = d.dst(target, "b128")

        def run(m, sel):
            m.V[to][sel] = np.stack([m.V[s][sel] for s in slots], -1)

        return run
    to, whole = d.dst(target, f"u{8 * BYTES[kind]}"), f"u{BYTES[kind]}"

    def run(m, sel):
        m.V[to][sel] = np.stack([m.V[s][sel] for s in slots], -1).view(whole)[:, 0]

    return run


def unpack(d, target, source, kind):
    part = parts_of(kind, len(target.items))
    slots = [(i, d.dst(t, part)) for i, t in enumerate(target.items) if t != Sym("_")]
    element = f"u{int(part[1:]) // 8}"
    at = d.src(source, "b128" if kind == "b128" else f"u{8 * BYTES[kind]}")
    count = len(target.items)

    def run(m, sel):
        value = np.ascontiguousarray(m.V[at][sel]).view(element).reshape(-1, count)
        for i, slot in slots:
            m.V[slot][sel] = value[:, i]

    return run


def extender(d, operand, kind: str):
    """How a loaded value of type `kind` enters its register: (slot, numpy type to see it as first)."""
    size = BYTES[kind]
    if not isinstance(operand, Reg) or BYTES[operand.type] == size:
        return d.dst(operand, f"u{8 * size}"), None
    wide = 8 * BYTES[operand.type]
    if kind[0] == "s":
        return d.dst(operand, f"s{wide}"), np.dtype(f"i{size}")
    return d.dst(operand, f"u{wide}"), None


@op("ld", "ldu")
def ld(d, ins):
    space, kind, count = space_of(ins), type_of(ins), vector_of(ins)
    target, source = ins.operands[:2]
    base, offset = d.address(source)
    size = BYTES[kind]
    if kind == "b128":
        if isinstance(target, Vec):
            raise Unsupported("vectors of b128")
        size, count = 8, 2
        slots = [(d.dst(target, "b128"), None)]
    else:
        targets = target.items if isinstance(target, Vec) else (target,)
        slots = [extender(d, t, kind) for t in targets]
    if space in ("shared", "generic"):
        d.grain = min(d.grain, size)
    hint = [None]

    def run(m, sel):
        address = m.V[base][sel].astype(np.int64)
        if offset:
            address += offset
        value = m.load(space, sel, address, size, count, hint)
        if count == 1 or kind == "b128":
            slot, seen = slots[0]
            m.V[slot][sel] = value if seen is None else value.view(seen)
            return
        for i, (slot, seen) in enumerate(slots):
            m.V[slot][sel] = value[:, i] if seen is None else value[:, i].view(seen)

    return strong(ins, run)


@op("st")
def st(d, ins):
    space, kind, count = space_of(ins), type_of(ins), vector_of(ins)
    target, source = ins.operands[:2]
    base, offset = d.address(target)
    size = BYTES[kind]
    if kind == "b128":
        size, count, slots = 8, 2, [d.src(source, "b128")]
    else:
        sources = source.items if isinstance(source, Vec) else (source,)
        slots = [d.src(s, f"u{8 * size}") for s in sources]
    if space in ("shared", "generic"):
        d.grain = min(d.grain, size)
    hint = [None]

    def run(m, sel):
        address = m.V[base][sel].astype(np.int64)
        if offset:
            address += offset
        if len(slots) == 1:
            values = m.V[slots[0]][sel]
        else:
            values = np.stack([m.V[s][sel] for s in slots], -1)
        m.store(space, sel, address, size, count, values, hint)

    return strong(ins, run)


@op("cvta")
def cvta(d, ins):
    kind = type_of(ins)
    window = WINDOWS[space_of(ins)]
    if "to" in ins.mods:
        window = -window
    if BYTES[kind] < 8 and window:
        raise Unsupported("32-bit generic addresses")
    to, at = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind)
    delta = np.uint64(window % 2**64)

    def run(m, sel):
        value = m.V[at][sel]
        m.V[to][sel] = value + delta if window else value

    return run


@op("isspacep")
def isspacep(d, ins):
    space = space_of(ins)
    to, at = d.dst(ins.operands[0], "pred"), d.src(ins.operands[1], "u64")
    low = WINDOWS[space]
    high = {"shared": LOCAL_WINDOW, "local": PARAM_WINDOW, "param": 1 << 62, "global": SHARED_WINDOW}[space]

    def run(m, sel):
        value = m.V[at][sel]
        m.V[to][sel] = (value >= np.uint64(low)) & (value < np.uint64(high))

    return run


@op("mapa")
def mapa(d, ins):
    """The address of the same place in another block of the cluster."""
    kind = type_of(ins)
    if "shared::cluster" not in ins.mods:
        raise Unsupported("mapa of generic addresses")
    to, at, rank = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind), d.src(ins.operands[2], "u32")

    def run(m, sel):
        ranks = m.V[rank][sel].astype(np.int64)
        if (ranks >= m.launch.cluster).any():
            raise PtxError(f"block {int(ranks.max())} of a cluster of {m.launch.cluster}")
        m.V[to][sel] = (m.V[at][sel].astype(np.int64) + ((ranks + 1) << CLUSTER_RANK)).astype(m.V[to].dtype)

    return run


def offset_of(operand: Mem | Pair) -> int:
    return operand.offset if isinstance(operand, Mem) else 0
