"""Sizes: integers or polynomials over named dims and opaque terms (//, %, min, max) in a canonical form.

Two sizes that are equal by ring arithmetic are the same object structure, so that `a + b` from one
concatenation equals `b + a` from another. Pure values: what is known about dims lives in dims.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


@dataclass(eq=False)
class Symbol:
    """One dim of one argument, or a dim named by the user. `hint` is the example's size, None for a placeholder."""

    name: str
    hint: int | None = None
    low: int = 0
    high: int | None = None
    divisor: int = 1
    declared: bool = False

    @property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True)
class Opaque:
    """`lhs op rhs` for an operation that does not distribute over sums."""

    op: str
    lhs: Size
    rhs: Size
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        shown = (
            f"{self.op}({show(self.lhs)}, {show(self.rhs)})"
            if self.op in ("min", "max")
            else f"({show(self.lhs)} {self.op} {show(self.rhs)})"
        )
        object.__setattr__(self, "key", shown)


Atom = Symbol | Opaque
Monomial = tuple[Atom, ...]


class Expr:
    """A polynomial that is not a constant: {monomial: coefficient}, no zero coefficients."""

    __slots__ = ("key", "terms")

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms = dict(sorted(terms.items(), key=lambda term: (not term[0], [atom.key for atom in term[0]])))
        self.key = ""
        for mono, c in self.terms.items():
            size = -c if c < 0 else c
            factors = [str(size)] * (size != 1 or not mono) + [atom.key for atom in mono]
            sign = (" - " if c < 0 else " + ") if self.key else "-" * (c < 0)
            self.key += sign + "*".join(factors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return self.key


Size = int | Expr


def of(symbol: Symbol) -> Expr:
    """The size that is just `symbol`."""
    return Expr({(symbol,): 1})


def show(size: Size) -> str:
    return size.key if isinstance(size, Expr) else str(size)


def as_symbol(size: Size) -> Symbol | None:
    """The symbol if `size` is exactly one, else None."""
    if isinstance(size, Expr) and len(size.terms) == 1:
        ((mono, c),) = size.terms.items()
        if c == 1 and len(mono) == 1 and isinstance(mono[0], Symbol):
            return mono[0]
    return None


def _terms(size: Size) -> dict[Monomial, int]:
    return size.terms if isinstance(size, Expr) else ({(): size} if size else {})


def _build(terms: dict[Monomial, int]) -> Size:
    terms = {mono: c for mono, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms)


def add(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    out = dict(_terms(a))
    for mono, c in _terms(b).items():
        out[mono] = out.get(mono, 0) + c
    return _build(out)


def mul(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    out: dict[Monomial, int] = {}
    for left, x in _terms(a).items():
        for right, y in _terms(b).items():
            mono = tuple(sorted(left + right, key=lambda atom: atom.key))
            out[mono] = out.get(mono, 0) + x * y
    return _build(out)


def sub(a: Size, b: Size) -> Size:
    return add(a, mul(b, -1))


def product(sizes: Any) -> Size:
    total: Size = 1
    for size in sizes:
        total = mul(total, size)
    return total


def divide_exact(a: Size, b: Size) -> Size | None:
    """a / b if the division is exact for every value of the dims (b != 0), else None."""
    if isinstance(b, int) and b == 0:
        return None
    divisor = _terms(b)
    if len(divisor) != 1:
        return 1 if a == b else None
    ((by, k),) = divisor.items()
    out: dict[Monomial, int] = {}
    for mono, c in _terms(a).items():
        rest = list(mono)
        for atom in by:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % k:
            return None
        out[tuple(rest)] = c // k
    return _build(out)


def call(op: str, a: Size, b: Size) -> Size:
    """a // b, a % b, min(a, b) or max(a, b) with the simplifications that hold for every value."""
    if isinstance(a, int) and isinstance(b, int):
        return _FUNCTIONS[op](a, b)
    if op in ("min", "max"):
        if a == b:
            return a
        a, b = sorted((a, b), key=show)
    else:
        exact = divide_exact(a, b)
        if exact is not None:
            return exact if op == "//" else 0
        if isinstance(b, int) and b > 0:
            # floor((k*A + r) / k) = A + floor(r / k)
            whole = _build({mono: c for mono, c in _terms(a).items() if c % b == 0})
            if whole != 0:
                rest = call(op, sub(a, whole), b)
                return add(call("//", whole, b), rest) if op == "//" else rest
    return Expr({(Opaque(op, a, b),): 1})


def substitute(size: Size, lookup: Callable[[Atom], Size | None]) -> Size:
    """`size` with every atom for which `lookup` gives a size replaced by it, opaque terms rebuilt."""
    if isinstance(size, int):
        return size
    total: Size = 0
    for mono, c in size.terms.items():
        term: Size = c
        for atom in mono:
            value = lookup(atom)
            if value is None and isinstance(atom, Opaque):
                value = call(atom.op, substitute(atom.lhs, lookup), substitute(atom.rhs, lookup))
                if isinstance(value, Expr):
                    rebuilt = next(iter(value.terms))
                    if len(value.terms) == 1 and len(rebuilt) == 1 and rebuilt[0] != atom:
                        found = lookup(rebuilt[0])
                        value = value if found is None else found
            term = mul(term, of_atom(atom) if value is None else value)
        total = add(total, term)
    return total


def of_atom(atom: Atom) -> Expr:
    return Expr({(atom,): 1})


def atoms(size: Size) -> set[Atom]:
    """All atoms of `size`, those inside opaque terms too."""
    found = {atom for mono in _terms(size) for atom in mono}
    inner = [side for atom in found if isinstance(atom, Opaque) for side in (atom.lhs, atom.rhs)]
    return found.union(*map(atoms, inner))


def evaluate(size: Size, value: Callable[[Symbol], int]) -> int:
    """The number that `size` is when every symbol has the given value."""
    if isinstance(size, int):
        return size
    total = 0
    for mono, c in size.terms.items():
        for atom in mono:
            c *= (
                value(atom)
                if isinstance(atom, Symbol)
                else _FUNCTIONS[atom.op](evaluate(atom.lhs, value), evaluate(atom.rhs, value))
            )
        total += c
    return total


def to_json(size: Size) -> Any:
    """int, or [[coefficient, atom, ...], ...] with an atom a symbol's name or [op, lhs, rhs]."""
    if isinstance(size, int):
        return size
    return [
        [c, *(a.name if isinstance(a, Symbol) else [a.op, to_json(a.lhs), to_json(a.rhs)] for a in mono)]
        for mono, c in size.terms.items()
    ]


def from_json(data: Any, symbols: dict[str, Symbol]) -> Size:
    """Inverse of to_json."""
    if isinstance(data, int):
        return data
    total: Size = 0
    for c, *rest in data:
        term: Size = c
        for item in rest:
            factor = (
                of(symbols[item])
                if isinstance(item, str)
                else call(item[0], from_json(item[1], symbols), from_json(item[2], symbols))
            )
            term = mul(term, factor)
        total = add(total, term)
    return total
