"""ACG: array functions in Python, traced and compiled to machine code.

    from deepseek import ACG

    @ACG.compile
    def model(x):
        return x * 2 + 3

numpy arrays or torch tensors in, the same kind out. Tracing needs numpy only and loads no compiler.
"""

from __future__ import annotations

from . import ops
from .array import FUNCTIONS, Array
from .graph import Graph, load
from .jit import compile
from .source import scope
from .symint import SymInt, max_dim, min_dim
from .tracing import dim, spec, trace, weight

_functions = {name: fn for name, fn in FUNCTIONS.items() if not name.startswith("_")}
globals().update(_functions)

__all__ = ["Array", "Graph", "SymInt", "compile", "dim", "load", "max_dim", "min_dim", "ops", "scope", "spec", "trace"]
__all__ += ["weight"]
__all__ += list(_functions)
