"""Distances between rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepseek import ACG

from ..registry import aten
from .reduce import linalg_vector_norm


def _norm(difference: Any, p: float) -> Any:
    if isinstance(difference.shape[-1], int) and difference.shape[-1] == 0:
        return ACG.zeros(difference.shape[:-1], difference.type)
    return linalg_vector_norm(difference, math.inf if p == math.inf else p, -1)


@aten("_cdist_forward", "_euclidean_dist")
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """[.., m, d] and [.., n, d] to [.., m, n]; differences are taken first, so near rows lose no digits."""
    return _norm(ACG.subtract(ACG.expand_dims(x1, -2), ACG.expand_dims(x2, -3)), p)


@aten("_pdist_forward")
def pdist(self: Any, p: float = 2.0) -> Any:
    """Of all pairs of rows i < j, in that order."""
    first, second = np.triu_indices(int(self.shape[0]), 1)
    if not first.size:
        return ACG.zeros((0,), self.type)
    rows = [ACG.take(self, ACG.asarray(side.astype(np.int64)), axis=0) for side in (first, second)]
    return _norm(ACG.subtract(*rows), p)
