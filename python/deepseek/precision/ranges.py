"""Which values the operations of a module can give, and what rounding them to a format costs: --dsc-range-analysis."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek.errors import InputError
from deepseek.precision.graph import argument_attributes, location_name, main_of

__all__ = ["Range", "ranges_of", "ranges_of_results"]

Interval = tuple[float, ...]
"""(lo, hi) or (lo, hi, norm): every element, and the Euclidean norm of every row (the last dimension)."""

_RANGE = re.compile(r"#dsc\.range<\[([^,\]]+), ([^\]]+)\](?:, norm = ([^,>]+))?, (proved|calibrated)>")
# Norms are sums of squares in float64: what their rounding may lose.
_SLACK = 1 + 1e-12


@dataclass(frozen=True)
class Range:
    """What is known of one result.

    `at` is its operation's location and `op` the name. lo <= every element <= hi, and no row's Euclidean norm exceeds
    `norm`; infinite where unknown. `source` is "proved", "calibrated" (it follows from given ranges) or "unknown".
    `hazards` lists formats that cannot hold the result, as "f16 overflow".

    `errors`, if asked for: of "f32" (no narrower rounding), (bound, estimate) of the absolute error of one element; of a
    format, one such pair each for rounding the first operand ("lhs"), the other or stored one ("rhs"), the result, and
    "all" of them. All in multiples of the format's unit roundoff: 2^-24 of f32, 2^-11 of f16, 2^-8 of bf16 and int8,
    2^-4 of fp8_e4m3, 2^-3 of fp8_e5m2.
    """

    at: str
    op: str
    lo: float
    hi: float
    norm: float
    source: str
    hazards: tuple[str, ...] = ()
    errors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def magnitude(self) -> float:
        return max(abs(self.lo), abs(self.hi))


def ranges_of(
    text: str,
    weights: Mapping[str, np.ndarray] | None = None,
    calibrated: Mapping[tuple[str, str], Interval] | None = None,
    *,
    inputs: Mapping[str, Interval] | None = None,
    errors: bool = False,
    everything: bool = False,
) -> list[Range]:
    """The ranges of the `dsc` operations of @main, in order; of all operations with `everything`.

    `weights`: the numbers that weights stand for, by name, in the shape of the values; `inputs`: ranges that callers
    keep, by name. What has none is unbounded. `calibrated`: ranges that were seen, by location and name of an operation.
    A module before phase import is imported first. Raises `CompileError`, and `InputError` for an input that the module
    does not have; a checkpoint may hold more weights than the module reads.
    """
    with _analysed(text, weights, calibrated, inputs, errors, everything) as main:
        return [_row(op) for op in _operations(main) if "dsc.range" in op.attributes]


def ranges_of_results(
    text: str,
    weights: Mapping[str, np.ndarray] | None = None,
    calibrated: Mapping[tuple[str, str], Interval] | None = None,
    *,
    inputs: Mapping[str, Interval] | None = None,
) -> list[Range | None]:
    """The range of each result of @main; None where it is an argument or holds integers. As `ranges_of`."""
    with _analysed(text, weights, calibrated, inputs, False, True) as main:
        operations = list(_operations(main))
        rows: list[Range | None] = []
        for value in operations[-1].operands:
            op = getattr(value.owner, "operation", None)
            known = op is not None and "dsc.range" in op.attributes
            number = list(op.results).index(value) if known else 0
            rows.append(_row(op, number) if known else None)
        return rows


@contextmanager
def _analysed(
    text: str,
    weights: Mapping[str, np.ndarray] | None,
    calibrated: Mapping[tuple[str, str], Interval] | None,
    inputs: Mapping[str, Interval] | None,
    errors: bool,
    everything: bool,
) -> Iterator[Any]:
    from deepseek.compiler import as_file, lower_text, transformed

    if "dsc.phase" not in text:
        text = lower_text(text, to_phase="import")
    given = {name: _interval(np.asarray(array)) for name, array in (weights or {}).items()}

    def prepare(module: Any) -> None:
        _declare(main_of(module), {"dsc.weight": given, "dsc.name": inputs or {}})

    with as_file(_calibration(calibrated)) as path:
        options = [f"ranges={path}"] * bool(path) + ["errors=true"] * errors + ["all=true"] * everything
        pipeline = f"builtin.module(dsc-range-analysis{{{' '.join(options)}}})"
        with transformed(text, pipeline, prepare) as module:
            yield main_of(module)


def _interval(values: np.ndarray) -> Interval:
    if not values.size:
        return (0.0, 0.0, 0.0)
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    squares = max(
        float(np.square(row, dtype=np.float64).sum(-1).max()) for row in np.array_split(rows, -(-len(rows) // 4096))
    )
    return (float(values.min()), float(values.max()), math.sqrt(squares) * _SLACK)


def _calibration(calibrated: Mapping[tuple[str, str], Interval] | None) -> str:
    if not calibrated:
        return ""
    names = ("lo", "hi", "norm")
    entries = [
        {"at": at, "op": op} | {name: float(number) for name, number in zip(names, interval)}
        for (at, op), interval in calibrated.items()
    ]
    return json.dumps({"version": 1, "ranges": entries})


def _declare(main: Any, intervals: Mapping[str, Mapping[str, Interval]]) -> None:
    """Writes `dsc.range` on the arguments that have these names in these attributes."""
    from deepseek._mlir import ir

    left = {(kind, name): interval for kind, named in intervals.items() for name, interval in named.items()}
    entries = []
    with main.context:
        for entry in argument_attributes(main):
            for kind in intervals:
                interval = left.pop((kind, entry[kind].value), None) if kind in entry else None
                if interval is not None:
                    entry["dsc.range"] = ir.Attribute.parse(_printed(interval))
            entries.append(ir.DictAttr.get(entry))
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(entries)
    missing = [name for kind, name in left if kind == "dsc.name"]
    if missing:
        raise InputError(f"the module has no input {missing[0]!r}")


def _printed(interval: Interval) -> str:
    def number(value: float) -> str:
        return repr(value) if math.isinf(value) else np.format_float_scientific(float(value), trim="0", exp_digits=2)

    lo, hi, *norm = interval
    return f"#dsc.range<[{number(lo)}, {number(hi)}], norm = {number(norm[0] if norm else math.inf)}, proved>"


def _operations(main: Any) -> Iterator[Any]:
    for op in main.regions[0].blocks[0].operations:
        yield op.operation


def _row(op: Any, number: int = 0) -> Range:
    lo, hi, norm, source = _RANGE.findall(str(op.attributes["dsc.range"]))[number]
    low, high, length = float(lo), float(hi), float(norm or "inf")
    if math.isinf(low) or math.isinf(high):
        source = "unknown"
    hazards = tuple(h.value for h in op.attributes["dsc.hazards"]) if "dsc.hazards" in op.attributes else ()
    errors = _numbers(op.attributes["dsc.errors"]) if "dsc.errors" in op.attributes else {}
    return Range(location_name(op), op.name, low, high, length, source, hazards, errors)


def _numbers(attribute: Any) -> Any:
    """Dictionaries of pairs as Python's."""
    from deepseek._mlir import ir

    if isinstance(attribute, ir.DictAttr):
        return {entry.name: _numbers(entry.attr) for entry in attribute}
    return tuple(attribute)
