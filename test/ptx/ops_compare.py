"""setp, set, selp and slct (PTX ISA, 'Comparison and Selection Instructions')."""

from __future__ import annotations

import numpy as np

from .decode import op
from .floats import bf16_to_f32
from .kinds import TYPES, type_of
from .syntax import BYTES, Imm, Pair, Sym

ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
UNSIGNED_NAMES = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
BOOLEAN = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, is_float: bool):
    """The function of a comparison operator; the u forms hold for NaN too."""
    if name in UNSIGNED_NAMES:
        return UNSIGNED_NAMES[name]
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name in ORDERED:
        if name == "ne" and is_float:  # numpy's holds for NaN; PTX's does not
            return lambda a, b: (a < b) | (a > b)
        return ORDERED[name]
    opposite = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}[name]
    if opposite == "ne":
        return lambda a, b: ~((a < b) | (a > b))
    function = ORDERED[opposite]
    return lambda a, b: ~function(a, b)


def reader(d, operand, kind):
    """A function that gives an operand's values, with bf16 as float32."""
    slot = d.src(operand, kind)
    if kind.startswith("bf16"):
        return lambda m, sel: bf16_to_f32(m.V[slot][sel])
    return lambda m, sel: m.V[slot][sel]


def split_mods(ins):
    names = [m for m in ins.mods if m not in TYPES and m != "ftz"]
    combine = names[1] if len(names) > 1 else None
    return names[0], combine


@op("setp")
def setp(d, ins):
    name, combine = split_mods(ins)
    kind = type_of(ins)
    kind = kind.replace("b", "u") if kind[0] == "b" and not kind.startswith("bf") else kind
    target, *sources = ins.operands
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, Sym("_"))
    to, other = d.dst(first, "pred"), d.dst(second, "pred")
    function = comparison(name, "f" in kind)
    if not combine and not isinstance(target, Pair) and not kind.startswith("bf16"):
        a, b = d.src(sources[0], kind), d.src(sources[1], kind)

        def fast(m, sel):
            V = m.V
            V[to][sel] = function(V[a][sel], V[b][sel])

        return fast
    a, b = reader(d, sources[0], kind), reader(d, sources[1], kind)
    extra, negated = d.pred(sources[2]) if combine else (None, False)
    packed = kind.endswith("x2")

    def run(m, sel):
        hold = function(a(m, sel), b(m, sel))
        if packed:  # the two halves go to the two predicates
            m.V[to][sel], m.V[other][sel] = hold[:, 0], hold[:, 1]
            return
        unhold = ~hold
        if combine:
            third = m.V[extra][sel] != negated
            hold, unhold = BOOLEAN[combine](hold, third), BOOLEAN[combine](unhold, third)
        m.V[to][sel], m.V[other][sel] = hold, unhold

    return run


@op("set")
def set_value(d, ins):
    name, combine = split_mods(ins)
    types = [m for m in ins.mods if m in TYPES]
    result, kind = types[0], types[-1]
    kind = kind.replace("b", "u") if kind[0] == "b" and not kind.startswith("bf") else kind
    function = comparison(name, "f" in kind)
    a, b = reader(d, ins.operands[1], kind), reader(d, ins.operands[2], kind)
    extra, negated = d.pred(ins.operands[3]) if combine else (None, False)
    ones = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80, "f16x2": 0x3C00, "bf16x2": 0x3F80}
    size = BYTES[result]
    packed = kind.endswith("x2")
    bits = "bf16x2" if packed else f"u{8 * size}"
    to = d.dst(ins.operands[0], bits)
    true = ones.get(result, 0xFFFF if packed else (1 << (8 * size)) - 1)

    def run(m, sel):
        hold = function(a(m, sel), b(m, sel))
        if combine:
            hold = BOOLEAN[combine](hold, m.V[extra][sel] != negated)
        out = m.V[to]
        out[sel] = np.where(hold, out.dtype.type(true), out.dtype.type(0))

    return run


@op("selp")
def selp(d, ins):
    kind = type_of(ins)
    kind = f"u{8 * BYTES[kind]}"
    target, first, second, choice = ins.operands
    to, a, b = d.dst(target, kind), d.src(typed(first, ins), kind), d.src(typed(second, ins), kind)
    p, negated = d.pred(choice)
    if negated:
        a, b = b, a

    def run(m, sel):
        V = m.V
        V[to][sel] = np.where(V[p][sel], V[a][sel], V[b][sel])

    return run


def typed(operand, ins):
    """A decimal float immediate gets the bits of the instruction's type."""
    if isinstance(operand, Imm) and operand.bits is None and isinstance(operand.value, float):
        value = {2: np.float16, 4: np.float32, 8: np.float64}[BYTES[type_of(ins)]](operand.value)
        return Imm(operand.value, int.from_bytes(value.tobytes(), "little"))
    return operand


@op("slct")
def slct(d, ins):
    types = [m for m in ins.mods if m in TYPES]
    kind = f"u{8 * BYTES[types[0]]}"
    target, first, second, choice = ins.operands
    to, a, b = d.dst(target, kind), d.src(first, kind), d.src(second, kind)
    c = d.src(choice, types[1])

    def run(m, sel):
        m.V[to][sel] = np.where(m.V[c][sel] >= 0, m.V[a][sel], m.V[b][sel])

    return run
