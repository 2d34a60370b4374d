"""Plans out of decisions: one row per operation, with its reason and numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.formats import find_format
from deepseek.precision.graph import Operation
from deepseek.precision.groups import DecisionGroup, plain_bytes
from deepseek.precision.plan import Plan, fingerprint
from deepseek.precision.select import Choice

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.precision.ranges import Range

__all__ = ["Decisions", "assemble", "undecided_bytes"]


@dataclass(frozen=True)
class Decisions:
    """What was chosen for each group. `elements` and `fixed_bytes`: as of `undecided_bytes`; `ranges` of results."""

    operations: Sequence[Operation]
    groups: Sequence[DecisionGroup]
    chosen: Sequence[Choice]
    elements: Mapping[str, int]
    fixed_bytes: int
    ranges: Sequence[Range] = ()


def undecided_bytes(checkpoint: Checkpoint, elements: Mapping[str, int], groups: Sequence[DecisionGroup]) -> int:
    """Bytes of the weights that no group holds: norms and biases, as they are stored; bf16 without a checkpoint.

    `elements` counts the numbers of all weights that the module reads, by name (`graph.weight_elements`).
    """
    decided = {weight for group in groups for weight in group.weights}
    others = [name for name in elements if name not in decided]
    if checkpoint.shapes_only:
        return 2 * sum(elements[name] for name in others)
    return sum(checkpoint.tensors[name].nbytes for name in others)


def assemble(
    checkpoint: Checkpoint,
    name: str,
    decisions: Decisions,
    options: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    calibration: dict[str, Any] | None = None,
    totals: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a model called `name`; `arrays` are its rounded weights, none for a model without weights."""
    tensors: dict[str, dict[str, Any]] = {}
    by_operation: dict[int, tuple[DecisionGroup, Choice]] = {}
    for group, choice in zip(decisions.groups, decisions.chosen):
        for weight, (_, columns) in zip(group.weights, group.shapes):
            if weight not in arrays:
                continue
            form = find_format(choice.weight, columns)
            tensors[weight] = {
                "format": form.name,
                "rounding": options["rounding"] if form.codes else "rtn",
                "sha256": hashlib.sha256(np.ascontiguousarray(arrays[weight]).data).hexdigest(),
            }
        by_operation.update((id(op), (group, choice)) for op in group.ops)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for op in decisions.operations:
        rows.setdefault((op.at, op.op), _row(op, by_operation.get(id(op)), options))
    for found in decisions.ranges:
        row = rows.get((found.at, found.op))
        if row is not None and found.source != "unknown":
            finite = [value if math.isfinite(value) else None for value in (found.lo, found.hi)]
            row |= {"range": finite, "range_source": found.source, "hazards": list(found.hazards)}
    return Plan(
        model={"name": name, "fingerprint": fingerprint(checkpoint)},
        options={key: list(v) if isinstance(v, tuple) else v for key, v in options.items()},
        calibration=calibration or {},
        totals={
            **(totals or {}),
            "weight_bytes": sum(choice.bytes for choice in decisions.chosen) + decisions.fixed_bytes,
            "kv_cache_bytes_per_position": sum(_cache_bytes(op, options) for op in decisions.operations),
            "weight_bytes_bf16": 2 * sum(decisions.elements.values()),
        },
        tensors=tensors,
        ops=list(rows.values()),
        arrays=arrays,
    )


def _cache_bytes(op: Operation, options: Mapping[str, Any]) -> int:
    """Bytes of one position of one sequence: keys and values of all heads."""
    if op.stored != "cache":
        return 0
    _, planes, heads, _, size = op.result
    return planes * heads * size * (2 if options["kv_cache"] == "f16" else 4)


def _row(op: Operation, decision: tuple[DecisionGroup, Choice] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"at": op.at, "op": op.op}
    if decision is None:
        row |= {"weight": None, "activation": "f32", "accumulate": "f32", "kv_cache": None}
        if op.stored == "cache":
            return row | {"kv_cache": options["kv_cache"], "reason": f"cache: {options['kv_cache']} was asked for"}
        return row | {"reason": "kept: computes in f32, no weight matrix to narrow"}
    group, choice = decision
    whole = f"{choice.bytes:,} bytes of {plain_bytes(group.shapes):,}"
    row |= {
        "tensor": op.weight,
        "shape": list(op.shape),
        "group": group.name,
        "weight": choice.weight,
        "activation": choice.activation if op.op == "dsc.matmul" else "f32",
        "accumulate": "f32",
        "kv_cache": None,
        "reason": f"static: its place in the model; {whole}"
        if choice.error is None
        else f"budget: {choice.error:.1e} of error, {whole}",
        "bytes": op.shape[0] * find_format(choice.weight, op.shape[1]).row_bytes(op.shape[1]),
        "bytes_bf16": plain_bytes([op.shape]),
    }
    if choice.error is not None:
        row["predicted_error"] = choice.error
    return row
