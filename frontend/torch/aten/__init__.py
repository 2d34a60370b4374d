"""ATen operations as ACG functions, by theme; importing this package fills the registry."""

from __future__ import annotations

from . import create, elementwise, gamma, index, layout, nn, products, reduce, special, windows

from . import prims  # isort: skip (names what the others hold)

__all__ = ["create", "elementwise", "gamma", "index", "layout", "nn", "prims", "products", "reduce", "special", "windows"]
