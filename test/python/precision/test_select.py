"""The knapsack against every combination of small instances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deepseek.errors import InputError
from deepseek.precision.select import Choice, Group, least_cost, least_error


def instance(seed: int) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(
            f"g{i}",
            tuple(Choice(f"f{j}", "f32", int(rng.integers(1, 1000)), float(rng.exponential())) for j in range(4)),
        )
        for i in range(5)
    ]


def totals(chosen) -> tuple[int, float]:
    return sum(c.bytes for c in chosen), sum(c.error for c in chosen)


@pytest.mark.parametrize("seed", range(8))
def test_least_error_is_the_best_of_all(seed):
    groups = instance(seed)
    everything = [totals(c) for c in itertools.product(*(g.choices for g in groups))]
    for limit in np.quantile([size for size, _ in everything], [0.0, 0.05, 0.5, 1.0]).astype(int):
        best = min(error for size, error in everything if size <= limit)
        size, error = totals(least_error(groups, int(limit)))
        assert size <= limit and error == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_least_cost_is_the_best_of_all(seed):
    groups = instance(seed)
    everything = [totals(c) for c in itertools.product(*(g.choices for g in groups))]
    for limit in np.quantile([error for _, error in everything], [0.01, 0.3, 1.0]):
        best = min(size for size, error in everything if error <= limit)
        size, error = totals(least_cost(groups, "bytes", float(limit)))
        assert error <= limit * (1 + 1e-6) and size <= best * (1 + 1e-4)


def test_impossible_budgets_say_what_blocks_them():
    groups = instance(0)
    least = sum(min(c.bytes for c in g.choices) for g in groups)
    with pytest.raises(InputError, match=f"need at least {least:,}; the largest part is g[0-4]"):
        least_error(groups, least - 1)
    with pytest.raises(InputError, match="at best; most of it comes from g[0-4]"):
        least_cost(groups, "bytes", 1e-9)
