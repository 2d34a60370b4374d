"""What calibration remembers, as arrays by name and plain numbers: exactly, so that plans from either are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepseek.precision.torch.collect import Collected, SiteStatistics
from deepseek.precision.torch.program import TorchProgram

__all__ = ["Saved", "restored", "stored"]

Saved = tuple[dict[str, np.ndarray], dict[str, Any]]

_SYMMETRIC = ("hessian", "rounding")
_VECTORS = ("energy", "peaks", "exponents")
_NUMBERS = ("low", "high", "weight")


def stored(fitted: Collected, judged: Collected, held_out: Sequence[Any]) -> Saved:
    """Arrays (of symmetric matrices the upper triangle, row by row), and the numbers of every site."""
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, Any] = {"pairs": any(isinstance(window, tuple) for window in held_out)}
    for number, window in enumerate(held_out):
        for part, array in enumerate(window if isinstance(window, tuple) else (window,)):
            arrays[f"window.{number}.{part}"] = np.ascontiguousarray(array, np.int32)
    for name, collected in (("fitted", fitted), ("judged", judged)):
        numbers[name] = {
            "positions": collected.positions,
            "inputs": collected.inputs,
            "cache_peaks": collected.cache_peaks,
            "sites": {at: [getattr(s, key) for key in _NUMBERS] for at, s in collected.sites.items()},
        }
        for at, statistics in collected.sites.items():
            for key in _SYMMETRIC + _VECTORS:
                value = getattr(statistics, key)
                if value is not None and value.numel():
                    arrays[f"{name}.{key}.{at}"] = (_upper(value) if key in _SYMMETRIC else value).numpy()
    return arrays, numbers


def restored(
    program: TorchProgram, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]
) -> tuple[Collected, Collected, list[Any]]:
    """(fitted, judged, held-out windows) of what `stored` gave. Raises KeyError and ValueError for what it did not."""
    windows: list[Any] = []
    while f"window.{len(windows)}.0" in arrays:
        parts = [arrays[f"window.{len(windows)}.{part}"].copy() for part in range(1 + numbers["pairs"])]
        windows.append(tuple(parts) if numbers["pairs"] else parts[0])
    return _collected(program, arrays, numbers, "fitted"), _collected(program, arrays, numbers, "judged"), windows


def _collected(
    program: TorchProgram, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any], name: str
) -> Collected:
    head = numbers[name]
    result = Collected(inputs=head["inputs"], cache_peaks=head["cache_peaks"], positions=head["positions"])
    for site in program.sites():
        known = dict(zip(_NUMBERS, head["sites"][site.at]))
        found: dict[str, Tensor | None] = {}
        for key in _SYMMETRIC + _VECTORS:
            array = arrays.get(f"{name}.{key}.{site.at}")
            value = None if array is None else torch.from_numpy(array.copy())
            found[key] = _whole(value) if value is not None and key in _SYMMETRIC else value
        for key in ("hessian", "energy"):
            found[key] = torch.empty(0) if found[key] is None else found[key]
        result.sites[site.at] = SiteStatistics(site, **found, **known)
    return result


def _upper(matrix: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*matrix.shape)
    return matrix[rows, columns]


def _whole(upper: Tensor) -> Tensor:
    size = int((2 * len(upper)) ** 0.5)
    rows, columns = torch.triu_indices(size, size)
    matrix = torch.empty(size, size)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix
