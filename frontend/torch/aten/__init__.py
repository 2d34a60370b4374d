"""ATen operations as ACG functions, by theme; importing this package fills the registry."""

from __future__ import annotations

from . import (
    create,
    distances,
    elementwise,
    gamma,
    groups,
    index,
    layout,
    nn,
    orthogonal,
    products,
    reduce,
    resample,
    solve,
    special,
    windows,
)

from . import prims  # isort: skip (names what the others hold)

__all__ = [
    "create",
    "distances",
    "elementwise",
    "gamma",
    "groups",
    "index",
    "layout",
    "nn",
    "orthogonal",
    "prims",
    "products",
]
__all__ += ["reduce", "resample", "solve", "special", "windows"]
