"""ldmatrix, stmatrix, movmatrix and mma.sync, with the fragment layouts of the PTX ISA.

Products are exact and summed in float64 together with the accumulator, then rounded once to the type of D. Hardware
sums in an order and precision that the ISA leaves open, so compare with a tolerance.
Layouts: PTX ISA, 'Warp Level Matrix Instructions', sections 'Matrix Fragments for mma.m16n8k8', '...m16n8k16 with
floating point type', '...m16n8k16 with integer type', '...m16n8k32', and 'ldmatrix', 'stmatrix'.
"""

from __future__ import annotations

import numpy as np

from .decode import WarpWide, op
from .errors import PtxError, Unsupported
from .floats import TABLES, bf16_to_f32
from .memory import SHARED_START
from .syntax import Vec

LANE = np.arange(32)
GROUP, IN_GROUP = LANE // 4, LANE % 4  # groupID and threadID_in_group of the ISA
BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1}


def whole_warps(m, sel) -> np.ndarray:
    """Ids [warps, 32]; all lanes must take part."""
    ids = m.ids[sel]
    if not m.whole(sel):
        raise PtxError("all 32 lanes of a warp must execute this instruction together")
    return ids.reshape(-1, 32)


def items(operand) -> tuple:
    return operand.items if isinstance(operand, Vec) else (operand,)


def matrix_rows(d, m, table, addresses, count, write):
    """Places [warps, count, 8] of 16-byte rows: lane 8i + r holds the address of row r of matrix i."""
    sel = table[:, : 8 * count].ravel()
    place = addresses[:, : 8 * count].ravel()
    m.check(sel, place, 16, SHARED_START, m.shared_end, "shared memory")
    place = place + m.shared_base[sel]
    if m.races is not None:
        m.races.access(m, sel, place, 16, write, None)
    return place.reshape(-1, count, 8) // 16


@op("ldmatrix")
def ldmatrix(d, ins):
    if "b16" not in ins.mods or "m8n8" not in ins.mods:
        raise Unsupported("this form of ldmatrix")
    count = next(int(m[1]) for m in ins.mods if m in ("x1", "x2", "x4"))
    slots = [d.dst(r, "u32") for r in items(ins.operands[0])]
    base, offset = d.address(ins.operands[1])
    trans = "trans" in ins.mods

    def run(m, sel):
        table = whole_warps(m, sel)
        address = m.V[base][table].astype(np.int64) + offset
        rows = m.shared_views[2, 8][matrix_rows(d, m, table, shared(address), count, False)]  # [warps, count, 8, 8]
        if trans:
            rows = rows.transpose(0, 1, 3, 2)
        # Lane 4r + c gets elements 2c and 2c + 1 of row r.
        out = np.ascontiguousarray(rows).view(np.uint32).reshape(len(table), count, 32)
        for i, slot in enumerate(slots):
            m.V[slot][table] = out[:, i]

    return WarpWide(run)


def shared(address: np.ndarray) -> np.ndarray:
    """Shared addresses, also where they were given as generic ones."""
    return address & ((1 << 60) - 1)


@op("stmatrix")
def stmatrix(d, ins):
    if "b16" not in ins.mods:
        raise Unsupported("this form of stmatrix")
    count = next(int(m[1]) for m in ins.mods if m in ("x1", "x2", "x4"))
    base, offset = d.address(ins.operands[0])
    slots = [d.src(r, "u32") for r in items(ins.operands[1])]
    trans = "trans" in ins.mods

    def run(m, sel):
        table = whole_warps(m, sel)
        address = m.V[base][table].astype(np.int64) + offset
        rows = matrix_rows(d, m, table, shared(address), count, True)
        values = np.stack([m.V[s][table] for s in slots], 1)  # [warps, count, 32]
        values = np.ascontiguousarray(values).view(np.uint16).reshape(len(table), count, 8, 8)
        if trans:
            values = values.transpose(0, 1, 3, 2)
        m.shared_views[2, 8][rows] = values

    return WarpWide(run)


@op("movmatrix")
def movmatrix(d, ins):
    to, a = d.dst(ins.operands[0], "u32"), d.src(ins.operands[1], "u32")

    def run(m, sel):
        table = whole_warps(m, sel)
        rows = np.ascontiguousarray(m.V[a][table]).view(np.uint16).reshape(-1, 8, 8).transpose(0, 2, 1)
        m.V[to][table] = np.ascontiguousarray(rows).view(np.uint32).reshape(-1, 32)

    return WarpWide(run)


