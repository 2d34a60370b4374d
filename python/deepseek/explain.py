"""What a compiled program is made of: operations per layer, kernels, memory. `explain()` of graphs and modules."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek.compiler import lower_text
from deepseek.costs import evaluate, layerless
from deepseek.explain_host import Kernel, arena, kernels_of

__all__ = ["Explanation", "explain"]

_LOCATION = re.compile(r'^(#loc\d*) = loc\("([^"]*)"', re.M)
_OPERATION = re.compile(r'= "?dsc\.(\w+)"? .*loc\((#loc\d*|"[^"]*")\)$', re.M)
_LAYER = re.compile(r"^(.*?\w+)\.(\d+)(?=/|$)")
_NOT_RAISED = re.compile(r"dsc\.not_raised = \[(.*?)\](?=[,}])")
_HIDDEN = {"dim", "launch", "arena", "yield", "dispatch"}
_BYTES = {
    "f64": 8,
    "i64": 8,
    "u64": 8,
    "f32": 4,
    "i32": 4,
    "u32": 4,
    "f16": 2,
    "bf16": 2,
    "f8E4M3FN": 1,
    "f8E5M2": 1,
    "i16": 2,
    "u16": 2,
}


@dataclass(frozen=True)
class Explanation:
    """A report: print it, or take it apart with `to_json`."""

    name: str
    target: str
    imported: dict[str, int]  # how operations of a framework's graph became operations here
    layers: list[tuple[str, dict[str, int]]]  # (which, dsc operations of each)
    not_raised: list[str]
    kernels: list[dict[str, Any]]
    memory: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as an object of numbers, strings and lists."""
        return {
            "name": self.name,
            "target": self.target,
            "imported": self.imported,
            "layers": [{"where": where, "operations": counts} for where, counts in self.layers],
            "not_raised": self.not_raised,
            "kernels": self.kernels,
            "memory": self.memory,
            "sizes": self.sizes,
        }

    def __str__(self) -> str:
        lines = [f"{self.name} for {self.target}"]
        if self.imported:
            lines.append("imported: " + _counts(self.imported))
        lines += [f"  {where}: {_counts(counts)}" for where, counts in self.layers]
        lines += [f"not recognised: {text}" for text in self.not_raised]
        lines.append(f"{sum(k['launches'] for k in self.kernels)} launches of {len(self.kernels)} kernels")
        for kernel in self.kernels:
            where = ", ".join(kernel["where"][:3]) + (" .." if len(kernel["where"]) > 3 else "")
            once = "once: " if kernel["program"] == "init" else ""
            number = f"#{kernel['dispatches'][0]}"
            lines.append(f"  {number:>5} {kernel['launches']:4} {kernel['kernel']:14} {_cost(kernel)}  {once}{where}")
            lines += [f"             {kernel['shapes']}{_variants(kernel)}"] if kernel["shapes"] else []
        lines += [f"  {what}: {_memory(value)}" for what, value in self.memory.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def table(head: list[str], rows: list[list[Any]]) -> str:
            cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
            return "<table><tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + f"</tr>{cells}</table>"

        head = ["dispatch", "launches", "kernel", "program", "shapes", "operations", "bytes", "schedules", "where"]
        kernels = [
            [k["dispatches"][0], *(k[key] for key in head[1:-2]), "; ".join(k["schedules"]), ", ".join(k["where"])]
            for k in self.kernels
        ]
        parts = [f"<h4>{html.escape(self.name)} for {html.escape(self.target)}</h4>"]
        if self.imported:
            parts.append(f"<p>imported: {html.escape(_counts(self.imported))}</p>")
        parts.append(table(["where", "operations"], [[where, _counts(counts)] for where, counts in self.layers]))
        parts += [f"<p>not recognised: {html.escape(text)}</p>" for text in self.not_raised]
        parts.append(table(head, kernels))
        parts.append(table(["memory", "bytes"], [[k, _memory(v)] for k, v in self.memory.items()]))
        return "".join(parts)


def explain(
    text: str,
    manifest: Mapping[str, Any],
    *,
    name: str,
    imported: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Explanation:
    """The report of a module, given as text before the first phase, and of the manifest that it compiled to.

    `sizes`: values of its named sizes, for which costs and memory are numbers instead of expressions. Raises
    `InputError` if one is missing.
    """
    target = manifest["target"]
    raised = lower_text(text, target=target, to_phase="import")
    host = lower_text(text, target=target, to_phase="host")
    found = _NOT_RAISED.search(raised)
    sizes = dict(sizes or {})
    return Explanation(
        name,
        target,
        dict(imported or {}),
        _layers(raised),
        [s.replace('\\"', '"').replace("\\22", '"') for s in re.findall(r'"((?:[^"\\]|\\.)*)"', found[1])]
        if found
        else [],
        _kernels(manifest, kernels_of(host), sizes),
        _memory_plan(manifest, arena(host, sizes)),
        sizes,
    )


def _layers(text: str) -> list[tuple[str, dict[str, int]]]:
    """Operations of the dialect per layer, equal layers that follow each other as one, and those outside of layers."""
    names = dict(_LOCATION.findall(text))
    layers: dict[tuple[str, int], Counter[str]] = {}
    elsewhere: Counter[str] = Counter()
    for operation, where in _OPERATION.findall(text):
        if operation in _HIDDEN:
            continue
        layer = _LAYER.match(names.get(where, where.strip('"')))
        if layer is None:
            elsewhere[operation] += 1
        else:
            layers.setdefault((layer[1], int(layer[2])), Counter())[operation] += 1
    merged: list[tuple[str, int, int, Counter[str]]] = []
    for (prefix, number), counts in layers.items():
        if merged and merged[-1][0] == prefix and merged[-1][2] == number - 1 and merged[-1][3] == counts:
            merged[-1] = (prefix, merged[-1][1], number, counts)
        else:
            merged.append((prefix, number, number, counts))
    rows = [
        (f"{prefix}.{first}" if first == last else f"{prefix}.{first} to {last}, each", dict(counts))
        for prefix, first, last, counts in merged
    ]
    return [*rows, ("elsewhere", dict(elsewhere))] if elsewhere else rows


def _kernels(
    manifest: Mapping[str, Any], kernels: Mapping[int, Kernel], sizes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Kernels in the order of their first launch; costs of all launches together where sizes are known."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for dispatch in manifest["dispatches"]:
        costs = {key: dispatch.get(key) for key in ("operations", "bytes")}
        key = dispatch["program"], dispatch["kernel"], *costs.values()
        if key not in rows:
            kernel = kernels.get(dispatch["index"], Kernel())
            rows[key] = {
                "kernel": dispatch["kernel"],
                "program": dispatch["program"],
                "launches": 0,
                "variants": dispatch["variants"],
                "rows": kernel.rows,
                "schedules": kernel.schedules,
                "shapes": kernel.shapes,
                "dispatches": [],
                "where": [],
                **costs,
            }
        rows[key]["launches"] += 1
        rows[key]["dispatches"].append(dispatch["index"])
        rows[key]["where"].append(layerless(dispatch["location"]))
    for row in rows.values():
        row["where"] = list(dict.fromkeys(row["where"]))
        for cost in ("operations", "bytes") if sizes else ():
            row[cost] = None if row[cost] is None else row["launches"] * evaluate(row[cost], sizes)
    return list(rows.values())


def _memory_plan(manifest: Mapping[str, Any], scratch: int | str | None) -> dict[str, Any]:
    arguments = manifest["main"]["args"] + (manifest.get("init") or {"args": []})["args"]
    weights = {a["weight"]: a for a in arguments if a["kind"] == "weight"}
    prepared = [a for a in arguments if a["kind"] == "prepared"]
    return {
        "weights": sum(map(_size, weights.values())),
        "prepared weights": sum(map(_size, prepared)),
        "arena of a call": scratch,
    }


def _size(argument: Mapping[str, Any]) -> int:
    return math.prod(argument["shape"]) * _BYTES.get(argument["dtype"], 1)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _cost(kernel: Mapping[str, Any]) -> str:
    operations, size = kernel["operations"], kernel["bytes"]
    if isinstance(size, int):
        return f"{(operations or 0) / 1e6:12.3f} MFLOP {size / 1e6:12.3f} MB"
    each = " each" if kernel["launches"] > 1 else ""
    return f"{operations} operations, {size} bytes{each}" if size else ""


def _variants(kernel: Mapping[str, Any]) -> str:
    """Which numbers of rows have code of their own, if there is more than one."""
    rows = kernel["rows"]
    return "" if len(rows) < 2 else "; rows up to " + ", ".join(n for n in rows if n != "any") + " or any"


def _memory(value: int | str | None) -> str:
    if value is None:
        return "depends on more than the sizes"
    return f"{value:,} bytes" if isinstance(value, int) else f"{value} bytes"
