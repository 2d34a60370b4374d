"""Float arithmetic (PTX ISA, 'Floating Point', 'Half Precision' and 'Mixed Precision' instructions).

The approximate instructions give the float64 result rounded to the type: closer than hardware, which may be off by the
errors that the ISA states.
"""

from __future__ import annotations

import numpy as np

from .decode import op
from .errors import Unsupported
from .floats import bf16_to_f32, f64_to_bf16, flush, fma32, fma64, quantize
from .kinds import type_of

FLOAT_OPS: dict = {}


def maximum(a, b, nan: bool):
    """Without .NaN a NaN loses against a number (PTX ISA, 'max'); -0 is below +0."""
    out = np.maximum(a, b) if nan else np.fmax(a, b)
    both = (a == 0) & (b == 0)
    return np.where(both, a + b, out) if np.count_nonzero(both) else out


def minimum(a, b, nan: bool):
    out = np.minimum(a, b) if nan else np.fmin(a, b)
    both = (a == 0) & (b == 0)
    return np.where(both, -(-a - b), out) if np.count_nonzero(both) else out


def tail(ins):
    """What happens to a float result after the operation: saturation, relu, flushing."""
    sat, relu, ftz = "sat" in ins.mods, "relu" in ins.mods, "ftz" in ins.mods and type_of(ins) == "f32"
    if not (sat or relu or ftz):
        return None

    def finish(value):
        if ftz:
            value = flush(value)
        if sat:
            value = np.where(np.isnan(value), value.dtype.type(0), np.clip(value, 0, 1)).astype(value.dtype)
        if relu:
            value = np.where(value > 0, value, np.where(np.isnan(value), value, value.dtype.type(0)))
        return value

    return finish


def build(d, ins, narrow, wide):
    """`narrow` works in f32, f64 and f16 itself; `wide` on the float64 values of bf16 operands."""
    kind = type_of(ins)
    to, slots = d.dst(ins.operands[0], kind), [d.src(o, kind) for o in ins.operands[1:]]
    finish = tail(ins)
    if kind.startswith("bf16"):

        def run(m, sel):
            value = wide(*(bf16_to_f32(m.V[s][sel]).astype(np.float64) for s in slots))
            m.V[to][sel] = f64_to_bf16(value if finish is None else finish(value))

        return run
    mode = next((r for r in ("rz", "rm", "rp") if r in ins.mods), None)
    if mode and kind == "f32":
        return directed(d, ins, wide, mode)
    ftz = "ftz" in ins.mods and kind == "f32"
    if finish is None and len(slots) == 2:
        a, b = slots

        def run(m, sel):
            V = m.V
            V[to][sel] = narrow(V[a][sel], V[b][sel])

    elif finish is None:

        def run(m, sel):
            m.V[to][sel] = narrow(*(m.V[s][sel] for s in slots))

    else:

        def run(m, sel):
            values = [m.V[s][sel] for s in slots]
            m.V[to][sel] = finish(narrow(*(map(flush, values) if ftz else values)))

    return run


def directed(d, ins, wide, mode):
    """f32 with a directed rounding, through float64 rounded to odd where it is inexact."""
    to, slots = d.dst(ins.operands[0], "f32"), [d.src(o, "f32") for o in ins.operands[1:]]
    finish = tail(ins)

    def run(m, sel):
        value = quantize(wide(*(m.V[s][sel].astype(np.float64) for s in slots)), "f32", mode).astype(np.float32)
        m.V[to][sel] = value if finish is None else finish(value)

    return run


def add64(a, b):
    return fma64(a, np.ones_like(a), b)


def sub64(a, b):
    return fma64(a, np.ones_like(a), -b)


def fused(a, b, c):
    if a.dtype == np.float32:
        return fma32(a, b, c)
    if a.dtype == np.float16:
        x, y, z = (v.astype(np.float64) for v in (a, b, c))
        return fma64(x, y, z).astype(np.float16)
    return fma_f64(a, b, c)


def fma_f64(a, b, c):
    """float64: in extended precision, whose 64 bits leave a double rounding in about 1 of 2,000 cases."""
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)).astype(np.float64)


def arithmetic(name, narrow, wide=None):
    FLOAT_OPS[name] = lambda d, ins: build(d, ins, narrow, wide or narrow)


arithmetic("add", np.add, add64)
arithmetic("sub", np.subtract, sub64)
arithmetic("mul", np.multiply)
arithmetic("mad", fused, fma64)
arithmetic("div", np.divide)


@op("fma")
def fma(d, ins):
    return build(d, ins, fused, fma64)


def extreme(function):
    def make(d, ins):
        if "xorsign" in ins.mods:
            raise Unsupported("xorsign")
        nan = "NaN" in ins.mods

        def many(first, *rest):
            for each in rest:
                first = function(first, each, nan)
            return first

        return build(d, ins, many, many)

    return make


FLOAT_OPS["min"] = extreme(minimum)
FLOAT_OPS["max"] = extreme(maximum)


def sign_bits(function):
    """neg and abs work on the sign bit alone, NaN included."""

    def make(d, ins):
        kind = type_of(ins)
        count = "x2" in kind
        bits = f"u{16 if '16' in kind else int(kind[1:])}" + ("x2" if count else "")
        to, a = d.dst(ins.operands[0], bits), d.src(ins.operands[1], bits)
        width = 16 if "16" in kind else int(kind[1:])
        top = np.dtype(f"u{width // 8}").type(1 << (width - 1))

        def run(m, sel):
            m.V[to][sel] = function(m.V[a][sel], top)

        return run

    return make


FLOAT_OPS["neg"] = sign_bits(lambda value, top: value ^ top)
FLOAT_OPS["abs"] = sign_bits(lambda value, top: value & ~top)


def unary(name, function):
    def make(d, ins):
        kind = type_of(ins)
        if kind.startswith("bf16"):
            return build(d, ins, function, function)
        to, a = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind)
        finish = tail(ins)
        out = {"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind.removesuffix("x2")]

        def run(m, sel):
            value = m.V[a][sel]
            if finish is not None and out is np.float32:
                value = flush(value)
            result = function(value.astype(np.float64)).astype(out)
            m.V[to][sel] = result if finish is None else finish(result)

        return run

    op(name)(make)


unary("ex2", np.exp2)
unary("lg2", np.log2)
unary("sin", np.sin)
unary("cos", np.cos)
unary("tanh", np.tanh)
unary("rcp", lambda x: 1.0 / x)
unary("sqrt", np.sqrt)
unary("rsqrt", lambda x: 1.0 / np.sqrt(x))


@op("copysign")
def copysign(d, ins):
    """The sign of a with the magnitude of b."""
    kind = type_of(ins)
    to, a, b = d.dst(ins.operands[0], kind), d.src(ins.operands[1], kind), d.src(ins.operands[2], kind)

    def run(m, sel):
        m.V[to][sel] = np.copysign(m.V[b][sel], m.V[a][sel])

    return run


@op("testp")
def testp(d, ins):
    kind = type_of(ins)
    to, a = d.dst(ins.operands[0], "pred"), d.src(ins.operands[1], kind)
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
    }
    test = tests[ins.mods[0]]

    def run(m, sel):
        m.V[to][sel] = test(m.V[a][sel])

    return run
