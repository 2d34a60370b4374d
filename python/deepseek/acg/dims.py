"""What a trace knows about its dims: unification, guards recorded for every question asked, and symbolic ints.

A question about a dim (`== 1`, `a == b`, `<`) is answered from what is known for all sizes; else from the
example's sizes, and the answer becomes a guard under which the traced program may be reused. Dims of
placeholders have no example size: a question that cannot be answered for all sizes is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import sizes
from .sizes import Atom, Expr, Opaque, Size, Symbol, show
from .source import fail


@dataclass(frozen=True)
class Guard:
    """`size relation 0` with relation one of == != >=."""

    relation: str
    size: Size

    def holds(self, value: Callable[[Symbol], int]) -> bool:
        number = sizes.evaluate(self.size, value)
        return number == 0 if self.relation == "==" else number != 0 if self.relation == "!=" else number >= 0

    def __str__(self) -> str:
        return f"{show(self.size)} {self.relation} 0"


class Dims:
    """The symbols of one trace and what was learned about them."""

    def __init__(self) -> None:
        self.symbols: dict[str, Symbol] = {}
        self.guards: dict[Guard, None] = {}
        self._known: dict[Atom, Size] = {}
        self._equations: list[Size] = []
        self._resolved: dict[Size, Size] = {}

    def new(self, name: str, **properties: Any) -> Symbol:
        """A new symbol; the name is made unique."""
        unique, count = name, 1
        while unique in self.symbols:
            count += 1
            unique = f"{name}_{count}"
        self.symbols[unique] = Symbol(unique, **properties)
        return self.symbols[unique]

    def resolve(self, size: Size) -> Size:
        """`size` after all that was learned so far."""
        if isinstance(size, int):
            return size
        if size not in self._resolved:
            before, after = None, size
            while after != before:
                before, after = after, sizes.substitute(after, self._known.get)
            self._resolved[size] = after
        return self._resolved[size]

    def hint(self, size: Size) -> int | None:
        """The size in the example, None if a placeholder's dim takes part."""
        try:
            return sizes.evaluate(size, _example)
        except LookupError:
            return None

    def bounds(self, size: Size) -> tuple[float, float]:
        """(smallest, largest) value that is known for all sizes; infinite where nothing is known."""
        if isinstance(size, int):
            return size, size
        low: float = 0
        high: float = 0
        for mono, c in size.terms.items():
            span: tuple[float, float] = (c, c)
            for atom in mono:
                span = _interval_product(span, self._atom_bounds(atom))
            low, high = low + span[0], high + span[1]
        return low, high

    def _atom_bounds(self, atom: Atom) -> tuple[float, float]:
        if isinstance(atom, Symbol):
            return atom.low, math.inf if atom.high is None else atom.high
        (a, b), (c, d) = self.bounds(atom.lhs), self.bounds(atom.rhs)
        if atom.op in ("min", "max"):
            pick = min if atom.op == "min" else max
            return pick(a, c), pick(b, d)
        if c <= 0:
            return -math.inf, math.inf
        if atom.op == "%":
            return 0, d - 1
        # The quotient is extreme at the ends of both ranges; an unbounded divisor drives it to 0 or -1.
        ends = [x if math.isinf(x) else (x // y if y < math.inf else -(x < 0)) for x in (a, b) for y in (c, d)]
        return min(ends), max(ends)

    def is_nonnegative(self, size: Size) -> bool | None:
        """True or False if `size` >= 0 is known for all sizes, else None."""
        size = self.resolve(size)
        low, high = self.bounds(size)
        if low >= 0:
            return True
        if high < 0:
            return False
        negated = sizes.sub(-1, size)
        for guard in self.guards:
            if guard.relation == ">=":
                fact = self.resolve(guard.size)
                more = sizes.sub(size, fact)
                if isinstance(more, int) and more >= 0:
                    return True
                more = sizes.sub(negated, fact)
                if isinstance(more, int) and more >= 0:
                    return False
        return None

    def at_least(self, a: Size, b: Size, question: str = "") -> bool:
        """a >= b; records a guard if only the example's sizes tell."""
        size = self.resolve(sizes.sub(a, b))
        known = self.is_nonnegative(size)
        if known is not None:
            return known
        hint = self.hint(size)
        if hint is None:
            self._undecided(question or f"{show(self.resolve(a))} >= {show(self.resolve(b))}", size)
        fact = size if hint >= 0 else sizes.sub(-1, size)
        self._learn_bound(fact)
        self.guards[Guard(">=", fact)] = None
        return hint >= 0

    def is_equal(self, a: Size, b: Size) -> bool | None:
        """True or False if a == b is known for all sizes, else None."""
        size = self.resolve(sizes.sub(a, b))
        if isinstance(size, int):
            return size == 0
        low, high = self.bounds(size)
        if low > 0 or high < 0:
            return False
        if self.is_nonnegative(sizes.sub(size, 1)) or self.is_nonnegative(sizes.sub(-1, size)):
            return False
        if any(g.relation == "!=" and self.resolve(g.size) in (size, sizes.mul(size, -1)) for g in self.guards):
            return False
        return None

    def equal(self, a: Size, b: Size, question: str = "") -> bool:
        """a == b; records a guard if only the example's sizes tell, and unifies if they are equal."""
        known = self.is_equal(a, b)
        if known is not None:
            return known
        a, b = self.resolve(a), self.resolve(b)
        size = sizes.sub(a, b)
        hint = self.hint(size)
        if hint is None:
            self._undecided(question or f"{show(a)} == {show(b)}", size)
        if hint:
            self.guards[Guard("!=", size)] = None
            return False
        self.guards[Guard("==", size)] = None
        self._unify(a, b, size)
        return True

    def _unify(self, a: Size, b: Size, size: Size) -> None:
        left, right = sizes.as_symbol(a), sizes.as_symbol(b)
        if left is not None and right is not None:
            keep, drop = (right, left) if right.declared and not left.declared else (left, right)
            keep.low = max(keep.low, drop.low)
            if drop.high is not None:
                keep.high = drop.high if keep.high is None else min(keep.high, drop.high)
            self._known[drop] = sizes.of(keep)
        elif not self._solve(size):
            self._equations.append(size)
            return
        # What was learned may decide an equation that had two unknowns.
        while True:
            self._resolved.clear()
            pending = [self.resolve(equation) for equation in self._equations]
            self._equations = [e for e in pending if not isinstance(e, int) and not self._solve(e)]
            if len(self._equations) == len(pending):
                return

    def _solve(self, size: Size) -> bool:
        """Uses `size` == 0 to define a symbol by a number, or an opaque term by anything that does not hold it."""
        if not isinstance(size, Expr):
            return False
        for mono, c in size.terms.items():
            atom = mono[0] if len(mono) == 1 else None
            rest = sizes.divide_exact(sizes.sub(Expr({mono: c}), size), c)
            if atom is None or rest is None:
                continue
            if isinstance(rest, int) or (isinstance(atom, Opaque) and atom not in sizes.atoms(rest)):
                self._known[atom] = rest
                return True
        return self._solve_product(size)

    def _solve_product(self, size: Expr) -> bool:
        """n * m = 6 makes n and m the example's numbers: types cannot say that only their product is fixed."""
        products = [mono for mono in size.terms if mono]
        if len(products) != 1 or any(isinstance(atom, Opaque) for atom in products[0]):
            return False
        for atom in set(products[0]):
            hint = self.hint(sizes.of(atom))
            if hint is None:
                return False
            self.guards[Guard("==", sizes.sub(sizes.of(atom), hint))] = None
            self._known[atom] = hint
        return True

    def _learn_bound(self, fact: Size) -> None:
        """Narrows a symbol's range by `fact` >= 0 if the fact is symbol + c or c - symbol."""
        if not isinstance(fact, Expr):
            return
        rest = {mono: c for mono, c in fact.terms.items() if mono}
        constant = fact.terms.get((), 0)
        if len(rest) != 1:
            return
        ((mono, c),) = rest.items()
        if len(mono) != 1 or not isinstance(mono[0], Symbol):
            return
        if c == 1:
            mono[0].low = max(mono[0].low, -constant)
        elif c == -1:
            mono[0].high = constant if mono[0].high is None else min(mono[0].high, constant)

    def _undecided(self, question: str, size: Size) -> None:
        names = ", ".join(sorted(atom.key for atom in sizes.atoms(size) if isinstance(atom, Symbol)))
        fail(
            f"whether {question} depends on the size of {names}, which this trace leaves open",
            "give the dim a range, ACG.dim(name, min=..., max=...), a fixed size, or the same name as its equal",
        )


def _interval_product(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """All products of a number of `a` and one of `b`; 0 times infinity is 0, sizes being finite."""
    ends = [x * y if x and y else 0 for x in a for y in b]
    return min(ends), max(ends)


def _example(symbol: Symbol) -> int:
    if symbol.hint is None:
        raise LookupError(symbol.name)
    return symbol.hint
