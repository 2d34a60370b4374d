"""cvt (PTX ISA, 'Data Movement and Conversion Instructions: cvt' and 'cvt.pack')."""

from __future__ import annotations

import numpy as np

from .decode import op
from .errors import Unsupported
from .floats import FORMATS, TABLES, bf16_to_f32, encode_float, f32_to_bf16, flush, quantize
from .kinds import TYPES
from .syntax import BYTES, Reg

ROUND_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
FP8 = ("e4m3", "e5m2")


@op("cvt")
def cvt(d, ins):
    types = [m for m in ins.mods if m in TYPES]
    if "pack" in ins.mods or len(types) != 2 or any(m in ("rs",) for m in ins.mods):
        raise Unsupported("this form of cvt")
    to, source = types
    if to.endswith("x2") or source.endswith("x2"):
        return packed(d, ins, to.removesuffix("x2"), source)
    if to[0] in "us" and source[0] in "us":
        return between_integers(d, ins, to, source)
    if to[0] in "us":
        return float_to_integer(d, ins, to, source)
    mode = rounding(ins)
    target = d.dst(ins.operands[0], "u32" if to == "tf32" else f"u{8 * BYTES[to]}" if to != "f64" else "f64")
    slot = d.src(ins.operands[1], source)
    if source[0] in "us":
        if to in ("f64", "f32") and mode == "rn":
            target = d.dst(ins.operands[0], to)

            def exact(m, sel):
                m.V[target][sel] = m.V[slot][sel]

            return exact
        return integer_to_float(target, slot, to, mode)
    return between_floats(ins, target, slot, to, source, mode)


def rounding(ins) -> str:
    return next((m for m in ins.mods if m in ("rn", "rz", "rm", "rp", "rna")), "rn")


def between_integers(d, ins, to, source):
    operand = ins.operands[0]
    wide = f"{to[0]}{8 * BYTES[operand.type]}" if isinstance(operand, Reg) else to
    target, slot = d.dst(operand, wide), d.src(ins.operands[1], source)
    kind = np.dtype(f"{'i' if to[0] == 's' else 'u'}{BYTES[to]}")
    if "sat" in ins.mods:
        info = np.iinfo(kind)

        def clip(m, sel):
            value = m.V[slot][sel]
            have = np.iinfo(value.dtype)
            low, high = max(info.min, have.min), min(info.max, have.max)
            m.V[target][sel] = np.clip(value, value.dtype.type(low), value.dtype.type(high)).astype(kind)

        return clip

    def run(m, sel):
        m.V[target][sel] = m.V[slot][sel].astype(kind)

    return run


def real(bits, source):
    """Operand values as numpy floats."""
    if source == "bf16":
        return bf16_to_f32(bits)
    if source in FP8:
        return TABLES[source][bits]
    return bits


def float_to_integer(d, ins, to, source):
    """Rounds, then saturates; NaN gives 0, or the largest value's top bit for 64 bits (PTX ISA, cvt, notes)."""
    function = next((ROUND_INTEGER[m] for m in ins.mods if m in ROUND_INTEGER), np.trunc)
    operand = ins.operands[0]
    wide = f"{to[0]}{8 * BYTES[operand.type]}"
    target, slot = d.dst(operand, wide), d.src(ins.operands[1], source)
    kind = np.dtype(f"{'i' if to[0] == 's' else 'u'}{BYTES[to]}")
    info, ftz = np.iinfo(kind), "ftz" in ins.mods
    nan = 1 << 63 if BYTES[to] == 8 else 0
    nan = nan - (1 << 64) if nan and kind.kind == "i" else nan

    def run(m, sel):
        value = real(m.V[slot][sel], source)
        value = function((flush(value) if ftz else value).astype(np.float64))
        low, high, bad = value <= float(info.min), value >= float(info.max), np.isnan(value)
        out = np.where(low | high | bad, 0, value).astype(kind)
        if low.any() or high.any() or bad.any():
            out[low], out[high], out[bad] = info.min, info.max, nan
        m.V[target][sel] = out

    return run


def integer_to_float(target, slot, to, mode):
    def run(m, sel):
        value = m.V[slot][sel]
        wide = value.astype(np.longdouble)
        if to == "f64":
            out = directed64(wide, mode)
        elif to == "f16" and value.itemsize <= 4:
            out = encode_float(quantize(value.astype(np.float64), to, mode), to)
        else:
            out = encode_float(quantize(odd_double(wide), to, mode), to)
        m.V[target][sel] = out

    return run


