"""Warp-wide instructions: shfl, vote, match, redux, elect, activemask, bar.warp."""

from __future__ import annotations

import numpy as np

from .decode import WarpWide, op
from .errors import PtxError, Unsupported
from .kinds import type_of
from .syntax import Imm, Pair, Sym

LANES = np.arange(32)


def member_slot(d, operand):
    """The slot of a member mask, or None for all 32 lanes."""
    if isinstance(operand, Imm) and int(operand.value) & 0xFFFFFFFF == 0xFFFFFFFF:
        return None
    return d.src(operand, "u32")


def warps_of(m, sel):
    """Ids [warps, 32] of the warps that `sel` touches, and where in them `sel` is (None: everywhere)."""
    ids = m.ids[sel]
    if m.whole(sel):
        return ids.reshape(-1, 32), None
    warps = np.unique(ids >> 5)
    table = warps[:, None] * 32 + LANES
    present = np.zeros(m.n, bool)
    present[ids] = True
    return table, present[table]


@op("shfl")
def shfl(d, ins):
    """PTX ISA, 'shfl.sync': source lane and predicate from the clamp and segment mask in c."""
    if "sync" not in ins.mods:
        raise Unsupported("shfl without .sync")
    target, a, b, c, members = ins.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Sym("_"))
    to, pred, value = d.dst(first, "u32"), d.dst(second, "pred"), d.src(a, "u32")
    lane_slot, control = d.src(b, "u32"), d.src(c, "u32")
    mode = next(m for m in ins.mods if m in ("up", "down", "bfly", "idx"))

    def run(m, sel):
        table, present = warps_of(m, sel)
        V = m.V
        move = V[lane_slot][table].astype(np.int64) & 31
        bits = V[control][table].astype(np.int64)
        clamp, segment = bits & 31, bits >> 8 & 31
        top, bottom = (LANES & segment) | (clamp & ~segment), LANES & segment
        if mode == "up":
            source = LANES - move
            good = source >= top
        elif mode == "down":
            source = LANES + move
            good = source <= top
        elif mode == "bfly":
            source = LANES ^ move
            good = source <= top
        else:
            source = bottom | (move & ~segment)
            good = source <= top
        source = np.where(good, source, LANES)
        out = np.take_along_axis(V[value][table], source, 1)
        if present is None:
            V[to][sel], V[pred][sel] = out.ravel(), good.ravel()
            return
        if not np.take_along_axis(present, source, 1)[present].all():
            raise PtxError("shfl reads a lane that does not take part")
        V[to][table[present]], V[pred][table[present]] = out[present], good[present]

    return WarpWide(run, member_slot(d, members))


@op("vote")
def vote(d, ins):
    target, source, members = ins.operands
    p, negated = d.pred(source)
    mode = next(m for m in ins.mods if m in ("all", "any", "uni", "ballot"))
    to = d.dst(target, "u32" if mode == "ballot" else "pred")

    def run(m, sel):
        table, present = warps_of(m, sel)
        flags = m.V[p][table] != negated
        here = np.ones(table.shape, bool) if present is None else present
        if mode == "ballot":
            out = ((flags & here).astype(np.uint64) << LANES.astype(np.uint64)).sum(1)
        elif mode == "any":
            out = (flags & here).any(1)
        else:
            out = (flags | ~here).all(1)
            if mode == "uni":
                out |= (~flags | ~here).all(1)
        m.V[to][table[here]] = np.repeat(out[:, None], 32, 1)[here]

    return WarpWide(run, member_slot(d, members))


@op("match")
def match(d, ins):
    kind = type_of(ins).replace("b", "u")
    target, source, members = ins.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Sym("_"))
    to, pred, a = d.dst(first, "u32"), d.dst(second, "pred"), d.src(source, kind)

    def run(m, sel):
        table, present = warps_of(m, sel)
        here = np.ones(table.shape, bool) if present is None else present
        value = m.V[a][table]
        same = (value[:, :, None] == value[:, None, :]) & here[:, None, :]
        masks = (same.astype(np.uint64) << LANES.astype(np.uint64)).sum(2)
        if "all" in ins.mods:
            full = (here.astype(np.uint64) << LANES.astype(np.uint64)).sum(1)[:, None]
            agreed = masks == full
            masks = np.where(agreed, masks, 0)
            m.V[pred][table[here]] = agreed[here]
        m.V[to][table[here]] = masks[here]

    return WarpWide(run, member_slot(d, members))


REDUCTIONS = {
    "add": (np.add, 0),
    "min": (np.minimum, None),
    "max": (np.maximum, None),
    "and": (np.bitwise_and, 0xFFFFFFFF),
    "or": (np.bitwise_or, 0),
    "xor": (np.bitwise_xor, 0),
}


@op("redux")
def redux(d, ins):
    kind = type_of(ins).replace("b", "u")
    if kind == "f32":
        raise Unsupported("redux.f32 is of sm_100a")
    function, _ = REDUCTIONS[next(m for m in ins.mods if m in REDUCTIONS)]
    to, a = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind)

    def run(m, sel):
        table, present = warps_of(m, sel)
        for warp, here in zip(table, [None] * len(table) if present is None else present):
            lanes = warp if here is None else warp[here]
            m.V[to][lanes] = function.reduce(m.V[a][lanes])

    return WarpWide(run, member_slot(d, ins.operands[2]))


@op("elect")
def elect(d, ins):
    """The first lane of the mask is elected."""
    target, members = ins.operands
    to, pred = d.dst(target.first, "u32"), d.dst(target.second, "pred")

    def run(m, sel):
        table, present = warps_of(m, sel)
        here = np.ones(table.shape, bool) if present is None else present
        leader = here.argmax(1)[:, None]
        m.V[pred][table[here]] = (leader == LANES)[here]
        m.V[to][table[here]] = np.broadcast_to(leader, table.shape)[here]

    return WarpWide(run, member_slot(d, members))


@op("activemask")
def activemask(d, ins):
    to = d.dst(ins.operands[0], "u32")

    def run(m, sel):
        table, present = warps_of(m, sel)
        here = np.ones(table.shape, bool) if present is None else present
        out = (here.astype(np.uint64) << LANES.astype(np.uint64)).sum(1)
        m.V[to][table[here]] = np.repeat(out[:, None], 32, 1)[here]

    return run
