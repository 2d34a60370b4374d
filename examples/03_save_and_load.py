"""Compile ahead of time: the file runs where there is no compiler, and begins at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import deepseek
from deepseek import ACG


def attend(q, k, v):
    return ACG.softmax(q @ ACG.swapaxes(k, -1, -2) / 8.0) @ v


example = np.zeros((5, 64), np.float32)
graph = ACG.trace(attend, example, example, example, dims={"q": ("queries", 64), "k": ("keys", 64), "v": ("keys", 64)})

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "attend.dsc"
    graph.compile().save(path)
    program = deepseek.load(path)

    q, k, v = (np.random.default_rng(i).standard_normal((n, 64), dtype=np.float32) for i, n in enumerate((3, 9, 9)))
    print(program(q, k, v).shape)
    try:
        program(q, k, v[:5])
    except deepseek.InputError as error:
        print(f"refused: {error}")
