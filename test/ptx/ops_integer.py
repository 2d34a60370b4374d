"""Integer arithmetic, logic and bit operations (PTX ISA, 'Integer Arithmetic', 'Logic and Shift Instructions')."""

from __future__ import annotations

import numpy as np

from .decode import OPS, op
from .errors import Unsupported
from .kinds import type_of
from .syntax import BYTES

FLOAT_TYPES = {"f16", "f16x2", "bf16", "bf16x2", "f32", "f64", "f32x2"}


def is_float(ins) -> bool:
    return type_of(ins) in FLOAT_TYPES


def simple(d, ins, function, kind, to_kind=None):
    """d = function(a, b, ...) on values of one kind."""
    to = d.dst(ins.operands[0], to_kind or kind)
    slots = [d.src(o, kind) for o in ins.operands[1:]]
    if len(slots) == 1:
        (a,) = slots

        def run(m, sel):
            V = m.V
            V[to][sel] = function(V[a][sel])

    elif len(slots) == 2:
        a, b = slots

        def run(m, sel):
            V = m.V
            V[to][sel] = function(V[a][sel], V[b][sel])

    else:

        def run(m, sel):
            V = m.V
            V[to][sel] = function(*(V[s][sel] for s in slots))

    return run


def either(name: str, integer):
    """Registers an opcode that floats share: their decoder stands in ops_float."""

    def build(d, ins):
        if is_float(ins):
            from .ops_float import FLOAT_OPS

            return FLOAT_OPS[name](d, ins)
        return integer(d, ins)

    OPS[name] = build


def typed(function, bits: bool = False):
    def build(d, ins):
        kind = type_of(ins)
        if kind != "pred" and bits:
            kind = f"u{8 * BYTES[kind]}"
        if kind.endswith("16x2"):
            return pairs(d, ins, function)
        return simple(d, ins, function, kind)

    return build


def pairs(d, ins, function):
    """u16x2 and s16x2."""
    part = np.dtype(f"{'i' if type_of(ins)[0] == 's' else 'u'}2")
    to, slots = d.dst(ins.operands[0], "u32"), [d.src(o, "u32") for o in ins.operands[1:]]

    def run(m, sel):
        values = [np.ascontiguousarray(m.V[s][sel]).view(part) for s in slots]
        m.V[to][sel] = function(*values).astype(part).view(np.uint32)

    return run


def saturating(function):
    """add.sat and sub.sat exist for s32."""

    def build(d, ins):
        if "sat" in ins.mods:
            return simple(d, ins, lambda a, b: np.clip(function(a.astype(np.int64), b), -(2**31), 2**31 - 1), "s32")
        if "cc" in ins.mods:
            raise Unsupported("carry flags")
        return typed(function)(d, ins)

    return build


def division(a, b):
    """C division; by zero gives all ones (PTX ISA: unspecified, machine-dependent)."""
    zero = b == 0
    safe = np.where(zero, np.ones_like(b), b)
    if a.dtype.kind == "u":
        return np.where(zero, np.iinfo(a.dtype).max, a // safe).astype(a.dtype)
    quotient = np.abs(a).view(f"u{a.itemsize}") // np.abs(safe).view(f"u{a.itemsize}")
    signed = quotient.view(a.dtype)
    return np.where(zero, -1, np.where((a < 0) != (b < 0), -signed, signed)).astype(a.dtype)


def remainder(a, b):
    return (a - division(a, b) * b).astype(a.dtype)


either("add", saturating(np.add))
either("sub", saturating(np.subtract))
either("div", typed(division))
either("min", typed(np.minimum))
either("max", typed(np.maximum))
either("neg", typed(np.negative))
either("abs", typed(np.abs))
OPS["rem"] = typed(remainder)
for _name, _function in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}.items():
    OPS[_name] = typed(_function, bits=True)


def high_product(a, b):
    """The upper half of the product, of the operands' type."""
    size = a.itemsize
    if size < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * size}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(8 * size)).astype(a.dtype)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    xl, xh, yl, yh = x & mask, x >> half, y & mask, y >> half
    middle = xh * yl + (xl * yl >> half)
    other = xl * yh + (middle & mask)
    high = xh * yh + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def multiply(d, ins):
    kind = type_of(ins)
    if "wide" in ins.mods:
        wide = f"{kind[0]}{16 * BYTES[kind]}"
        to, a, b = d.dst(ins.operands[0], wide), d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
        big = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{2 * BYTES[kind]}")

        def run(m, sel):
            m.V[to][sel] = m.V[a][sel].astype(big) * m.V[b][sel]

        return run
    return simple(d, ins, high_product if "hi" in ins.mods else np.multiply, kind)


