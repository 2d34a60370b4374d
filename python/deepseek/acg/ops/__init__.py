"""The array functions, by theme; importing this package fills array.FUNCTIONS."""

from __future__ import annotations

from . import bits, blocks, create, elementwise, formula, index, layout, order, quantize, random, reduce, window

__all__ = [
    "bits",
    "blocks",
    "create",
    "elementwise",
    "formula",
    "index",
    "layout",
    "order",
    "quantize",
    "random",
    "reduce",
    "window",
]
