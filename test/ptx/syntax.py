"""What PTX text is parsed into: operands, instructions, variables, functions, a module."""

from __future__ import annotations

from dataclasses import dataclass, field

WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}
BYTES = {f"{k}{w}": n for w, n in WIDTHS.items() for k in "busf"} | {"f16x2": 4, "bf16x2": 4, "bf16": 2, "pred": 1}


@dataclass(frozen=True)
class Reg:
    """A register of a function: its index in the register file."""

    index: int
    type: str
    name: str


@dataclass(frozen=True)
class Imm:
    """A constant. `bits` holds the pattern of a hexadecimal float constant, else None."""

    value: int | float
    bits: int | None = None


@dataclass(frozen=True)
class Sym:
    """A special register, a variable, a parameter or a label."""

    name: str


@dataclass(frozen=True)
class Mem:
    """An address [base + offset], or the list of [address, {coordinates}, ...] that tensor copies take."""

    base: object
    offset: int = 0
    rest: tuple = ()


@dataclass(frozen=True)
class Vec:
    """Operands in braces."""

    items: tuple


@dataclass(frozen=True)
class Neg:
    """A predicate with an exclamation mark."""

    item: object


@dataclass(frozen=True)
class Pair:
    """d|p: a destination with a predicate or a second destination beside it."""

    first: object
    second: object


SINK = Sym("_")


@dataclass
class Variable:
    """A module or function variable. `address` is given when a kernel is loaded."""

    name: str
    space: str
    size: int
    align: int
    init: bytes = b""
    refs: list[tuple[int, str, int]] = field(default_factory=list)  # (offset, symbol, addend) in an initialiser
    extern: bool = False


@dataclass
class Instruction:
    """One instruction: opcode split at dots, operands, guard predicate, where it stands."""

    op: str
    mods: tuple[str, ...]
    operands: list
    guard: tuple[Reg, bool] | None
    line: int
    text: str
    target: int = -1  # index of the instruction that a branch goes to
    targets: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return ".".join((self.op, *self.mods))


@dataclass
class Param:
    name: str
    type: str
    size: int
    align: int
    offset: int = 0


@dataclass
class Function:
    name: str
    entry: bool
    params: list[Param]
    registers: list[Reg] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    directives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    leaders: set[int] = field(default_factory=set)


@dataclass
class Module:
    functions: dict[str, Function]
    variables: dict[str, Variable]
    target: str
