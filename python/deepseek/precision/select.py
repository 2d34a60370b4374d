"""Which format each group of weights gets: a multiple-choice knapsack, solved exactly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from deepseek.errors import InputError

__all__ = ["Choice", "Group", "least_cost", "least_error"]


@dataclass(frozen=True)
class Choice:
    """One way to store and read a group: its formats, bytes, predicted mean KL divergence in nats (None: unknown), and the
    seconds that its products take for one token (None: not measured)."""

    weight: str
    activation: str
    bytes: int
    error: float | None
    seconds: float | None = None


@dataclass(frozen=True)
class Group:
    """Operations that share their decision: those that read one input or one weight. `choices` are all legal ones."""

    name: str
    choices: tuple[Choice, ...]


def least_error(groups: Sequence[Group], max_bytes: int) -> list[Choice]:
    """The choices of least total error within `max_bytes`. Raises `InputError` when nothing is that small."""
    smallest = sum(min(choice.bytes for choice in group.choices) for group in groups)
    if smallest > max_bytes:
        largest = max(groups, key=lambda group: min(choice.bytes for choice in group.choices))
        raise InputError(
            f"no plan has {max_bytes:,} bytes of decided weights: the formats that are allowed need at least "
            f"{smallest:,}; the largest part is {largest.name} with {min(c.bytes for c in largest.choices):,}"
        )
    return _solve(groups, "error", "bytes", max_bytes)


def least_cost(groups: Sequence[Group], cost: str, max_error: float) -> list[Choice]:
    """The choices of least "bytes" or "seconds" whose predicted errors sum to at most `max_error`. Raises `InputError`."""
    smallest = sum(min(choice.error for choice in group.choices) for group in groups)
    if smallest > max_error:
        worst = max(groups, key=lambda group: min(choice.error for choice in group.choices))
        raise InputError(
            f"no plan keeps the predicted divergence at {max_error:.2e} nats: the formats that are allowed reach "
            f"{smallest:.2e} at best; most of it comes from {worst.name}"
        )
    return _solve(groups, cost, "error", max_error)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keeps the solver, which prints lines of its own now and then, off stdout."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _solve(groups: Sequence[Group], cost_of: str, weight_of: str, limit: float) -> list[Choice]:
    """Minimizes the sum of one property of choices, one choice per group, while that of another keeps the limit."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    counts = [len(group.choices) for group in groups]
    starts = np.concatenate([[0], np.cumsum(counts)])
    total = int(starts[-1])
    rows = np.repeat(np.arange(len(groups)), counts)
    one_each = csr_matrix((np.ones(total), (rows, np.arange(total))), shape=(len(groups), total))
    cost, weight = (
        np.array([getattr(choice, name) for group in groups for choice in group.choices], float)
        for name in (cost_of, weight_of)
    )
    scale_cost, scale_weight = max(cost.max(), 1e-300), max(weight.max(), 1e-300)
    with _silenced():
        result = milp(
            cost / scale_cost,
            integrality=np.ones(total),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(weight[None] / scale_weight, -np.inf, limit / scale_weight),
            ],
            options={"mip_rel_gap": 1e-5},
        )
    if result.x is None:
        raise InputError(f"the choice of formats could not be solved: {result.message}")
    picked = [int(np.argmax(result.x[starts[i] : starts[i + 1]])) for i in range(len(groups))]
    return [group.choices[i] for group, i in zip(groups, picked)]
