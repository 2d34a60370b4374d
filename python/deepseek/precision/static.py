"""A plan from shapes alone: no text, and no weights either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from deepseek.errors import InputError
from deepseek.formats import find_format
from deepseek.precision.assemble import CacheDecision, Decisions, assemble, undecided_bytes
from deepseek.precision.graph import describe_to_plan, operations_of, weight_elements
from deepseek.precision.groups import DecisionGroup, formats_for, group_operations, stored_bytes
from deepseek.precision.memory import predicted_memory
from deepseek.precision.plan import Plan
from deepseek.precision.planner import PlanOptions
from deepseek.precision.select import Choice
from deepseek.precision.weights import round_to_nearest, values_of

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint

__all__ = ["static_plan"]

# What a product of a layer may be without data, best first: 8 bits lose what training tolerates (Micikevicius et al.
# 2022, "FP8 formats for deep learning"), 4 bits need a look at the weights.
_NARROW = ("fp8_e4m3_row", "int8_row", "q8_0", "int8_g64", "fp8_e5m2_row")
# What first and last matrices are: their errors reach every token unaveraged.
_WIDE = ("bf16", "f16", "f32")


def static_plan(checkpoint: Checkpoint, options: PlanOptions) -> Plan:
    """Products of layers in 8 bits, embeddings and heads in 16, as far as `options.formats` allow; all else as it is.

    That is what mixed precision's lists do (products narrow, norms, softmax and sums in f32), with 8 bits for 16.
    Weights are rounded to nearest. Raises `InputError` for a budget: without data nothing says what may be given up.
    """
    from deepseek.compiler import lower_text

    if options.max_bytes is not None or options.max_perplexity_increase is not None:
        raise InputError("a plan without data keeps no budget: leave the budget out, or give a model with its weights")
    info, text = describe_to_plan(checkpoint)
    text = lower_text(text, target=options.target, to_phase="import")
    operations = operations_of(text)
    groups = group_operations(operations)
    chosen = [_choose(group, options) for group in groups]
    arrays: dict[str, np.ndarray] = {}
    if not checkpoint.shapes_only:
        for group, choice in zip(groups, chosen):
            for weight, (_, columns) in zip(group.weights, group.shapes):
                form = find_format(choice.weight, columns)
                arrays[weight] = round_to_nearest(values_of(checkpoint.tensors[weight]), form)
    elements = weight_elements(text)
    fixed = undecided_bytes(checkpoint, elements, groups)
    decisions = Decisions(operations, groups, chosen, elements, fixed)
    if options.kv_cache != "auto":
        decisions = replace(decisions, cache=CacheDecision.asked(options.kv_cache))
    plan = assemble(checkpoint, info.name, decisions, asdict(options) | {"rounding": "rtn"}, arrays)
    if arrays:
        plan.totals["memory"] = predicted_memory(checkpoint, plan, options.target)
    return plan


def _choose(group: DecisionGroup, options: PlanOptions) -> Choice:
    allowed = formats_for(group, options.formats)
    if not allowed:
        raise InputError(
            f"{group.name} can have none of the formats {', '.join(options.formats)}: its rows have "
            f"{group.shapes[0][1]} numbers, which are not whole blocks; allow bf16 too"
        )
    preferred: Sequence[str] = _NARROW if "/" in group.name and group.has_product else _WIDE
    name = next((name for name in preferred if name in allowed), None)
    if name is None:  # the widest there is
        name = max(allowed, key=lambda n: stored_bytes(group, n))
    narrow = bool(find_format(name, group.shapes[0][1]).codes)
    activation = options.activation if narrow and group.has_product else "f32"
    return Choice(name, activation, stored_bytes(group, name), None)
