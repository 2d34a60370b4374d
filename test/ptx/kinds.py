"""PTX types as numpy types, and the slots that hold operands.

A slot is one typed view of a register, of a constant or of a special register, over all threads of a batch: shape
[threads], or [threads, 2] for packed types. `machine.V[slot][threads]` reads it and an assignment there writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import PtxError, Unsupported
from .parse import encode
from .syntax import BYTES, Imm, Instruction, Mem, Neg, Reg, Sym

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
FLOATS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
TYPES = set(BYTES) | {"tf32", "e4m3x2", "e5m2x2", "e4m3", "e5m2", "s4", "u4"}


def dtype(kind: str) -> np.dtype:
    """The numpy type of one element; bf16 and untyped bits are unsigned integers."""
    if kind == "pred":
        return np.dtype(bool)
    kind = kind.removesuffix("x2")
    if kind in FLOATS:
        return np.dtype(FLOATS[kind])
    if kind == "bf16":
        return np.dtype(np.uint16)
    if kind == "tf32":
        return np.dtype(np.uint32)
    table = SIGNED if kind[0] == "s" else UNSIGNED
    return np.dtype(table[int(kind[1:]) // 8])


@dataclass(frozen=True)
class Slot:
    """What a slot views. `what` is reg, const, sreg, sym or sink."""

    what: str
    key: object
    kind: str
    addend: int = 0


class Decoder:
    """Gives operands their slots while a kernel's instructions become closures."""

    def __init__(self, function, module) -> None:
        self.function, self.module = function, module
        self.slots: list[Slot] = []
        self.index: dict[Slot, int] = {}
        self.params = {p.name: p for p in function.params}
        self.pc = 0
        self.grain = 4  # the smallest access to shared memory, in bytes

    def slot(self, slot: Slot) -> int:
        if slot not in self.index:
            self.index[slot] = len(self.slots)
            self.slots.append(slot)
        return self.index[slot]

    def src(self, operand: object, kind: str) -> int:
        """The slot of a source operand, read as `kind`."""
        if isinstance(operand, Reg):
            return self.slot(Slot("reg", operand.index, kind))
        if isinstance(operand, Imm):
            return self.slot(Slot("const", constant(operand, kind), kind))
        if isinstance(operand, Mem) and not operand.rest:
            if isinstance(operand.base, Sym):
                return self.symbol(operand.base.name, kind, operand.offset)
        elif isinstance(operand, Sym):
            return self.symbol(operand.name, kind, 0)
        raise Unsupported(f"operand {operand} of type {kind}")

    def symbol(self, name: str, kind: str, addend: int) -> int:
        if name.startswith("%"):
            return self.slot(Slot("sreg", name[1:], kind))
        if name == "WARP_SZ":
            return self.slot(Slot("const", (32).to_bytes(BYTES[kind], "little"), kind))
        if name not in self.params and name not in self.function.variables and name not in self.module.variables:
            raise PtxError(f"unknown name {name}")
        return self.slot(Slot("sym", name, kind, addend))

    def dst(self, operand: object, kind: str) -> int:
        """The slot of a destination operand; `_` is a place that nobody reads."""
        if isinstance(operand, Reg):
            return self.slot(Slot("reg", operand.index, kind))
        if operand == Sym("_"):
            return self.slot(Slot("sink", None, kind))
        raise Unsupported(f"destination {operand}")

    def pred(self, operand: object) -> tuple[int, bool]:
        """Slot of a predicate source and whether it is negated."""
        if isinstance(operand, Neg):
            slot, negated = self.pred(operand.item)
            return slot, not negated
        if isinstance(operand, Imm):
            return self.slot(Slot("const", bytes([bool(operand.value)]), "pred")), False
        return self.src(operand, "pred"), False

    def address(self, operand: object) -> tuple[int, int]:
        """Slot of a base address and the bytes to add to it."""
        if not isinstance(operand, Mem):
            operand = Mem(operand)
        base = operand.base
        if isinstance(base, Reg):
            return self.src(base, base.type.replace("b", "u").replace("s", "u")), operand.offset
        if isinstance(base, Imm):
            return self.src(Imm(base.value + operand.offset), "u64"), 0
        return self.symbol(base.name, "u64", operand.offset), 0


def constant(operand: Imm, kind: str) -> bytes:
    """The bytes of an immediate read as `kind`."""
    if kind == "pred":
        return bytes([bool(operand.value)])
    if operand.bits is not None:
        size = BYTES[kind]
        if kind == "f64" and operand.bits < 1 << 32 and not isinstance(operand.value, int):
            return np.float64(operand.value).tobytes()
        return (operand.bits & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
    if isinstance(operand.value, float) or kind in ("f32", "f64"):
        return encode(operand, kind)
    return (int(operand.value) & ((1 << (8 * BYTES[kind])) - 1)).to_bytes(BYTES[kind], "little")


def type_of(instruction: Instruction, last: bool = True) -> str:
    """The last (or first) type among the qualifiers."""
    found = [m for m in instruction.mods if m in TYPES]
    if not found:
        raise PtxError("the instruction names no type")
    return found[-1] if last else found[0]


def shaped(kind: str) -> int:
    """Elements of a packed type, 1 for a scalar."""
    return 2 if kind.endswith("x2") else 1


def view(raw: np.ndarray, kind: str) -> np.ndarray:
    """A register's raw array [threads] as `kind`: the low bytes if that is narrower."""
    if raw.dtype == bool or kind == "b128":
        return raw
    want = dtype(kind)
    if shaped(kind) == 2:
        if raw.itemsize == want.itemsize:
            raise PtxError(f"a register of {raw.itemsize} bytes can't hold {kind}")
        return raw.view(want).reshape(len(raw), -1)[:, :2]
    if raw.dtype.itemsize < want.itemsize:
        raise PtxError(f"a register of {raw.dtype.itemsize} bytes can't hold {kind}")
    return raw.view(want)[:: raw.dtype.itemsize // want.itemsize]