def odd_double(value: np.ndarray) -> np.ndarray:
    """Extended precision to float64, inexact results made odd."""
    out = value.astype(np.float64)
    off = out.astype(np.longdouble) != value
    if off.any():
        bits = out.view(np.uint64)
        away = off & (np.abs(out.astype(np.longdouble)) > np.abs(value))
        out = ((bits - away.astype(np.uint64)) | off.astype(np.uint64)).view(np.float64)
    return out


def directed64(value: np.ndarray, mode: str) -> np.ndarray:
    out = value.astype(np.float64)
    if mode == "rn":
        return out
    back = out.astype(np.longdouble)
    if mode == "rz":
        return np.where(np.abs(back) > np.abs(value), np.nextafter(out, 0), out)
    if mode == "rm":
        return np.where(back > value, np.nextafter(out, -np.inf), out)
    return np.where(back < value, np.nextafter(out, np.inf), out)


def finisher(ins, to):
    """Saturation, relu and flushing of float64 results."""
    sat, relu, finite = "sat" in ins.mods, "relu" in ins.mods, "satfinite" in ins.mods
    ftz = "ftz" in ins.mods and to == "f32"
    largest = FORMATS.get(to, (0, 0, float(np.finfo(np.float64).max)))[2]
    if not (sat or relu or finite or ftz):
        return None

    def finish(value):
        if relu:
            value = np.where(value > 0, value, np.where(np.isnan(value), value, 0.0))
        if sat:
            value = np.where(np.isnan(value), 0.0, np.clip(value, 0.0, 1.0))
        if finite:
            value = np.clip(value, -largest, largest)
        return flush(value) if ftz else value

    return finish


def between_floats(ins, target, slot, to, source, mode):
    whole = next((ROUND_INTEGER[m] for m in ins.mods if m in ROUND_INTEGER), None)
    finish = finisher(ins, to)
    ftz = "ftz" in ins.mods and source == "f32"
    plain = finish is None and whole is None and not ftz and mode == "rn"
    if plain and (source, to) == ("f32", "bf16"):
        return lambda m, sel: m.V[target].__setitem__(sel, f32_to_bf16(m.V[slot][sel]))
    if plain and (source, to) == ("bf16", "f32"):
        return lambda m, sel: m.V[target].__setitem__(sel, m.V[slot][sel].astype(np.uint32) << np.uint32(16))

    def run(m, sel):
        value = real(m.V[slot][sel], source)
        value = (flush(value) if ftz else value).astype(np.float64)
        if whole is not None:
            value = whole(value)
        if to == "f64":
            m.V[target][sel] = value if finish is None else finish(value)
            return
        m.V[target][sel] = round_to(value, to, mode, finish)

    return run


def round_to(value, to, mode, finish):
    """Bits of float64 values rounded to a format."""
    if mode == "rna":  # nearest, ties away from zero: tf32 only
        bits = value.astype(np.float32).view(np.uint32)
        return np.where(np.isfinite(value), (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000), bits)
    out = quantize(value, to, mode)
    if finish is not None:
        out = finish(out)
    return encode_float(out, to)


def packed(d, ins, to, source):
    """Two results in one register: the first source in the high half (PTX ISA, cvt)."""
    finish, mode = finisher(ins, to), rounding(ins)
    operands = ins.operands
    size = 1 if to in FP8 else 2
    target = d.dst(operands[0], "u16" if size == 1 else "u32")
    if source in ("e4m3x2", "e5m2x2", "f16x2", "bf16x2"):
        narrow = source.removesuffix("x2") in FP8
        slot = d.src(operands[1], "u16" if narrow else source)

        def unpacked(m, sel):
            bits = m.V[slot][sel]
            if narrow:
                bits = np.ascontiguousarray(bits).view(np.uint8).reshape(-1, 2)
            return real(bits, source.removesuffix("x2")).astype(np.float64)

        values = unpacked
    else:
        if len(operands) != 3 or to not in FORMATS:
            raise Unsupported("this form of cvt")
        high, low = d.src(operands[1], source), d.src(operands[2], source)
        if (to, source, mode, finish) == ("bf16", "f32", "rn", None):

            def fast(m, sel):
                top, bottom = f32_to_bf16(m.V[high][sel]), f32_to_bf16(m.V[low][sel])
                m.V[target][sel] = top.astype(np.uint32) << np.uint32(16) | bottom

            return fast
        values = lambda m, sel: np.stack([m.V[low][sel], m.V[high][sel]], -1).astype(np.float64)  # noqa: E731

    def run(m, sel):
        bits = round_to(values(m, sel), to, mode, finish)
        m.V[target][sel] = np.ascontiguousarray(bits).view(np.uint16 if size == 1 else np.uint32)[:, 0]

    return run
