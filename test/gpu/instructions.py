"""What each PTX instruction does, decoded once (PTX ISA 8.x, "Instruction Set")."""

from __future__ import annotations

import operator
from collections.abc import Callable

import ml_dtypes
import numpy as np

from . import tensor
from .memory import SHARED_WINDOW
from .parser import Instruction, Program, PtxError, immediate

_TYPES = {
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64,
    "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64,
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16, "pred": np.bool_,
}  # fmt: skip

_COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge,
}  # fmt: skip

Action = Callable[["object", np.ndarray, int], object]


def decode(instruction: Instruction, program: Program) -> Action:
    """The action of an instruction. Raises `PtxError` for one that is not known."""
    name, operands = instruction.name, instruction.operands
    root = name[0]
    if root in _CONTROL:
        return _CONTROL[root](name, operands, program)
    if root in ("ld", "st"):
        return _memory(name, operands)
    if root in tensor.ACTIONS:
        return tensor.ACTIONS[root](name, operands)
    if root == "mov":
        return _mov(name, operands)
    if root == "setp":
        return _setp(name, operands)
    if root == "cvt":
        return _cvt(name, operands)
    if root == "cvta":
        return _cvta(name, operands)
    if root in _ARITHMETIC:
        return _arithmetic(root, name, operands)
    raise PtxError(f"line {instruction.line}: unknown instruction {'.'.join(name)}")


# Control.


def _bra(name, operands, program):
    target = program.labels.get(operands[0])
    if target is None:
        raise PtxError(f"unknown label {operands[0]}")

    def run(batch, at, pc):
        batch.go(target, at)
        return True

    return run


def _ret(name, operands, program):
    def run(batch, at, pc):
        batch.end(at)
        return True

    return run


def _bar(name, operands, program):
    if "warp" in name:
        return lambda batch, at, pc: None
    count = immediate(operands[1]) if len(operands) > 1 else None

    def run(batch, at, pc):
        number = int(batch.value(operands[0], at, np.uint32)[0])
        batch.barrier(pc, at, number, count)
        return True

    return run


def _nothing(name, operands, program):
    return lambda batch, at, pc: None


_CONTROL = {"bra": _bra, "ret": _ret, "exit": _ret, "bar": _bar, "barrier": _bar, "setmaxnreg": _nothing}
_CONTROL |= {"fence": _nothing, "membar": _nothing, "prefetch": _nothing, "griddepcontrol": _nothing}


# Memory.


def address(batch, operand: str, at: np.ndarray) -> np.ndarray:
    """Addresses that `[base + offset]` names, as u64."""
    text = operand.strip("[]").replace(" ", "")
    base, _, offset = text.partition("+")
    raw = batch.value(base, at, np.uint64)
    return raw + np.uint64(int(offset or "0", 0) % (1 << 64))


def _memory(name, operands):
    kind = name[-1]
    dtype = np.dtype(_TYPES[kind])
    vector = next((int(part[1:]) for part in name if part in ("v2", "v4", "v8")), 1)
    space = next(
        (
            part.split("::")[0]
            for part in name
            if part.split("::")[0] in ("global", "shared", "local", "param", "const")
        ),
        "",
    )
    space = "global" if space == "const" else space
    load = name[0] == "ld"
    place, values = (operands[1], operands[0]) if load else (operands[0], operands[1])
    registers = [part.strip() for part in values.strip("{}").split(",")]
    size = dtype.itemsize

    if space == "param":
        base, _, offset = place.strip("[]").partition("+")

        def run(batch, at, pc):
            value = batch.parameters[base] % (1 << 64) >> 8 * int(offset or 0) & (1 << 8 * size) - 1
            batch.set(registers[0], at, np.full(at.size, value, np.dtype(f"u{size}")))

    elif load:

        def run(batch, at, pc):
            data = batch.load(space, address(batch, place, at), size * vector, size * vector, at)
            parts = np.ascontiguousarray(data).view(dtype).reshape(at.size, vector)
            for i, register in enumerate(registers):
                batch.set(register, at, _widened(batch, register, parts[:, i]))

    else:

        def run(batch, at, pc):
            parts = np.stack([batch.value(register, at, dtype) for register in registers], axis=1)
            raw = np.ascontiguousarray(parts).view(np.uint8).reshape(at.size, size * vector)
            batch.store(space, address(batch, place, at), raw, size * vector, at)

    return run


def _widened(batch, register: str, values: np.ndarray) -> np.ndarray:
    """Signed loads are extended to the register."""
    if register == "_" or values.dtype.kind != "i":
        return values
    return values.astype(np.dtype(f"i{batch.register(register).dtype.itemsize}"))


# Moves and conversions.


