"""Plans out of decisions: one row per operation, with its reason and numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.formats import PLAIN_BITS, find_format
from deepseek.precision.graph import Operation
from deepseek.precision.groups import DecisionGroup, plain_bytes
from deepseek.precision.plan import Plan, fingerprint
from deepseek.precision.select import Choice

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.precision.ranges import Range

__all__ = ["CacheDecision", "Decisions", "assemble", "fits_f16", "undecided_bytes"]

_F16_LARGEST = 65504.0
_HEADROOM = 4.0  # how far beyond what a text showed a cache must reach: outliers of others are larger


@dataclass(frozen=True)
class CacheDecision:
    """What caches hold, and why; one whose text came near the end of f16 stays f32 all the same."""

    format: str
    reason: str

    @classmethod
    def asked(cls, name: str) -> CacheDecision:
        """What the user named."""
        return cls(name, f"cache: {name} was asked for")


@dataclass(frozen=True)
class Decisions:
    """What was chosen for each group. `elements` and `fixed_bytes`: as of `undecided_bytes`; `ranges` of results;
    `seen` on a text: (least, greatest) result by location and name of the operation; `cache_peaks`: the greatest
    magnitude that a text put into each cache, by location. `scaled`: of groups whose channels are scaled, the
    exponents of `smoothing.EXPONENTS`."""

    operations: Sequence[Operation]
    groups: Sequence[DecisionGroup]
    chosen: Sequence[Choice]
    elements: Mapping[str, int]
    fixed_bytes: int
    ranges: Sequence[Range] = ()
    seen: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    cache_peaks: Mapping[str, float] = field(default_factory=dict)
    scaled: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cache: CacheDecision = CacheDecision("f32", "cache: f32 holds whatever a text makes of it")


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
    scaling: dict[str, str] = {}  # weights of normalizations, and the groups whose inputs they scale
    for group, choice in zip(decisions.groups, decisions.chosen):
        for weight, (_, columns) in zip(group.weights, group.shapes):
            if weight not in arrays:
                continue
            form = find_format(choice.weight, columns)
            method = "rtn" if not form.codes else options["rounding"]
            if method == "awq" and group.name not in decisions.scaled:
                method = "gptq"
            tensors[weight] = {"format": form.name, "rounding": method, "sha256": _sha256(arrays[weight])}
            if method == "awq":
                tensors[weight]["scaled_by"] = group.scaled_by[0]
                tensors[weight]["exponents"] = list(decisions.scaled[group.name])
        if group.name in decisions.scaled:
            for weight in group.scaled_by:
                held = checkpoint.tensors[weight].format.name
                tensors[weight] = {"format": held, "rounding": "awq", "sha256": _sha256(arrays[weight])}
                scaling[weight] = group.name
        by_operation.update((id(op), (group, choice)) for op in group.ops)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for op in decisions.operations:
        if op.stored == "cache":
            row = _cache_row(op, decisions.cache, decisions.cache_peaks.get(op.at))
        else:
            row = _row(op, by_operation.get(id(op)), scaling.get(op.weight or ""))
        rows.setdefault((op.at, op.op), row)
    for found in decisions.ranges:
        row = rows.get((found.at, found.op))
        if row is not None and found.source != "unknown":
            finite = [value if math.isfinite(value) else None for value in (found.lo, found.hi)]
            row |= {"range": finite, "range_source": found.source, "hazards": list(found.hazards)}
    for key, ends in decisions.seen.items():
        rows[key]["seen"] = list(ends)
    return Plan(
        model={"name": name, "fingerprint": fingerprint(checkpoint)},
        options={key: list(v) if isinstance(v, tuple) else v for key, v in options.items()},
        calibration=calibration or {},
        totals={
            **(totals or {}),
            "weight_bytes": sum(choice.bytes for choice in decisions.chosen) + decisions.fixed_bytes,
            "kv_cache_bytes_per_position": sum(
                _cache_bytes(op, rows[op.at, op.op]["kv_cache"]) for op in decisions.operations if op.stored == "cache"
            ),
            "weight_bytes_bf16": 2 * sum(decisions.elements.values()),
        },
        tensors=tensors,
        ops=list(rows.values()),
        arrays=arrays,
    )


def _cache_bytes(op: Operation, name: str) -> int:
    """Bytes of one position of one sequence: keys and values of all heads."""
    _, planes, heads, _, size = op.result
    return planes * heads * size * PLAIN_BITS[name] // 8


def fits_f16(peak: float) -> bool:
    """Whether f16 holds a cache that a text put `peak` into, and what other texts may."""
    return peak * _HEADROOM <= _F16_LARGEST


def _cache_row(op: Operation, cache: CacheDecision, peak: float | None) -> dict[str, Any]:
    row = {"at": op.at, "op": op.op, "weight": None, "activation": "f32", "accumulate": "f32", "kv_cache": cache.format}
    if peak is None:
        return row | {"reason": cache.reason}
    row["peak"] = peak
    if cache.format == "f16" and not fits_f16(peak):
        reason = f"overflow: the text reached {peak:.3g}, f16 holds {_F16_LARGEST:,.0f}"
        return row | {"kv_cache": "f32", "reason": reason}
    return row | {"reason": f"{cache.reason}, the text reached {peak:.3g}"}


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _row(op: Operation, decision: tuple[DecisionGroup, Choice] | None, scaled: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"at": op.at, "op": op.op}
    if decision is None:
        row |= {"weight": None, "activation": "f32", "accumulate": "f32", "kv_cache": None}
        if scaled is not None:
            return row | {
                "reason": f"kept: computes in f32, its weight divided by what the columns of {scaled} are scaled with"
            }
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
    if choice.seconds is not None:
        row["seconds"] = choice.seconds
    return row