either("mul", multiply)


def multiply_add(d, ins):
    kind = type_of(ins)
    if "cc" in ins.mods or "sat" in ins.mods:
        raise Unsupported("mad with carry or saturation")
    if "wide" in ins.mods:
        wide = f"{kind[0]}{16 * BYTES[kind]}"
        to, a, b = d.dst(ins.operands[0], wide), d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
        c = d.src(ins.operands[3], wide)
        big = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{2 * BYTES[kind]}")

        def run(m, sel):
            m.V[to][sel] = m.V[a][sel].astype(big) * m.V[b][sel] + m.V[c][sel]

        return run
    if "hi" in ins.mods:
        return simple(d, ins, lambda a, b, c: high_product(a, b) + c, kind)
    return simple(d, ins, lambda a, b, c: a * b + c, kind)


either("mad", multiply_add)


@op("shl", "shr")
def shift(d, ins):
    """Amounts of the width and more shift everything out."""
    kind, left = type_of(ins), ins.op == "shl"
    width = 8 * BYTES[kind]
    kind = f"s{width}" if kind[0] == "s" and not left else f"u{width}"
    to, a, b = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind), d.src(ins.operands[2], "u32")

    def run(m, sel):
        value, amount = m.V[a][sel], m.V[b][sel]
        small = np.minimum(amount, width - 1).astype(value.dtype)
        out = value << small if left else value >> small
        if kind[0] == "u":
            out = np.where(amount >= width, value.dtype.type(0), out)
        m.V[to][sel] = out

    return run


@op("shf")
def funnel(d, ins):
    to, (a, b, c) = d.dst(ins.operands[0], "u32"), [d.src(o, "u32") for o in ins.operands[1:]]
    left, wrap = "l" in ins.mods, "wrap" in ins.mods

    def run(m, sel):
        both = m.V[b][sel].astype(np.uint64) << np.uint64(32) | m.V[a][sel]
        amount = m.V[c][sel].astype(np.uint64)
        amount = amount & np.uint64(31) if wrap else np.minimum(amount, np.uint64(32))
        m.V[to][sel] = (both << amount) >> np.uint64(32) if left else both >> amount

    return run


@op("lop3")
def lop3(d, ins):
    """Immediate bit (a << 2 | b << 1 | c) is the result for those bits of a, b, c."""
    to, slots, table = (
        d.dst(ins.operands[0], "u32"),
        [d.src(o, "u32") for o in ins.operands[1:4]],
        ins.operands[4].value,
    )

    def run(m, sel):
        a, b, c = (m.V[s][sel] for s in slots)
        out = np.zeros_like(a)
        for i in range(8):
            if table >> i & 1:
                out |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        m.V[to][sel] = out

    return run


@op("prmt")
def prmt(d, ins):
    """Picks 4 of 8 bytes; bit 3 of a selector repeats the byte's sign."""
    if ins.mods[-1] != "b32":
        raise Unsupported("modes of prmt")
    to, slots = d.dst(ins.operands[0], "u32"), [d.src(o, "u32") for o in ins.operands[1:4]]

    def run(m, sel):
        a, b, c = (np.ascontiguousarray(m.V[s][sel]) for s in slots)
        data = np.stack([a, b], -1).view(np.uint8)
        choice = (c[:, None] >> np.array([0, 4, 8, 12], np.uint32)) & np.uint32(15)
        out = np.take_along_axis(data, (choice & 7).astype(np.intp), 1)
        out = np.where(choice & 8, np.where(out & 0x80, 0xFF, 0), out).astype(np.uint8)
        m.V[to][sel] = np.ascontiguousarray(out).view(np.uint32)[:, 0]

    return run


@op("bfe")
def bfe(d, ins):
    kind = type_of(ins)
    width = 8 * BYTES[kind]
    to, a = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind)
    b, c = d.src(ins.operands[2], "u32"), d.src(ins.operands[3], "u32")

    def run(m, sel):
        value = m.V[a][sel]
        pos, length = (m.V[s][sel].astype(np.int64) & 0xFF for s in (b, c))
        out = [extract(int(v), int(p), int(n), width, kind[0] == "s") for v, p, n in zip(value, pos, length)]
        m.V[to][sel] = np.array(out, value.dtype)

    return run


