"""cp.async of 4, 8 and 16 bytes; the bulk forms stand in ops_bulk."""

from __future__ import annotations

import numpy as np

from .decode import op
from .errors import Unsupported
from .kinds import Decoder
from .memory import SHARED_START
from .syntax import Imm, Instruction


@op("cp")
def cp(d: Decoder, ins: Instruction):
    if "bulk" in ins.mods or "reduce" in ins.mods:
        from .ops_bulk import bulk

        return bulk(d, ins)
    if "commit_group" in ins.mods:
        return lambda m, sel: m.copies.commit(sel)
    if "wait_group" in ins.mods:
        pending = int(ins.operands[0].value)
        return lambda m, sel: m.copies.wait(sel, pending)
    if "wait_all" in ins.mods:
        return lambda m, sel: m.copies.wait(sel, -1)
    if "arrive" in ins.mods:
        from .ops_mbarrier import copy_arrive

        return copy_arrive(d, ins)
    return copy(d, ins)


def copy(d, ins):
    """cp.async.ca|cg.shared.global [dst], [src], size {, src-size | ignore-src}."""
    target, source, size, *rest = ins.operands
    size = int(size.value)
    if size not in (4, 8, 16) or ("cg" in ins.mods and size != 16):
        raise Unsupported(f"cp.async of {size} bytes")
    to, to_offset = d.address(target)
    at, at_offset = d.address(source)
    valid = ignored = None
    if rest and "L2::cache_hint" not in ins.name:
        operand = rest[0]
        is_pred = getattr(operand, "type", None) == "pred" or type(operand).__name__ == "Neg"
        if is_pred:
            ignored = d.pred(operand)
        elif isinstance(operand, Imm):
            valid = d.src(operand, "u32")
        else:
            valid = d.src(operand, "u32")
    hint = [None]

    def run(m, sel):
        place = m.V[to][sel].astype(np.int64) + to_offset
        address = m.V[at][sel].astype(np.int64) + at_offset
        m.check(sel, place, size, SHARED_START, m.shared_end, "shared memory")
        ids = m.ids[sel]
        data = np.zeros((len(ids), size), np.uint8)
        if valid is not None:
            count = m.V[valid][sel].astype(np.int64)
        elif ignored is not None:
            count = np.where(m.V[ignored[0]][sel] != ignored[1], 0, size)
        else:
            count = None
        if count is None:
            data[:] = as_bytes(m.load("generic", sel, address, min(size, 8), max(1, size // 8), hint))
        else:
            partial(m, ids, address, count, size, data, hint)
        m.copies.issue(ids, place + m.shared_base[sel], data)

    return run


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def partial(m, ids, address, count, size, data, hint) -> None:
    """Reads `count` bytes each and leaves zeros behind them."""
    if int(count.max(initial=0)) > size or int(count.min(initial=0)) < 0:
        m.fault(ids, int(count.argmax()), f"src-size {int(count.max())} of a copy of {size} bytes")
    full = count == size
    if full.any():
        data[full] = as_bytes(m.load("generic", ids[full], address[full], min(size, 8), max(1, size // 8), hint))
    for i in np.flatnonzero(~full & (count > 0)).tolist():
        n = int(count[i])
        each = m.load("generic", np.repeat(ids[i : i + 1], n), address[i] + np.arange(n), 1, 1, hint)
        data[i, :n] = each
