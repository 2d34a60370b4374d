"""Sizes of an exported graph: names and ranges of its symbols, and Python's functions on them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch

from deepseek import ACG
from deepseek.acg import source
from deepseek.errors import CompileError


class DimNames:
    """Names and ranges of the symbols of a graph."""

    def __init__(self, ranges: Mapping[Any, Any]) -> None:
        self.ranges = ranges
        self.names: dict[Any, str] = {}
        self.where: dict[Any, tuple[str, int]] = {}
        self.inputs: list[str] = []
        self.sizes: dict[Any, Any] = {}
        self.bounds: dict[str, tuple[int, float]] = {}

    def of(self, path: str, val: torch.Tensor) -> tuple[Any, ...]:
        """Per dim a number, a named dim, or None for a size that is an expression in others."""
        self.inputs.append(path)
        found: list[Any] = []
        for axis, n in enumerate(val.shape):
            if not isinstance(n, torch.SymInt) or n.node.expr.is_number:
                found.append(int(n))
                continue
            symbol = n.node.expr
            if not symbol.is_symbol:
                found.append(None)
                continue
            name = self.names.setdefault(symbol, f"{path}_{axis}")
            self.where.setdefault(symbol, (path, axis))
            bounds = self.ranges.get(symbol)
            low = int(bounds.lower) if bounds is not None and bounds.lower > 2 else 0
            high = int(bounds.upper) if bounds is not None and bounds.upper < 2**31 else None
            self.bounds[name] = (low, math.inf if high is None else high)
            found.append(ACG.dim(name, low, high))
        return (*found, 2) if val.is_complex() else tuple(found)

    def learn(self, values: Any) -> None:
        """What the symbols are in the trace that runs."""
        shapes = dict(zip(self.inputs, values))
        self.sizes = {symbol: shapes[path].shape[axis] for symbol, (path, axis) in self.where.items()}

    def size(self, value: Any) -> Any:
        """The size that a symbolic number argument stands for."""
        expr = value.node.expr
        if expr in self.sizes:
            return self.sizes[expr]
        raise CompileError(f"the number argument {expr} is not the size of any tensor argument: pass it as a tensor")


def python_function(target: Any, args: Any, kwargs: Any) -> Any:
    """Python's and torch's functions on sizes and containers."""
    if target is operator.getitem:
        return args[0][args[1]]
    if target in (torch.sym_max, max):
        return ACG.max_dim(*args)
    if target in (torch.sym_min, min):
        return ACG.min_dim(*args)
    if target is torch.sym_int:
        return int(args[0]) if isinstance(args[0], float) else args[0]
    if target is torch.sym_float:
        return float(args[0])
    if target is torch.sym_not:
        return not args[0]
    if target is torch.sym_ite:
        return args[1] if args[0] else args[2]
    if target in (math.trunc, math.floor, math.ceil) or getattr(target, "__module__", "") in (
        "_operator",
        "math",
        "builtins",
    ):
        return target(*args, **kwargs)
    if getattr(target, "__module__", "").startswith("torch") and all(isinstance(a, (int, float, bool)) for a in args):
        return target(*args, **kwargs)
    source.fail(f"the Python function {getattr(target, '__name__', target)} is not supported in a graph")
