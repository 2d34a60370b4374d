"""What the module says of its kernels at the end of the phase `host`: shapes, schedules, size of the scratch memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deepseek.costs import evaluate

__all__ = ["Kernel", "arena", "kernels_of"]

_HEADER = re.compile(r"^  func\.func private @([\w.$-]+)\((.*)\) -> (.*?) attributes \{(.*)\} \{$", re.M)
_TENSOR = re.compile(r"tensor<([^<>]*)> \{[^{}]*?dsc\.dims = #dsc\.dims<\[([^\]]*)\]>")
_SCHEDULE = re.compile(r"dsc\.schedule = #dsc\.variant<([^<>]*)>")
_LAUNCH = re.compile(r"dsc\.launch \[([^\]]*)\].*?\{(?:\w+, )*dispatch = (\d+)")
_ROWS = re.compile(r"\bmax_rows = (\d+)")
_SSA = re.compile(r"^\s*(%[\w#]+) = (?:arith\.(\w+)|dsc\.dim) (.*?)(?: : index| \{.*\} : index) loc\(", re.M)

Polynomial = dict[tuple[str, ...], int]  # coefficient of each product of names; {} is 0


@dataclass
class Kernel:
    """What one dispatch launches: named shapes of operands and results, and a schedule per variant."""

    shapes: str = ""
    schedules: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """For how many rows each variant is: "1", "16", "any"."""
        found = [_ROWS.search(schedule) for schedule in self.schedules]
        return list(dict.fromkeys(match[1] if match else "any" for match in found))


def kernels_of(host: str) -> dict[int, Kernel]:
    """Kernels by the number of the dispatch that launches them."""
    headers = {name: rest for name, *rest in _HEADER.findall(host)}
    found: dict[int, Kernel] = {}
    for names, number in _LAUNCH.findall(host):
        kernel = found.setdefault(int(number), Kernel())
        for name in re.findall(r"@([\w.$-]+)", names):
            if name not in headers:
                continue
            operands, results, attributes = headers[name]
            kernel.shapes = f"{_shapes(operands)} -> {_shapes(results)}".strip()
            schedule = _SCHEDULE.search(attributes)
            if schedule and schedule[1] not in kernel.schedules:
                kernel.schedules.append(schedule[1])
    return found


def _shapes(text: str) -> str:
    return ", ".join(_shape(kind, dims) for kind, dims in _TENSOR.findall(text))


def _shape(kind: str, dims: str) -> str:
    """`?x576xf32` with the dims `"rows", "_"` as `f32 [rows, 576]`."""
    *extents, dtype = kind.split("x")
    names = re.findall(r'"((?:[^"\\]|\\.)*)"', dims)
    return f"{dtype} [{', '.join(name if extent == '?' else extent for extent, name in zip(extents, names))}]"


def arena(host: str, sizes: Mapping[str, int]) -> int | str | None:
    """Bytes of the scratch memory of @main, from the arithmetic in front of `dsc.arena`.

    A number for given `sizes`, else an expression in the names of the sizes; None where it is neither. Raises
    `InputError` if a size is missing.
    """
    begin = host.find("func.func @main(")
    end = host.find("\n  }", begin)
    found = re.search(r"dsc\.arena (%[\w#]+)", host[begin:end])
    if found is None:
        return 0
    values: dict[str, Polynomial] = {}
    for name, operation, rest in _SSA.findall(host[begin : begin + found.start()]):
        if not operation:
            size = rest.split('"')[1]
            values[name] = _constant(evaluate(size, sizes)) if sizes else {(size,): 1}
        elif operation == "constant":
            values[name] = _constant(int(rest))
        elif operation in _OPERATIONS:
            operands = [part.strip() for part in rest.split(",")]
            if all(part in values for part in operands):
                values[name] = _OPERATIONS[operation](*(values[part] for part in operands))
    total = values.get(found[1])
    if total is None:
        return None
    number = _number(total)
    return _printed(total) if number is None else number


def _constant(value: int) -> Polynomial:
    return {(): value} if value else {}


def _number(value: Polynomial) -> int | None:
    return value.get((), 0) if set(value) <= {()} else None


def _add(a: Polynomial, b: Polynomial, sign: int = 1) -> Polynomial:
    total = dict(a)
    for term, factor in b.items():
        total[term] = total.get(term, 0) + sign * factor
    return {term: factor for term, factor in total.items() if factor}


def _multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for left, x in a.items():
        for right, y in b.items():
            total = _add(total, {tuple(sorted(left + right)): x * y})
    return total


def _folded(compute: Callable[[int, int], int], text: str) -> Callable[[Polynomial, Polynomial], Polynomial]:
    """The operation on numbers; of expressions, their text as one more name."""

    def apply(a: Polynomial, b: Polynomial) -> Polynomial:
        x, y = _number(a), _number(b)
        if x is not None and y is not None:
            return _constant(compute(x, y))
        return {(text.format(*(f"({part})" if " " in part else part for part in (_printed(a), _printed(b)))),): 1}

    return apply


def _printed(value: Polynomial) -> str:
    """`b * s * 64 + 16`: terms in their order, the largest products first."""
    terms = []
    for names, factor in sorted(value.items(), key=lambda term: -len(term[0])):
        parts = [*names, *([str(factor)] if factor != 1 or not names else [])]
        terms.append(" * ".join(parts))
    return " + ".join(terms) or "0"


_floor = _folded(lambda a, b: a // b if b else 0, "({} // {})")
_ceil = _folded(lambda a, b: -(-a // b) if b else 0, "({} ^/ {})")
_remainder = _folded(lambda a, b: a % b if b else 0, "({} % {})")
_larger, _smaller = _folded(max, "max({}, {})"), _folded(min, "min({}, {})")
_OPERATIONS: dict[str, Callable[[Polynomial, Polynomial], Polynomial]] = {
    "addi": _add,
    "subi": lambda a, b: _add(a, b, -1),
    "muli": _multiply,
    "maxsi": _larger,
    "maxui": _larger,
    "minsi": _smaller,
    "minui": _smaller,
    "divsi": _floor,
    "divui": _floor,
    "floordivsi": _floor,
    "ceildivsi": _ceil,
    "ceildivui": _ceil,
    "remsi": _remainder,
    "remui": _remainder,
}