def _mov(name, operands):
    dtype = np.dtype(_TYPES[name[-1]])
    target, source = operands
    if target.startswith("{"):
        parts = [part.strip() for part in target.strip("{}").split(",")]

        def run(batch, at, pc):
            raw = np.ascontiguousarray(batch.value(source, at, dtype))
            pieces = raw.view(np.dtype(f"u{dtype.itemsize // len(parts)}")).reshape(at.size, len(parts))
            for i, part in enumerate(parts):
                batch.set(part, at, pieces[:, i])

        return run
    if source.startswith("{"):
        parts = [part.strip() for part in source.strip("{}").split(",")]

        def run(batch, at, pc):
            piece = np.dtype(f"u{dtype.itemsize // len(parts)}")
            raw = np.stack([batch.value(part, at, piece) for part in parts], axis=1)
            batch.set(target, at, np.ascontiguousarray(raw).view(dtype).reshape(at.size))

        return run
    return lambda batch, at, pc: batch.set(target, at, batch.value(source, at, dtype))


def _setp(name, operands):
    dtype = np.dtype(_TYPES[name[-1]])
    test = name[1]
    both = [part for part in name[2:-1] if part in ("and", "or", "xor")]
    targets = operands[0].split("|")

    def compare(a, b):
        if dtype.kind in "fV" and test not in ("eq", "ne", "lt", "le", "gt", "ge"):
            nan = np.isnan(a) | np.isnan(b)
            if test == "nan":
                return nan
            if test == "num":
                return ~nan
            return nan | _COMPARE[test[:-1]](a, b)  # equ, neu, ...
        result = _COMPARE[test](a, b)
        return result & ~(np.isnan(a) | np.isnan(b)) if dtype.kind == "f" and test == "ne" else result

    def run(batch, at, pc):
        result = compare(batch.value(operands[1], at, dtype), batch.value(operands[2], at, dtype))
        if both:
            other = batch.value(operands[3].lstrip("!"), at, np.bool_) ^ operands[3].startswith("!")
            result = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[both[0]](result, other)
        batch.set(targets[0], at, result)

    return run


def _packed(values_high: np.ndarray, values_low: np.ndarray, dtype) -> np.ndarray:
    pair = np.stack([values_low.astype(dtype), values_high.astype(dtype)], axis=1)
    return np.ascontiguousarray(pair).view(np.uint32).reshape(-1)


def _cvt(name, operands):
    to, source = name[-2], name[-1]
    if to in ("bf16x2", "f16x2"):
        dtype = _TYPES[to[:-2]]

        def run(batch, at, pc):
            with np.errstate(all="ignore"):
                high, low = (batch.value(operand, at, np.float32) for operand in operands[1:])
                batch.set(operands[0], at, _packed(high, low, dtype))

        return run
    wanted, given = np.dtype(_TYPES[to]), np.dtype(_TYPES[source])
    integral = next((part for part in name if part in ("rni", "rzi", "rmi", "rpi")), None)
    rounding = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}

    def convert(values):
        if integral:
            values = rounding[integral](values.astype(np.float64))
            if wanted.kind in "iu":
                limits = np.iinfo(wanted)
                values = np.where(np.isnan(values), 0, np.clip(values, float(limits.min), float(limits.max)))
                top = values >= float(limits.max)
                return np.where(top, limits.max, np.where(top, 0, values).astype(wanted)).astype(wanted)
        if given.kind not in "iu" and wanted.kind in "iu":
            raise PtxError("conversion to an integer without rounding")
        return values.astype(wanted)

    def run(batch, at, pc):
        with np.errstate(all="ignore"):
            values = convert(batch.value(operands[1], at, given))
        register = batch.register(operands[0])
        if wanted.kind == "i" and wanted.itemsize < register.dtype.itemsize:
            values = values.astype(np.dtype(f"i{register.dtype.itemsize}"))
        batch.set(operands[0], at, values)

    return run


def _cvta(name, operands):
    to_generic = "to" not in name
    window = SHARED_WINDOW if name[1 if to_generic else 2].startswith("shared") else 0

    def run(batch, at, pc):
        raw = batch.value(operands[1], at, np.uint64)
        if window:
            raw = raw | np.uint64(window) if to_generic else raw & np.uint64(window - 1)
        batch.set(operands[0], at, raw)

    return run


# Arithmetic.


def _wide(dtype):
    return np.dtype(f"{dtype.kind}{dtype.itemsize * 2}")


def _high(a, b, dtype):
    if dtype.itemsize < 8:
        return (a.astype(_wide(dtype)) * b.astype(_wide(dtype)) >> 8 * dtype.itemsize).astype(dtype)
    product = a.astype(object) * b.astype(object)
    return np.array([int(p) >> 64 for p in product], object).astype(dtype) if product.size else a


def _fma(a, b, c, dtype):
    if dtype == np.float64:
        return a * b + c
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(dtype)


def _divide(a, b, dtype):
    if dtype.kind not in "iu":
        return a / b
    safe = np.where(b == 0, 1, b)
    if dtype.kind == "u":
        return a // safe
    quotient = np.abs(a) // np.abs(safe)
    return np.where((a < 0) != (safe < 0), -quotient, quotient).astype(dtype)


def _remainder(a, b, dtype):
    safe = np.where(b == 0, 1, b).astype(dtype)
    return (a - _divide(a, safe, dtype) * safe).astype(dtype)


