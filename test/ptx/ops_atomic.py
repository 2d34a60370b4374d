"""atom and red on global and shared memory (PTX ISA, 'Parallel Synchronization: atom, red')."""

from __future__ import annotations

import numpy as np

from .decode import op
from .errors import Unsupported
from .floats import bf16_to_f32, f64_to_bf16
from .kinds import dtype, type_of
from .ops_move import space_of, vector_of
from .syntax import BYTES, Sym, Vec

NAMES = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")


def apply(name: str, kind: str, old: np.ndarray, value: np.ndarray, swap) -> np.ndarray:
    if name == "exch":
        return value
    if name == "cas":
        return np.where(old == value, swap, old)
    if kind.startswith("bf16"):
        x, y = (bf16_to_f32(v).astype(np.float64) for v in (old, value))
        return f64_to_bf16({"add": np.add, "min": np.fmin, "max": np.fmax}[name](x, y))
    if name == "inc":
        return np.where(old >= value, old.dtype.type(0), old + old.dtype.type(1))
    if name == "dec":
        return np.where((old == 0) | (old > value), value, old - old.dtype.type(1))
    is_float = old.dtype.kind == "f"
    table = {
        "add": np.add,
        "min": np.fmin if is_float else np.minimum,
        "max": np.fmax if is_float else np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    return table[name](old, value)


@op("atom", "red")
def atom(d, ins):
    if ins.op == "red" and "async" in ins.mods:
        raise Unsupported("red.async")
    kind, space, count = type_of(ins), space_of(ins), vector_of(ins)
    if count > 1 or kind == "b128":
        raise Unsupported("vector atomics")
    name = next((m for m in ins.mods if m in NAMES), None)
    if name is None:
        raise Unsupported("this atomic operation")
    operands = ins.operands if ins.op == "atom" else [Sym("_"), *ins.operands]
    target, place, *sources = operands
    if isinstance(sources[0], Vec):
        raise Unsupported("vector atomics")
    if kind[0] == "b" and not kind.startswith("bf"):
        kind = f"u{8 * BYTES[kind]}"
    base, offset = d.address(place)
    to, a = d.dst(target, kind), d.src(sources[0], kind)
    b = d.src(sources[1], kind) if name == "cas" else None
    size, want = BYTES[kind], dtype(kind)
    if space in ("shared", "generic"):
        d.grain = min(d.grain, size)
    hint = [None]
    packed = kind.endswith("x2")
    order = any(m in ("acquire", "acq_rel", "release") for m in ins.mods)

    def step(m, sel, address):
        ids = m.ids[sel]
        raw = m.load(space, ids, address, size, 1, hint)
        old = np.ascontiguousarray(raw).view(want)
        old = old.reshape(-1, 2) if packed else old
        new = apply(name, kind, old, m.V[a][ids], None if b is None else m.V[b][ids])
        new = np.ascontiguousarray(new, want).view(raw.dtype)
        m.store(space, ids, address, size, 1, new[:, 0] if packed else new, hint)
        m.V[to][ids] = old

    def run(m, sel):
        address = m.V[base][sel].astype(np.int64) + offset
        if m.races is not None:
            m.races.atomic = True
        try:
            sequential(m, sel, address)
        finally:
            if m.races is not None:
                m.races.atomic = False
        if order or space != "shared":
            m.events += 1

    def sequential(m, sel, address):
        """One round for each further thread at the same place; blocks see their own shared memory."""
        ids = m.ids[sel]
        key = address + (m.shared_base[sel] if space == "shared" else 0)
        if space == "generic":
            key = np.where(address >= 1 << 60, address + m.shared_base[sel], address)
        by_key = np.argsort(key, kind="stable")
        ordered = key[by_key]
        starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0))
        rank = np.empty(len(ordered), np.int64)
        rank[by_key] = np.arange(len(ordered)) - first
        for turn in range(int(rank.max()) + 1):
            here = rank == turn
            step(m, ids[here], address[here])

    return run
