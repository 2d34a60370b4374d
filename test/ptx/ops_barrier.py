"""bar, barrier and fences (PTX ISA, 'Parallel Synchronization and Communication Instructions')."""

from __future__ import annotations

from .decode import Control, WarpWide, op
from .errors import Unsupported
from .ops_warp import member_slot
from .syntax import Imm


@op("bar", "barrier")
def bar(d, ins):
    mods, operands = ins.mods, list(ins.operands)
    if "warp" in mods:
        return WarpWide(warp_sync, member_slot(d, operands[0]))
    if "cluster" in mods:
        if "arrive" in mods:
            return lambda m, sel: m.cluster_arrive(sel)
        return Control(lambda m, sel, pc: m.cluster_wait(sel, pc))
    if "red" in mods:
        return reduction(d, ins, operands)
    if not ("sync" in mods or "arrive" in mods):
        raise Unsupported("this form of bar")
    wait = "sync" in mods
    name, count = operands[0], operands[1] if len(operands) > 1 else None
    return Control(arrival(d, name, count, wait))


def warp_sync(m, sel):
    if m.races is not None:
        m.races.warp_sync(sel)


def arrival(d, name, count, wait):
    fixed = int(name.value) if isinstance(name, Imm) else None
    name_slot = None if fixed is not None else d.src(name, "u32")
    size = int(count.value) if isinstance(count, Imm) else None
    size_slot = None if count is None or size is not None else d.src(count, "u32")

    def run(m, sel, pc):
        number = fixed if fixed is not None else m.V[name_slot][sel]
        total = size if size_slot is None else m.V[size_slot][sel]
        return m.arrive(sel, pc, number, total, wait)

    return run


def reduction(d, ins, operands):
    """bar.red: every thread gets the count, the conjunction or the disjunction of all predicates."""
    kind = next(m for m in ins.mods if m in ("popc", "and", "or"))
    target, name, *rest = operands
    p, negated = d.pred(rest[-1])
    to = d.dst(target, "u32" if kind == "popc" else "pred")
    wait = arrival(d, name, rest[0] if len(rest) > 1 else None, True)
    d.program.reductions[d.pc] = (kind, to)

    def run(m, sel, pc):
        m.bar_pred[sel] = m.V[p][sel] != negated
        # Marking one thread as awaited keeps `arrive` from its short way, which combines nothing.
        m.slow_barrier = True
        try:
            return wait(m, sel, pc)
        finally:
            m.slow_barrier = False

    return Control(run)


@op("fence")
def fence(d, ins):
    if "proxy" in ins.mods and any(m.startswith("async") for m in ins.mods):

        def run(m, sel):
            if m.races is not None:
                m.races.proxy_fence(sel)

        return run
    return lambda m, sel: None