def to_real(raw: np.ndarray, kind: str) -> np.ndarray:
    """Elements in their storage type as float64."""
    if kind == "bf16":
        return bf16_to_f32(raw).astype(np.float64)
    if kind == "f16":
        return raw.view(np.float16).astype(np.float64)
    if kind == "tf32":
        return (raw & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    if kind in TABLES:
        return TABLES[kind][raw]
    return (raw.view(np.int8) if kind == "s8" else raw).astype(np.float64)


def a_index(k: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column [32, elements] of A (16 x k): element i of a lane, registers in order, low bits first."""
    per = 4 // size
    count = 16 * k // 32
    i = np.arange(count)
    register, within = i // per, i % per
    row = GROUP[:, None] + np.where(register % 2 == 1, 8, 0)
    column = IN_GROUP[:, None] * per + within + (register // 2) * 4 * per
    return row, column


def b_index(k: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row (k) and column (n) [32, elements] of B (k x 8)."""
    per = 4 // size
    i = np.arange(8 * k // 32)
    register, within = i // per, i % per
    return IN_GROUP[:, None] * per + within + register * 4 * per, np.broadcast_to(GROUP[:, None], (32, len(i)))


# Row and column [32, 4] of C and D (16 x 8).
C_ROW = GROUP[:, None] + np.array([0, 0, 8, 8])
C_COLUMN = IN_GROUP[:, None] * 2 + np.array([0, 1, 0, 1])


@op("mma")
def mma(d, ins):
    shape = next((m for m in ins.mods if m.startswith("m16n8k")), None)
    if shape is None or "sp" in ins.mods or "b1" in ins.mods:
        raise Unsupported("this form of mma")
    k = int(shape[6:])
    types = [m for m in ins.mods if m in ("f16", "bf16", "tf32", "f32", "s8", "u8", "e4m3", "e5m2", "s32", "s4", "u4")]
    d_type, a_type, b_type, c_type = types
    if a_type not in BYTES or ins.mods[ins.mods.index(shape) + 1 : ins.mods.index(shape) + 3] != ("row", "col"):
        raise Unsupported("this form of mma")
    size = BYTES[a_type]
    if k * size not in (16, 32):
        raise Unsupported(f"mma shape {shape} of {a_type}")
    slots = [[d.src(r, "u32") for r in items(o)] for o in ins.operands[1:4]]
    accumulator = "f16x2" if c_type == "f16" else c_type
    slots[2] = [d.src(r, accumulator) for r in items(ins.operands[3])]
    result = "f16x2" if d_type == "f16" else d_type
    targets = [d.dst(r, result) for r in items(ins.operands[0])]
    a_at, b_at = a_index(k, size), b_index(k, size)
    counts = [len(s) for s in slots]
    expected = [4 * k * size // 32, 2 * k * size // 32, 2 if c_type == "f16" else 4]
    if counts != expected:
        raise PtxError(f"operands of {counts} registers, expected {expected}")
    part, saturate = np.dtype(f"u{size}"), "satfinite" in ins.mods

    def gather(m, table, registers):
        raw = np.stack([m.V[s][table] for s in registers], -1)  # [warps, 32, registers]
        return np.ascontiguousarray(raw).view(part)

    def run(m, sel):
        table = whole_warps(m, sel)
        warps = len(table)
        a, b = np.empty((warps, 16, k)), np.empty((warps, k, 8))
        a[:, a_at[0], a_at[1]] = to_real(gather(m, table, slots[0]), a_type)
        b[:, b_at[0], b_at[1]] = to_real(gather(m, table, slots[1]), b_type)
        old = [m.V[s][table].astype(np.float64) for s in slots[2]]
        c = np.concatenate([v if v.ndim == 3 else v[..., None] for v in old], -1)  # [warps, 32, 4]
        total = (a @ b)[:, C_ROW, C_COLUMN] + c
        if d_type == "s32":
            total = total.astype(np.int64)
            total = np.clip(total, -(2**31), 2**31 - 1) if saturate else total.astype(np.int32)
        for i, slot in enumerate(targets):
            m.V[slot][table] = total[..., 2 * i : 2 * i + 2] if d_type == "f16" else total[..., i]

    return WarpWide(run)
