"""The array functions, by theme; importing this package fills array.FUNCTIONS."""

from __future__ import annotations

from . import blocks, create, elementwise, index, layout, reduce

__all__ = ["blocks", "create", "elementwise", "index", "layout", "reduce"]