def extract(value: int, pos: int, length: int, width: int, signed: bool) -> int:
    bits = value & ((1 << width) - 1)
    if length == 0:
        return 0
    sign = bits >> min(pos + length - 1, width - 1) & 1 if signed else 0
    field = bits >> pos & ((1 << length) - 1)
    held = min(length, max(width - pos, 0))
    if sign:
        field |= -1 << held
    return field if field < 0 or not signed or length < width else field - (1 << width) * (field >> (width - 1))


@op("bfi")
def bfi(d, ins):
    kind = f"u{8 * BYTES[type_of(ins)]}"
    width = 8 * BYTES[kind]
    to, a, b = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)
    c, e = d.src(ins.operands[3], "u32"), d.src(ins.operands[4], "u32")

    def run(m, sel):
        low, into = m.V[a][sel], m.V[b][sel]
        pos, length = (m.V[s][sel].astype(np.uint64) & np.uint64(0xFF) for s in (c, e))
        full = np.uint64(2**64 - 1)
        ones = np.where(length >= 64, full, ~(full << np.minimum(length, np.uint64(63))))
        mask = np.where(pos >= width, np.uint64(0), ones << np.minimum(pos, np.uint64(63)))
        moved = low.astype(np.uint64) << np.minimum(pos, np.uint64(63))
        m.V[to][sel] = (into & ~mask) | (moved & mask)

    return run


def popcount(a):
    return np.bitwise_count(a)


def leading_zeros(a):
    width = 8 * a.itemsize
    out = np.full(a.shape, width, np.uint32)
    value = a.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < width:
            big = value >> a.dtype.type(step)
            out = np.where(big != 0, out - np.uint32(step), out)
            value = np.where(big != 0, big, value)
    return np.where(value != 0, out - np.uint32(1), out)


def reverse(a):
    raw = np.ascontiguousarray(a).view(np.uint8).reshape(len(a), -1)
    return np.packbits(np.unpackbits(raw, axis=1)[:, ::-1], axis=1).view(a.dtype)[:, 0]


@op("popc", "clz", "brev")
def count_bits(d, ins):
    kind = f"u{8 * BYTES[type_of(ins)]}"
    function = {"popc": popcount, "clz": leading_zeros, "brev": reverse}[ins.op]
    return simple(d, ins, function, kind, kind if ins.op == "brev" else "u32")


@op("bfind")
def bfind(d, ins):
    kind = type_of(ins)
    to, a = d.dst(ins.operands[0], "u32"), d.src(ins.operands[1], kind)
    width, amount = 8 * BYTES[kind], "shiftamt" in ins.mods

    def run(m, sel):
        value = m.V[a][sel]
        value = np.where(value < 0, ~value, value) if kind[0] == "s" else value
        zeros = leading_zeros(value.view(f"u{value.itemsize}"))
        found = zeros if amount else np.uint32(width - 1) - zeros
        m.V[to][sel] = np.where(zeros == width, np.uint32(0xFFFFFFFF), found)

    return run


@op("dp4a", "dp2a")
def dot(d, ins):
    if ins.op == "dp2a":
        raise Unsupported("dp2a")
    types = [m for m in ins.mods if m in ("u32", "s32")]
    to, slots = d.dst(ins.operands[0], "u32"), [d.src(o, "u32") for o in ins.operands[1:]]
    kinds = [np.int8 if t == "s32" else np.uint8 for t in types]

    def run(m, sel):
        a, b, c = (np.ascontiguousarray(m.V[s][sel]) for s in slots)
        x, y = (v.view(k).reshape(-1, 4).astype(np.int64) for v, k in zip((a, b), kinds))
        m.V[to][sel] = ((x * y).sum(1) + c.view(np.int32)).astype(np.uint32)

    return run


@op("sad")
def sad(d, ins):
    kind = type_of(ins)
    return simple(d, ins, lambda a, b, c: (np.maximum(a, b) - np.minimum(a, b)) + c, kind)


@op("addc", "subc", "madc")
def carries(d, ins):
    raise Unsupported("carry flags")