def _extremum(name, function, a, b, dtype):
    if dtype.kind in "iu":
        return function(a, b)
    if "NaN" in name:
        return np.where(np.isnan(a) | np.isnan(b), dtype.type(np.nan), function(a, b))
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, function(a, b)))


def _shift(a, count, dtype, left):
    bits = 8 * dtype.itemsize
    small = np.minimum(count, bits - 1).astype(dtype)
    result = a << small if left else a >> small
    return result if not left and dtype.kind == "i" else np.where(count >= bits, 0, result).astype(dtype)


def _prmt(a, b, selector):
    pool = np.concatenate([np.ascontiguousarray(x).view(np.uint8).reshape(-1, 4) for x in (a, b)], axis=1)
    result = np.empty((a.size, 4), np.uint8)
    for i in range(4):
        nibble = (selector >> (4 * i)) & 15
        chosen = pool[np.arange(a.size), nibble & 7]
        result[:, i] = np.where(nibble & 8, np.where(chosen & 0x80, 0xFF, 0), chosen)
    return result.view(np.uint32).reshape(-1)


def _funnel(name, low, high, count):
    both = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    amount = (count & 31 if "wrap" in name else np.minimum(count, 32)).astype(np.uint64)
    if "l" in name[1:2]:
        return (both << amount >> np.uint64(32)).astype(np.uint32)
    return (both >> amount).astype(np.uint32)


def _lop3(a, b, c, table):
    result = np.zeros_like(a)
    for i in range(8):
        if int(table[0]) >> i & 1:
            term = (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            result = result | term
    return result


def _bfe(a, begin, length, dtype):
    bits = 8 * dtype.itemsize
    begin, length = (np.minimum(x & 255, bits) for x in (begin, length))
    unsigned = a.view(np.dtype(f"u{dtype.itemsize}"))
    shifted = _shift(unsigned, begin.astype(unsigned.dtype), unsigned.dtype, left=False)
    mask = np.where(
        length >= bits, ~unsigned.dtype.type(0), (unsigned.dtype.type(1) << length.astype(unsigned.dtype)) - 1
    )
    return (shifted & mask).astype(unsigned.dtype)


_SIMPLE = {
    "add": lambda n, d, a, b: a + b,
    "sub": lambda n, d, a, b: a - b,
    "div": lambda n, d, a, b: _divide(a, b, d),
    "rem": lambda n, d, a, b: _remainder(a, b, d),
    "min": lambda n, d, a, b: _extremum(n, np.minimum, a, b, d),
    "max": lambda n, d, a, b: _extremum(n, np.maximum, a, b, d),
    "and": lambda n, d, a, b: a & b,
    "or": lambda n, d, a, b: a | b,
    "xor": lambda n, d, a, b: a ^ b,
    "fma": lambda n, d, a, b, c: _fma(a, b, c, d),
    "not": lambda n, d, a: ~a,
    "neg": lambda n, d, a: (-a).astype(d),
    "abs": lambda n, d, a: np.abs(a),
    "sqrt": lambda n, d, a: np.sqrt(a),
    "rsqrt": lambda n, d, a: (1 / np.sqrt(a)).astype(d),
    "rcp": lambda n, d, a: (1 / a).astype(d),
    "ex2": lambda n, d, a: np.exp2(a).astype(d),
    "lg2": lambda n, d, a: np.log2(a).astype(d),
    "popc": lambda n, d, a: np.bitwise_count(a),
    "copysign": lambda n, d, a, b: np.copysign(b, a),
}


def _mul(name, dtype, a, b):
    if "wide" in name:
        return a.astype(_wide(dtype)) * b.astype(_wide(dtype))
    if "hi" in name:
        return _high(a, b, dtype)
    return a * b


def _arithmetic(root, name, operands):
    dtype = np.dtype(_TYPES[name[-1]])
    target, sources = operands[0], operands[1:]

    def compute(batch, at):
        def value(i, kind=dtype):
            return batch.value(sources[i], at, kind)

        if root == "mul":
            return _mul(name, dtype, value(0), value(1))
        if root == "mad":
            product = _mul(name, dtype, value(0), value(1))
            return product + value(2, product.dtype)
        if root == "selp":
            return np.where(value(2, np.bool_), value(0), value(1))
        if root in ("shl", "shr"):
            return _shift(value(0), value(1, np.uint32), dtype, root == "shl")
        if root == "shf":
            return _funnel(name, value(0), value(1), value(2, np.uint32))
        if root == "prmt":
            return _prmt(value(0), value(1), value(2))
        if root == "lop3":
            return _lop3(value(0), value(1), value(2), value(3))
        if root == "bfe":
            return _bfe(value(0), value(1, np.uint32), value(2, np.uint32), dtype)
        return _SIMPLE[root](name, dtype, *(value(i) for i in range(len(sources))))

    def run(batch, at, pc):
        with np.errstate(all="ignore"):
            batch.set(target, at, compute(batch, at))

    return run


_ARITHMETIC = {*_SIMPLE, "mul", "mad", "selp", "shl", "shr", "shf", "prmt", "lop3", "bfe"}
