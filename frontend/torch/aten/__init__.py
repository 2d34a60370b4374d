"""ATen operations as ACG functions, by theme; importing this package fills the registry."""

from __future__ import annotations

from . import (
    create,
    distances,
    elementwise,
    gamma,
    groups,
    indefinite,
    index,
    layout,
    nn,
    orthogonal,
    polynomials,
    products,
    random,
    reduce,
    resample,
    solve,
    special,
    transformer,
    windows,
)

from . import complexes, fourier  # isort: skip (takes what the others hold, part by part)
from . import prims  # isort: skip (names what the others hold)

__all__ = [
    "complexes",
    "create",
    "distances",
    "elementwise",
    "fourier",
    "gamma",
    "groups",
    "indefinite",
    "index",
    "layout",
    "nn",
]
__all__ += [
    "orthogonal",
    "polynomials",
    "prims",
    "products",
    "random",
    "reduce",
    "resample",
    "solve",
    "special",
    "transformer",
    "windows",
]
